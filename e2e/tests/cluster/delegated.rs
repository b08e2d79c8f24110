//! Checks a service whose master key never enters the cluster: it is published with signing kits
//! for as long as they last.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use data_encoding::BASE64;
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::onionkey::{self, OnionKey};
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::service::Service;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::tornet::torrc::PERIOD_MINUTES;
use onionbalance_operator::crd::PublishedStatus;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use crate::scene::{FRONTEND, PUBLISHED, SOON, Scene, scene};

/// The length of a time period. The two time periods that are published change once in this time.
const PERIOD: Duration = Duration::from_secs(PERIOD_MINUTES as u64 * 60);
/// The shortest time that the kits of the test last: the service must be seen with all kits first.
const ENOUGH: Duration = Duration::from_secs(120);
/// The time after which a change of the time periods is visible everywhere. The operator looks once
/// a minute, and a new consensus may be 40 s late.
const NOTICED: Duration = Duration::from_secs(150);

/// The label selector of the backends of the object `web`.
const BACKEND: &str = "onionbalance.dev/service=web,app.kubernetes.io/component=backend";
/// The word with which a publisher logs that an HSDir has rejected a descriptor.
const REJECTED: &str = "UPLOAD_REJECTED";

const SPEC: &str = "  ports: [{port: 80, target: {service: {name: web, port: 80}}}]
  masterKey: {secretName: kits, delegated: true}
  backends: {replicas: 1, drainTimeoutSeconds: 5}
";

/// The machine with the master key, which is not part of the cluster.
pub struct Vault {
    pub key: OnionKey,
    _dir: TempDir,
}

impl Vault {
    /// Generates a master key.
    pub async fn set() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let key = onionkey::make(&Processes::open(dir.path())?, dir.path()).await?;
        Ok(Self { key, _dir: dir })
    }

    /// Returns the manifest of a Secret with a signing kit for this number of time periods, which
    /// begin with the older one of the two that are published now.
    async fn kits(&self, periods: u32) -> Result<String> {
        let program = plugin()?.display().to_string();
        let mut delegate = command(&program, ["key", "delegate"]);
        delegate.arg(&self.key.dir).args(["--secret", "kits", "--testing", &PERIOD_MINUTES.to_string()]);
        output(delegate.arg(periods.to_string())).await
    }
}

fn plugin() -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_e2e")).with_file_name("kubectl-onionbalance");
    program.canonicalize().with_context(|| format!("could not find {}; run cargo build first", program.display()))
}

/// Returns the time until the next change of the two time periods that are published.
#[expect(clippy::disallowed_methods, reason = "the private network uses the machine's clock")]
fn until_change() -> Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(Duration::from_secs(PERIOD.as_secs() - now % PERIOD.as_secs()))
}

/// Applies the manifest of a Secret as docs/offline-key.md says.
async fn apply(scene: &Scene, manifest: &str) -> Result<()> {
    scene.kubectl(&["apply", "--server-side", "-f", "-"], manifest).await?;
    Ok(())
}

/// Makes the kubelet update the volumes of the frontends at once, as docs/offline-key.md says.
async fn deliver(scene: &Scene, mark: &str) -> Result<()> {
    scene.run(&format!("annotate pods -l {FRONTEND} example.com/kits={mark} --overwrite")).await?;
    Ok(())
}

