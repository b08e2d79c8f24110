//! Checks the Debian package that `make deb` builds: installs it into an empty root folder with
//! dpkg, runs the daemon with the unit's settings and the user that the package creates, and
//! removes the package. Another test checks the completion of the kubectl plugin. These tests are
//! part of `make test-e2e`. They need root, because dpkg does.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::state::source_tree;
use onionbalance_e2e::wait::{Seen, until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

const PACKAGE: &str = "onionbalance-daemon";
const UNIT: &str = "usr/lib/systemd/system/onionbalance-daemon.service";
const DAEMON: &str = "daemon";
const PLACEHOLDER: &str = "<Enter the instance onion address here>";
/// The onion address of an instance that does not exist.
const INSTANCE: &str = "5psu37fp4uxj6axrwnkotcukfk6tsj3eyd347p2fs3fjox6u3hqtk2ad.onion";

#[tokio::test]
async fn the_package_installs_runs_and_leaves_the_keys() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // The daemon's user must be able to enter the folder.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let package = build(dir.path(), "022", "UTC").await?;
    let again = build(&dir.path().join("again"), "077", "Pacific/Auckland").await?;
    ensure!(fs::read(&package)? == fs::read(again)?, "two builds of the package differ");

    let root = Root::new(&dir)?;
    root.dpkg(&["--install", &package.display().to_string()]).await?;
    let changed = root.dpkg(&["--verify", PACKAGE]).await?;
    ensure!(changed.is_empty(), "these files differ from the package's checksums: {changed}");
    root.check_unit().await?;
    root.check_pages().await?;
    root.run_daemon().await?;

    root.dpkg(&["--purge", PACKAGE]).await?;
    ensure!(!root.path("usr").exists(), "the package left files behind");
    ensure!(root.path("etc/onionbalance/config.yaml").exists(), "the package removed the configuration");
    Ok(())
}

#[tokio::test]
async fn kubectl_completes_the_commands_of_the_plugin() -> Result<()> {
    let programs = Path::new(env!("CARGO_BIN_EXE_e2e")).parent().context("the program has no folder")?;
    let path = std::env::var("PATH")?;
    let script = source_tree().join("deploy/plugin/kubectl_complete-onionbalance").display().to_string();
    for (words, expected) in [(&["sta"][..], "status\n:4\n"), (&["key", "del"][..], "delegate\n:4\n")] {
        let mut complete = command(&script, words);
        let completed = output(complete.env("PATH", format!("{}:{path}", programs.display()))).await?;
        ensure!(completed == expected, "{words:?} is completed to {completed:?}");
    }
    Ok(())
}

