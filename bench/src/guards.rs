//! Measures the throughput of a service whose backends use one guard, and of the same service with
//! three guards.
//!
//! All relays share one machine, whose processors would limit both services alike. Therefore the
//! guards have a bandwidth limit, as real guards do, and no other hop of any circuit is one of
//! these relays.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use data_encoding::HEXUPPER;
use futures::future::try_join_all;
use onionbalance_e2e::chaos::hops::Hops;
use onionbalance_e2e::machine;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::tornet::{Place, Tor, TorNetwork, make_private_dir};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::link::GuardSample;
use tokio::time::{Instant, timeout};

use crate::forwarder::{rate, serve};
use crate::report::Report;
use crate::rounds::{median, median_ratio};

const MIB: u32 = 1 << 20;
/// The bandwidth limit of each guard, in KiB/s.
const LIMIT: u32 = 512;
/// The number of bytes to transfer from each backend.
const DOWNLOAD: u32 = 6 * MIB;
/// The number of backends, and the greatest number of guards in use.
const BACKENDS: usize = 3;
/// The maximum time to wait for a backend or for a download.
const PATIENCE: Duration = Duration::from_secs(180);

/// Compares three backends that use one guard with three that use a guard each. Prints the medians
/// over all rounds.
pub async fn measure(rounds: usize, dir: &Path, report: &mut Report) -> Result<()> {
    machine::check_tor()?;
    let processes = Processes::open(dir)?;
    let outcome = Scene::start(&processes, dir).await;
    let outcome = match outcome {
        Ok(scene) => scene.measure(rounds, report).await,
        Err(error) => Err(error),
    };
    processes.kill_all();
    outcome
}

/// A private network with limited guards, and a client for each backend.
struct Scene<'a> {
    processes: &'a Processes,
    dir: &'a Path,
    /// The torrc lines of a backend.
    torrc: String,
    shared: GuardSample,
    clients: Vec<TorClient>,
}

impl<'a> Scene<'a> {
    async fn start(processes: &'a Processes, dir: &'a Path) -> Result<Self> {
        let target = serve().await?;
        let network = TorNetwork::open(&dir.join("network"), Place::Loopback, processes);
        network.up_completely().await?;
        let common = network.torrc_lines()?;
        let shared = draw(processes, dir, &common).await?;
        let guards: BTreeSet<_> = names(&shared).into_iter().take(BACKENDS).collect();
        let relays = network.fingerprints()?;
        for guard in &guards {
            let process = relays.get(guard).context("a guard is no relay of the network")?;
            limit(processes, &dir.join("network"), process).await?;
        }
        let others: Vec<_> =
            relays.keys().filter(|relay| !guards.contains(*relay)).map(|id| format!("${id}")).collect();
        let others = others.join(",");
        let torrc = format!(
            "{common}SocksPort 0\nHSLayer2Nodes {others}\nHSLayer3Nodes {others}\nHiddenServicePort 80 {target}\n"
        );
        let excluded: Vec<_> = guards.iter().map(|guard| format!("${guard}")).collect();
        let lines = format!("{common}ExcludeNodes {}\n", excluded.join(","));
        let mut clients = Vec::new();
        for number in 0..BACKENDS {
            let name = format!("client{number}");
            clients.push(TorClient::fresh(processes, &name, &dir.join(&name), &lines, None).await?);
        }
        Ok(Self { processes, dir, torrc, shared, clients })
    }

