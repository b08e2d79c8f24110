//! The pipeline of docs/gitops.md: its scripts, a git repository, and the loop that applies the
//! repository's content.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::command::{command, output, output_with_input};
use onionbalance_e2e::page::Page;
use onionbalance_e2e::state::source_tree;
use onionbalance_e2e::wait::{Seen, until};
use tokio::process::{Child, Command};

use crate::scene::{SOON, Scene};

/// The interval between two applies.
const INTERVAL: Duration = Duration::from_secs(3);

/// A git repository, a user's clone of it, and the loop that applies the repository's content.
pub struct Pipeline {
    page: Page,
    dir: PathBuf,
    namespace: String,
    /// The environment variables of every script. They put a current kubectl before this machine's
    /// own in `PATH`, give kubectl a cache of this cluster's APIs, and name the author of commits.
    environment: Vec<(&'static str, String)>,
    applier: RefCell<Option<Child>>,
}

impl Pipeline {
    /// Creates an empty repository and clones it.
    pub async fn set(scene: &Scene) -> Result<Self> {
        let page = Page::open("gitops.md")?;
        let dir = scene.fresh_folder()?;
        let kubectl = source_tree().join("e2e/setup/kubectl.sh").display().to_string();
        let kubectl = PathBuf::from(output(&mut command::<&str>(&kubectl, [])).await?.trim());
        let programs = kubectl.parent().context("the path of kubectl has no folder")?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
        let mut environment = vec![
            ("PATH", path),
            ("KUBECONFIG", scene.kubeconfig().display().to_string()),
            ("KUBECACHEDIR", dir.join("kubectl-cache").display().to_string()),
            ("INTERVAL", INTERVAL.as_secs().to_string()),
            ("TMPDIR", dir.display().to_string()),
        ];
        for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
            environment.push((name, "shop@example.org".to_owned()));
        }
        let namespace = scene.namespace().to_owned();
        let pipeline = Self { page, dir, namespace, environment, applier: RefCell::new(None) };
        pipeline.run("git init --quiet --bare --initial-branch=main origin", &pipeline.dir).await?;
        pipeline.run("git clone --quiet origin clone", &pipeline.dir).await?;
        Ok(pipeline)
    }

    /// Returns the text of a named block of docs/gitops.md.
    pub fn file(&self, name: &str) -> Result<&str> {
        self.page.file(name)
    }

    /// Runs one of the scripts of docs/gitops.md in the clone and returns its output.
    pub async fn script(&self, name: &str, argument: &str) -> Result<String> {
        let mut script = self.command("sh", &self.checkout());
        script.arg(self.write_script(name)?).arg(argument);
        let printed = output(&mut script).await.with_context(|| name.to_owned())?;
        eprintln!("$ {name} {argument}\n{printed}");
        Ok(printed)
    }

    /// Runs one of the scripts of docs/gitops.md with the namespace as its argument and returns its
    /// output.
    pub async fn script_here(&self, name: &str) -> Result<String> {
        self.script(name, &self.namespace).await
    }

    /// Runs the current kubectl in the namespace. `arguments` are separated by single spaces.
    pub async fn kubectl(&self, arguments: &str) -> Result<String> {
        let mut kubectl = self.command("kubectl", &self.dir);
        output(kubectl.args(["--namespace", &self.namespace]).args(arguments.split(' '))).await
    }

    /// Writes a file in the clone.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.checkout().join(name), text)?)
    }

    /// Replaces a text that must occur exactly once in a file of the clone.
    pub fn change(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.checkout().join(name))?;
        ensure!(text.matches(from).count() == 1, "{name} must contain {from:?} exactly once:\n{text}");
        self.write(name, &text.replace(from, to))
    }

    /// Runs git in the clone. `arguments` are separated by single spaces.
    pub async fn git(&self, arguments: &str) -> Result<()> {
        self.run(&format!("git {arguments}"), &self.checkout()).await
    }

    /// Commits and pushes all changes.
    pub async fn commit(&self, message: &str) -> Result<()> {
        self.git("add --all").await?;
        self.git(&format!("commit --quiet --message {message}")).await?;
        self.git("push --quiet --set-upstream origin HEAD").await
    }

    /// Starts the loop that applies the repository's content.
    pub fn start(&self) -> Result<()> {
        let mut applier = self.command("sh", &self.dir);
        applier.arg(self.write_script("pipeline.sh")?).arg(self.dir.join("origin")).arg(&self.namespace);
        let log = File::create(self.log())?;
        applier.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log).kill_on_drop(true);
        *self.applier.borrow_mut() = Some(applier.spawn()?);
        Ok(())
    }

    /// Waits until the loop has completed the given number of further applies. Returns an error if
    /// the loop has failed.
    pub async fn applies(&self, times: usize) -> Result<()> {
        // One apply may be in progress already.
        let wanted = self.applied()? + times + 1;
        until(
            &format!("the pipeline has applied {times} more times"),
            SOON + INTERVAL * u32::try_from(times)?,
            async || {
                let applied = self.applied()?;
                Ok(if applied >= wanted {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(format!("{applied} of {wanted} applies are done"))
                })
            },
        )
        .await
    }

    /// Returns the number of times that the web app, which is always in the repository, has been
    /// applied.
    fn applied(&self) -> Result<usize> {
        let log = self.printed()?;
        Ok(log.matches("deployment.apps/web serverside-applied").count())
    }

    /// Returns the loop's output so far, or an error if the loop has exited. It exits when an apply
    /// fails.
    pub fn printed(&self) -> Result<String> {
        let log = fs::read_to_string(self.log())?;
        let ended = self.applier.borrow_mut().as_mut().context("the pipeline was not started")?.try_wait()?;
        ensure!(ended.is_none(), "the pipeline has ended: {ended:?}\n{log}");
        Ok(log)
    }

    /// Returns the health status that the Argo CD health check of docs/gitops.md assigns to an
    /// object.
    pub async fn health(&self, object: &serde_json::Value) -> Result<String> {
        let config: serde_json::Value = serde_saphyr::from_str(self.file("argocd-cm.yaml")?)?;
        let check = config["data"]["resource.customizations.health.onionbalance.dev_OnionBalancedService"].as_str();
        let check = check.context("argocd-cm.yaml has no health check")?;
        let program =
            format!("obj = {}\nlocal function check()\n{check}\nend\nprint(check().status)\n", lua_literal(object));
        let status = output_with_input(self.command("lua5.1", &self.dir).arg("-"), &program).await?;
        Ok(status.trim().to_owned())
    }

    fn write_script(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, self.file(name)?)?;
        Ok(path)
    }

    async fn run(&self, line: &str, dir: &Path) -> Result<()> {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default(), dir);
        output(command.args(words)).await.map(drop)
    }

    fn command(&self, program: &str, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).current_dir(dir);
        command
    }

    fn checkout(&self) -> PathBuf {
        self.dir.join("clone")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("pipeline.log")
    }
}

/// Returns a value as a Lua 5.1 literal. In strings, all bytes except letters and digits are
/// escaped as numbers.
fn lua_literal(value: &serde_json::Value) -> String {
    use serde_json::Value;
    let text = |text: &str| {
        let escaped = text.bytes().map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("\\{byte:03}"),
        });
        format!("\"{}\"", escaped.collect::<String>())
    };
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(string) => text(string),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua_literal).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let fields = map.iter().map(|(key, value)| format!("[{}]={}", text(key), lua_literal(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}