/// Builds the package, as `make deb` does, in an environment of its own. Returns its path.
async fn build(folder: &Path, umask: &str, time_zone: &str) -> Result<PathBuf> {
    let (programs, pages) = (folder.join("programs"), folder.join("pages"));
    fs::create_dir_all(&programs)?;
    for name in ["onionbalance", "onionbalance-config"] {
        let program = Path::new(env!("CARGO_BIN_EXE_e2e")).with_file_name(name);
        // The programs of a debug build are large.
        output(command("strip", ["-o"]).arg(programs.join(name)).arg(program)).await?;
    }
    output(&mut command(env!("CARGO_BIN_EXE_manual"), [&pages])).await?;
    let script = source_tree().join("e2e/setup/deb.sh").display().to_string();
    let mut build = command("sh", ["-c", r#"umask "$0"; exec "$@""#, umask, &script]);
    build.args([&programs, &pages]).env("OB_DEB", folder.join("deb")).env("TZ", time_zone);
    Ok(output(&mut build).await?.trim().into())
}

/// A root folder with an empty database of packages.
struct Root {
    path: PathBuf,
    processes: Processes,
}

impl Drop for Root {
    fn drop(&mut self) {
        self.processes.kill_all();
    }
}

impl Root {
    fn new(dir: &TempDir) -> Result<Self> {
        let path = dir.path().join("root");
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "etc"] {
            fs::create_dir_all(path.join(folder))?;
        }
        fs::write(path.join("var/lib/dpkg/status"), "")?;
        fs::write(path.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(path.join("etc/group"), "root:x:0:\n")?;
        Ok(Self { path, processes: Processes::open(dir.path())? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Runs dpkg on this root folder. The package's scripts run outside the folder, which contains
    /// no shell, and the packages that it depends on are not installed.
    async fn dpkg(&self, arguments: &[&str]) -> Result<String> {
        let mut dpkg = command("dpkg", ["--force-script-chrootless", "--force-depends"]);
        dpkg.arg("--root").arg(&self.path).args(arguments);
        output(&mut dpkg).await
    }

    /// Checks that the unit is enabled, that systemd understands it, and that it is confined.
    async fn check_unit(&self) -> Result<()> {
        let enabled = self.path("etc/systemd/system/multi-user.target.wants/onionbalance-daemon.service");
        ensure!(fs::read_link(&enabled)? == Path::new("/").join(UNIT), "the unit is not enabled");
        // systemd checks the paths of the programs.
        let unit = fs::read_to_string(self.path(UNIT))?;
        let program = self.path("usr/bin/onionbalance").display().to_string();
        let copy = self.path("onionbalance-daemon.service");
        fs::write(&copy, unit.replace("=/usr/bin/onionbalance\n", &format!("={program}\n")))?;
        let verify = r#"systemd-analyze verify --man=no "$0" 2>&1"#;
        let complaints = output(command("sh", ["-c", verify]).arg(&copy)).await?;
        ensure!(complaints.is_empty(), "systemd complains about the unit: {complaints}");
        // The exposure is at most 1.5 of 10.
        output(command("systemd-analyze", ["security", "--offline=true", "--threshold=15"]).arg(&copy)).await?;
        Ok(fs::remove_file(copy)?)
    }

    /// Checks that the manual page names an option, that the licences name a crate, and that bash
    /// completes an option.
    async fn check_pages(&self) -> Result<()> {
        for (file, words) in [
            ("man/man1/onionbalance.1.gz", r"status\-socket\-location"),
            ("doc/onionbalance-daemon/licences.gz", "\ned25519-dalek "),
        ] {
            let text = output(command("zcat", [""; 0]).arg(self.path("usr/share").join(file))).await?;
            ensure!(text.contains(words), "{file} does not contain {words:?}: {text}");
        }
        let complete = r#"source "$0" && COMP_WORDS=(onionbalance --conf) COMP_CWORD=1 &&
            _onionbalance onionbalance --conf onionbalance && echo "${COMPREPLY[@]}""#;
        let script = self.path("usr/share/bash-completion/completions/onionbalance");
        let completed = output(command("bash", ["-c", complete]).arg(script)).await?;
        ensure!(completed.trim() == "--config", "bash completes --conf to {completed:?}");
        Ok(())
    }

    /// Follows README.Debian, runs the daemon as its user, asks the status socket, and ends the
    /// daemon.
    async fn run_daemon(&self) -> Result<()> {
        let config = self.path("etc/onionbalance/config.yaml");
        let mut generate = command(&self.path("usr/bin/onionbalance-config").display().to_string(), ["-n", "1"]);
        output(generate.arg("--output").arg(self.path("etc/onionbalance"))).await?;
        let socket = self.path("run/onionbalance/control");
        let text = fs::read_to_string(&config)?.replace(PLACEHOLDER, INSTANCE);
        fs::write(&config, format!("{text}status-socket-location: {}\n", socket.display()))?;
        let user = self.user()?;
        fs::create_dir_all(self.path("run/onionbalance"))?;
        let mut give = command("chown", ["-R", &format!("{user}:{user}")]);
        output(give.arg(self.path("etc/onionbalance")).arg(self.path("run/onionbalance"))).await?;

        let mut daemon = Command::new("setpriv");
        daemon.args(["--pdeathsig", "KILL", "--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"]);
        daemon.arg("--").arg(self.path("usr/bin/onionbalance")).env("ONIONBALANCE_CONFIG", &config);
        daemon.arg("--socket").arg(self.path("run/no-tor")).env_remove("KUBERNETES_SERVICE_HOST").current_dir("/");
        self.processes.start(DAEMON, &mut daemon)?;
        let status = until("the daemon listens on its status socket", Duration::from_secs(60), async || {
            self.processes.check(DAEMON)?;
            let Ok(mut stream) = UnixStream::connect(&socket).await else { return Ok(Seen::not_yet("no socket")) };
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(Seen::Yes(serde_json::from_str::<Value>(&text)?))
        })
        .await?;
        let instance = &status["services"][0]["instances"][0]["onionAddress"];
        ensure!(instance == INSTANCE, "unexpected status {status}");
        let log = fs::read_to_string(self.processes.log(DAEMON))?;
        ensure!(!log.contains("other users can read this key"), "README.Debian leads to a warning: {log}");
        self.processes.signal(DAEMON, Signal::TERM)?;
        until("the daemon has removed its status socket and ended", Duration::from_secs(60), async || {
            let ended = !self.processes.is_alive(DAEMON) && !socket.exists();
            Ok(if ended { Seen::Yes(()) } else { Seen::not_yet("it is still running") })
        })
        .await
    }

    /// Returns the ID of the user that the package has created. Its group has the same ID.
    fn user(&self) -> Result<String> {
        let users = fs::read_to_string(self.path("etc/passwd"))?;
        let fields = users.lines().find_map(|line| line.strip_prefix("onionbalance:x:")).context("no user")?;
        Ok(fields.split(':').next().context("no ID")?.to_owned())
    }
}