    async fn measure(&self, rounds: usize, report: &mut Report) -> Result<()> {
        let (mut one, mut three) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // The service that is measured first alternates between rounds.
            for uses_one in [round % 2 == 0, round % 2 == 1] {
                let (guards, rates) = if uses_one { (1, &mut one) } else { (BACKENDS, &mut three) };
                rates.push(self.throughput(guards, &format!("round{round}-{guards}")).await?);
            }
        }
        report.figure("guard_throughput_three_to_one", median_ratio(&three, &one, std::ops::Div::div), "");
        report.figure("guard_throughput_one_mib_s", median(one), "MiB/s");
        report.figure("guard_throughput_three_mib_s", median(three), "MiB/s");
        Ok(())
    }

    /// Returns the rate in MiB/s at which clients download from all backends at the same time.
    async fn throughput(&self, guards_in_use: usize, name: &str) -> Result<f64> {
        let mut backends = Vec::new();
        for number in 0..BACKENDS {
            backends.push(self.backend(&format!("{name}-{number}"), guards_in_use, number).await?);
        }
        for (client, (_, onion)) in self.clients.iter().zip(&backends) {
            until("the backend answers", PATIENCE, async || {
                Ok(match client.connect(onion, 80, name).await {
                    Ok(_) => Seen::Yes(()),
                    Err(error) => Seen::not_yet(format!("{error:#}")),
                })
            })
            .await?;
        }
        let begin = Instant::now();
        let downloads = self.clients.iter().zip(&backends).map(async |(client, (_, onion))| {
            let stream = client.connect(onion, 80, name).await?;
            timeout(PATIENCE, rate(stream, DOWNLOAD)).await.context("a download stalled")?
        });
        try_join_all(downloads).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let mut used = BTreeSet::new();
        for (tor, _) in &backends {
            used.append(&mut Hops::of(&tor.control_socket(), &tor.cookie()).await?.in_use);
        }
        ensure!(used.len() == guards_in_use, "the backends use {} guards instead of {guards_in_use}", used.len());
        for (tor, _) in backends {
            tor.remove().await?;
        }
        let mib = f64::from(DOWNLOAD) / f64::from(MIB) * f64::from(u32::try_from(BACKENDS)?);
        Ok(mib / seconds)
    }

    /// Starts a tor with the shared guards, as a backend pod does. With several guards in use, the
    /// tor with this number uses the guard with the same number. Returns the tor and its address.
    async fn backend(&self, name: &str, guards_in_use: usize, number: usize) -> Result<(Tor, String)> {
        let wanted = number % guards_in_use;
        let mut samples = (0..).map(|uid: u32| self.shared.spread(guards_in_use, &uid.to_string()));
        let sample = samples.find(|sample| names(sample).first() == names(&self.shared).get(wanted));
        let dir = self.dir.join(name);
        make_private_dir(&dir.join("data"))?;
        fs::write(dir.join("data/state"), sample.context("no pod has this guard")?.to_string())?;
        let tor = Tor::open(self.processes, name, &dir);
        let service = dir.join("service");
        // The options of the service follow its folder.
        tor.start(Command::new("tor"), &format!("HiddenServiceDir {}\n{}", service.display(), self.torrc))?;
        tor.wait_bootstrapped().await?;
        Ok((tor, fs::read_to_string(service.join("hostname"))?.trim().to_owned()))
    }
}

/// Lets a tor choose guards and write them into its state file, and returns them.
async fn draw(processes: &Processes, dir: &Path, common: &str) -> Result<GuardSample> {
    let tor = Tor::open(processes, "first-tor", &dir.join("first-tor"));
    tor.start(Command::new("tor"), &format!("{common}SocksPort auto\n"))?;
    tor.wait_bootstrapped().await?;
    tor.stop().await?;
    let sample = GuardSample::parse(&fs::read_to_string(tor.dir().join("data/state"))?)?;
    ensure!(sample.guards().len() > BACKENDS, "the first tor has chosen too few guards");
    Ok(sample)
}

/// Returns the fingerprints of the guards in their order.
fn names(sample: &GuardSample) -> Vec<String> {
    sample.guards().iter().map(|guard| HEXUPPER.encode(&guard.identity)).collect()
}

/// Limits the bandwidth of a relay. Tor does not limit connections to private addresses by default.
async fn limit(processes: &Processes, network: &Path, process: &str) -> Result<()> {
    let name = process.strip_prefix("tor-").context("a relay's process has an unexpected name")?;
    let tor = Tor::open(processes, process, &network.join(name));
    let mut control = Control::open(&tor.control_socket(), &tor.cookie()).await?;
    let options = format!(
        "SETCONF CountPrivateBandwidth=1 RelayBandwidthRate=\"{LIMIT} KBytes\" RelayBandwidthBurst=\"{LIMIT} KBytes\""
    );
    ensure!(control.command(&options).await?, "{name} rejected its bandwidth limit");
    Ok(())
}
