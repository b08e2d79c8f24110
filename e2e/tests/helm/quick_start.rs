//! Runs the commands of `docs/quick-start.md` in order, as a reader would, and compares their
//! output with the page.

use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, Result};
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::helm::Helm;
use onionbalance_e2e::page::Page;
use onionbalance_e2e::state::source_tree;
use tokio::time::{Instant, timeout};

use crate::page::{compare, steps};
use crate::scene::Scene;
use crate::{alone, tor_network_file};

const STEP: Duration = Duration::from_secs(360);

#[tokio::test]
async fn the_quick_start_commands_work_as_documented() -> Result<()> {
    alone("quick-start", async |scene| {
        let helm = Helm::open(scene.state()).await?;
        let client = scene.tor_client().await?;
        let page = std::fs::read_to_string(source_tree().join("docs/quick-start.md"))?;
        let page = Page::of("quick-start.md", &on_this_cluster(&page, scene, client.socks())?);
        // The page assumes that its commands run in the source tree, but the files that they write
        // must not stay there.
        let folder = tempfile::tempdir()?;
        symlink(source_tree().join("charts"), folder.path().join("charts"))?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::copy(scene.kubeconfig(), &kubeconfig)?;
        let namespace = format!("kubectl config set-context --current --namespace={}", scene.namespace());
        let path = format!("{}:{}", helm.folder()?.display(), std::env::var("PATH")?);
        let run = async |commands: &str| {
            let mut bash = command("bash", ["-euo", "pipefail", "-c", commands]);
            bash.current_dir(folder.path())
                .env("KUBECONFIG", &kubeconfig)
                .env("HOME", folder.path())
                .env("PATH", &path);
            timeout(STEP, output(&mut bash))
                .await
                .with_context(|| format!("these commands did not finish in time: {commands}"))?
        };
        run(&namespace).await?;
        for step in steps(&page)? {
            let start = Instant::now();
            let printed = run(&step.commands).await?;
            eprintln!(
                "$ {}\n{printed}({:.1} s)\n",
                step.commands.trim_end().replace('\n', "\n> "),
                start.elapsed().as_secs_f64()
            );
            compare(&step.shown, &printed).with_context(|| format!("$ {}\n{printed}", step.commands))?;
        }
        client.remove().await
    })
    .await
}

/// Replaces everything in the page that differs on this cluster: the image registry, the tags of
/// the images, the Tor network, the Tor client, and the web app.
fn on_this_cluster(page: &str, scene: &Scene, socks: &str) -> Result<String> {
    let network = format!("--create-namespace --set-file torExtraConfig={}", tor_network_file(scene)?.display());
    let mut page = page.to_owned();
    for (documented, here) in [
        ("registry.example.org/", "localhost/"),
        ("image.tag=0.1.0", "image.tag=dev"),
        ("tor.image.tag=0.4.8", "tor.image.tag=dev"),
        ("--create-namespace", &network),
        ("docker.io/nginxinc/nginx-unprivileged", "localhost/onionbalance-sample:dev"),
        ("127.0.0.1:9050", socks),
        ("<title>Welcome to nginx!</title>", "Hello from web-…, called by …"),
    ] {
        anyhow::ensure!(page.contains(documented), "the page no longer contains {documented}");
        page = page.replace(documented, here);
    }
    Ok(page)
}