/// Returns the manifest with other bytes in place of its signing kit.
fn with_kit(manifest: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Result<String> {
    let (before, kit) = manifest.split_once("  signing.kit: ").context("the manifest has no signing kit")?;
    let kit = change(BASE64.decode(kit.trim_end().as_bytes())?);
    Ok(format!("{before}  signing.kit: {}\n", BASE64.encode(&kit)))
}

#[tokio::test]
#[ignore = "takes up to 16 minutes, because it waits for time periods to end"]
async fn a_service_is_published_as_long_as_its_signing_kits_last() -> Result<()> {
    scene("delegated", async |scene| {
        let vault = Vault::set().await?;
        if until_change()? < ENOUGH {
            sleep(until_change()?).await;
        }
        let end = Instant::now() + until_change()?;
        let onion = &vault.key.address;
        apply(scene, &vault.kits(2).await?).await?;
        let web = scene.apply("web", SPEC).await?;
        let (ready, begins) = ("SigningKeysReady", "The signing kits end at ");
        web.wait_condition_message(ready, "True", "SigningKeysExpiring", begins, SOON).await?;
        ensure!(web.onion_address().await? == *onion, "the object must have the address of the kits");
        wait_warning(scene, "SigningKeysExpiring").await?;
        web.wait_published(1, PUBLISHED).await?;
        let client = scene.tor_client().await?;
        serves(&client, onion, "kits").await?;

        bad_kits_lose_nothing(scene, &vault, &web, &client).await?;

        let left = end.saturating_duration_since(Instant::now());
        let missing = "No signing kit covers 1 of the 2 time periods";
        web.wait_condition_message(ready, "False", "SigningKeysMissing", missing, left + NOTICED).await?;
        wait_warning(scene, "SigningKeysMissing").await?;
        let condition = web.wait_condition("Ready", "False", SOON).await?;
        ensure!(condition.reason == "SigningKeysMissing", "unexpected condition {condition:?}");
        kits_end(scene, &web, &client, onion, end + PERIOD / 2).await?;

        apply(scene, &vault.kits(12).await?).await?;
        deliver(scene, "new").await?;
        let began = Instant::now();
        wait_serves(scene, &client, onion).await?;
        println!("figure signing_kits_restore_s {:.1} s", began.elapsed().as_secs_f64());
        web.wait_condition_message(ready, "True", "SigningKeysExpiring", begins, SOON).await?;
        are_published(scene, &web, 2).await?;
        client.remove().await
    })
    .await
}

/// Moves the service `web`, whose master key is the vault's in the Secret `secret`, to signing kits
/// and back. Meanwhile, every request must succeed, both from a client that always fetches new
/// descriptors and from one that keeps those that it has. No backend may restart.
pub async fn move_without_a_gap(scene: &Scene, vault: &Vault, web: &Service, secret: &str) -> Result<()> {
    let onion = &vault.key.address;
    apply(scene, &vault.kits(12).await?).await?;
    let unmoved = async || anyhow::Ok((scene.running(BACKEND).await?, web.agent_token().await?.to_hex()));
    let before = unmoved().await?;
    let (newcomer, regular) = (scene.tor_client().await?, scene.tor_client().await?);
    for (secret, delegated) in [("kits", true), (secret, false)] {
        tokio::select! {
            moved = move_to(scene, web, secret, delegated) => moved?,
            error = first_failure(&newcomer, onion, true) => return Err(error.context(format!("moving to {secret}"))),
            error = first_failure(&regular, onion, false) => return Err(error.context(format!("moving to {secret}"))),
        }
        let continues = async || match publisher_logs(scene).await {
            Ok(log) if log.contains(REJECTED) => bail!("the counters must continue: {log}"),
            Ok(_) => Ok(Ok(())),
            Err(error) => Ok(Err(format!("{error:#}"))),
        };
        scene.wait("the counters continue", SOON, continues).await?;
        serves(&newcomer, onion, secret).await?;
    }
    ensure!(unmoved().await? == before, "a move must change neither the backends nor the token");
    newcomer.remove().await?;
    regular.remove().await
}

/// Returns the logs of the publishers, except those whose pods are being removed. kubectl cannot
/// read the log of a removed container, and Kubernetes 1.20 may keep its pod for more than a
/// minute.
async fn publisher_logs(scene: &Scene) -> Result<String> {
    let path = "{range.items[*]}{.metadata.name}/{.metadata.deletionTimestamp};{end}";
    let pods = scene.run(&format!("get pods -l {FRONTEND} -o jsonpath={path}")).await?;
    let mut logs = String::new();
    for name in pods.split(';').filter_map(|pod| pod.strip_suffix('/')) {
        logs += &scene.run(&format!("logs {name} -c publisher --tail=-1")).await?;
    }
    ensure!(!logs.is_empty(), "no publisher has a log; pods: {pods}");
    Ok(logs)
}

/// Names another Secret in the object. Waits until another publisher leads, and until the HSDirs
/// have accepted its descriptors.
async fn move_to(scene: &Scene, web: &Service, secret: &str, delegated: bool) -> Result<()> {
    let holder = async || scene.run("get lease web-frontend -o jsonpath={.spec.holderIdentity}").await;
    let (before, published) = (holder().await?, web.status().await?.published);
    let patch = format!(r#"{{"spec":{{"masterKey":{{"secretName":"{secret}","delegated":{delegated}}}}}}}"#);
    scene.run(&format!("patch obs/web --type=merge --patch={patch}")).await?;
    scene
        .wait("the new publisher has published", PUBLISHED, async || {
            let (holder, now) = (holder().await?, web.status().await?.published);
            let is_newer = |period: &PublishedStatus| {
                let known = published.iter().find(|known| known.time_period == period.time_period);
                period.hsdirs_accepted == period.hsdirs_total
                    && known.is_none_or(|known| known.revision_counter < period.revision_counter)
            };
            let done = ![String::new(), before.clone()].contains(&holder) && now.len() == 2 && now.iter().all(is_newer);
            Ok(if done { Ok(()) } else { Err(format!("{holder}, {now:?}")) })
        })
        .await
}

/// Sends requests until one fails, and returns the error.
async fn first_failure(client: &TorClient, onion: &str, forgets: bool) -> anyhow::Error {
    for number in 0_u32.. {
        let request = async {
            if forgets {
                client.forget(onion).await?;
            }
            serves(client, onion, &number.to_string()).await
        };
        if let Err(error) = request.await {
            return error;
        }
    }
    anyhow!("all numbers are used")
}

/// Applies one unusable Secret after another. Each must cause a condition that says what is wrong,
/// and the service must go on with the kits that it has.
async fn bad_kits_lose_nothing(scene: &Scene, vault: &Vault, web: &Service, client: &TorClient) -> Result<()> {
    let (onion, running) = (&vault.key.address, scene.running(FRONTEND).await?);
    let (good, foreign) = (vault.kits(2).await?, Vault::set().await?);
    let malformed = with_kit(&good, |_| b"damaged".to_vec())?;
    let truncated = with_kit(&good, |kit| kit[..kit.len() / 2].to_vec())?;
    let of_another = format!("Secret kits holds the key of {}, ", foreign.key.address);
    for (name, manifest, reason, message) in [
        ("malformed", malformed, "KeyInvalid", "Secret kits: entry signing.kit: the content is not a"),
        ("foreign", foreign.kits(2).await?, "AddressMismatch", of_another.as_str()),
        ("truncated", truncated, "KeyInvalid", "Secret kits: entry signing.kit: the signing kit is truncated"),
    ] {
        let refusals = refusals(scene).await?;
        apply(scene, &manifest).await?;
        web.wait_condition_message("MasterKeyReady", "False", reason, message, SOON).await?;
        deliver(scene, name).await?;
        scene
            .wait(&format!("the publisher refuses the {name} kit"), SOON, async || {
                let now = self::refusals(scene).await?;
                Ok(if now > refusals { Ok(()) } else { Err(format!("{now} refusals")) })
            })
            .await?;
        ensure!(web.status().await?.onion_address.as_ref() == Some(onion), "the {name} kit changed the address");
        serves(client, onion, name).await?;
    }
    apply(scene, &good).await?;
    deliver(scene, "good").await?;
    web.wait_condition("MasterKeyReady", "True", SOON).await?;
    ensure!(scene.running(FRONTEND).await? == running, "a bad kit must not restart the frontend");
    Ok(())
}

/// Returns the number of times that the publisher has logged that it refuses the kits in its
/// volume.
async fn refusals(scene: &Scene) -> Result<usize> {
    let log = publisher_logs(scene).await?;
    Ok(log.matches("the new signing kits cannot be used").count())
}

/// Waits until the kits end for clients, too. Until `end`, the last covered time period is the one
/// that clients use.
async fn kits_end(scene: &Scene, web: &Service, client: &TorClient, onion: &str, end: Instant) -> Result<()> {
    are_published(scene, web, 1).await?;
    if Instant::now() + SOON < end {
        client.forget(onion).await?;
        serves(client, onion, "last").await?;
    }
    sleep_until(end).await;
    scene
        .wait("clients find no descriptor any more", NOTICED, async || {
            client.forget(onion).await?;
            Ok(if client.fetch(onion, "ended").await.is_ok() { Err("still served".to_owned()) } else { Ok(()) })
        })
        .await
}

/// Waits until the status reports this number of published time periods.
async fn are_published(scene: &Scene, web: &Service, periods: usize) -> Result<()> {
    scene
        .wait(&format!("{periods} time periods are published"), NOTICED, async || {
            let published = web.status().await?.published;
            Ok(if published.len() == periods { Ok(()) } else { Err(format!("{published:?}")) })
        })
        .await
}

/// Waits until the service answers a client that has no descriptor.
async fn wait_serves(scene: &Scene, client: &TorClient, onion: &str) -> Result<()> {
    scene
        .wait("the service is reachable", PUBLISHED, async || {
            client.forget(onion).await?;
            let page = client.fetch(onion, "restored").await;
            Ok(page.map_or_else(|error| Err(format!("{error:#}")), |_| Ok(())))
        })
        .await
}

async fn serves(client: &TorClient, onion: &str, isolation: &str) -> Result<()> {
    let page = client.fetch(onion, isolation).await.with_context(|| format!("fetch {isolation}"))?;
    ensure!(page.starts_with("Hello"), "unexpected page {page:?}");
    Ok(())
}

/// Waits for the Event of type Warning with this reason.
async fn wait_warning(scene: &Scene, reason: &str) -> Result<()> {
    let events = format!("get events --field-selector type=Warning,reason={reason} -o name");
    scene
        .wait(&format!("there is an Event {reason}"), SOON, async || {
            Ok(if scene.run(&events).await?.is_empty() { Err("no Event".to_owned()) } else { Ok(()) })
        })
        .await
}
