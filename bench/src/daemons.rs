//! Measurements of the publishers as running processes: the time until the first upload, and memory
//! use.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use onionbalance_e2e::onionkey;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::wait::{Seen, until};
use tokio::time::{Instant, sleep};

use crate::memory::{Resident, resident};
use crate::network::{RELAYS, Texts};
use crate::plane::Plane;
use crate::publisher::PublisherDir;
use crate::replay::Replay;
use crate::report::Report;

/// The pause between the daemons' first uploads and the measurement of their memory use.
const SETTLED: Duration = Duration::from_secs(60);
/// The number of times that each publisher reads the consensus. The consensus is the same each
/// time.
const CONSENSUSES: usize = 4;
/// The pause after a publisher has read a consensus. Then the next consensus is announced, or the
/// memory use is measured.
const BETWEEN: Duration = Duration::from_secs(8);
/// The maximum time to wait for a publisher to read the consensus and the microdescriptors.
const PATIENCE: Duration = Duration::from_secs(120);
/// The address of an instance whose descriptor is not on any HSDir.
const NO_INSTANCE: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// Measures our publisher and Python Onionbalance on one private network with the same three
/// backends. Our publisher first runs as in a frontend pod, where it queries the agents. Then it
/// runs as a stand-alone daemon, alongside Python Onionbalance.
pub async fn private_network(python: &Path, dir: &Path, report: &mut Report) -> Result<()> {
    let processes = Processes::open(dir)?;
    let plane = Plane::start(&processes, dir).await?;
    let mut our_tor = plane.start_tor("ours", &plane.ours).await?;
    let mut daemon_tor = plane.start_tor("daemon", &plane.daemon).await?;
    let mut python_tor = plane.start_tor("python", &plane.python).await?;

    let start = Instant::now();
    plane.ours.start_publisher(&processes, &plane.agents, [0, 0], None)?;
    our_tor.first().await?;
    report.figure("first_upload_s", start.elapsed().as_secs_f64(), "s");
    processes.stop("publisher").await?;

    let start = Instant::now();
    let ours = plane.daemon.start_daemon(&processes, &plane.addresses)?;
    daemon_tor.first().await?;
    report.figure("daemon_first_upload_s", start.elapsed().as_secs_f64(), "s");
    let start = Instant::now();
    let theirs = plane.python.start_python(&processes, python, &plane.addresses, true)?;
    python_tor.first().await?;
    report.figure("python_first_upload_s", start.elapsed().as_secs_f64(), "s");

    sleep(SETTLED).await;
    let (ours, theirs) = (resident(ours)?.now, resident(theirs)?.now);
    report.figure("frontend_rss_mib", ours, "MiB");
    report.figure("python_frontend_rss_mib", theirs, "MiB");
    report.figure("python_to_frontend_rss", theirs / ours, "");
    processes.stop("daemon").await?;
    processes.stop("python").await
}

/// Measures the memory use of both daemons while they read several consensuses with 9,000 relays.
/// Each daemon uses a simulated control port, at which every fetch of a descriptor fails.
pub async fn large_network(python: &Path, dir: &Path, report: &mut Report) -> Result<()> {
    let processes = Processes::open(dir)?;
    let key = onionkey::make(&processes, dir).await?;
    let (ours, theirs) =
        (PublisherDir::make(dir.join("ours"), key.dir.clone())?, PublisherDir::make(dir.join("python"), key.dir)?);
    let texts = Texts::generate(RELAYS)?;
    let (our_tor, python_tor) = (Replay::new(texts.clone()), Replay::new(texts));
    our_tor.listen(&ours.control_socket())?;
    python_tor.listen(&theirs.control_socket())?;

    let ours = ours.start_daemon(&processes, &[NO_INSTANCE.to_owned()])?;
    let theirs = theirs.start_python(&processes, python, &[NO_INSTANCE.to_owned()], false)?;
    let mut settled = Vec::new();
    for (tor, pid, prefix) in [(our_tor, ours, ""), (python_tor, theirs, "python_")] {
        for round in 1..=CONSENSUSES {
            until("the network is read", PATIENCE, async || {
                let read = tor.times_read();
                Ok(if read >= round { Seen::Yes(()) } else { Seen::not_yet(format!("{read} of {round} times")) })
            })
            .await?;
            sleep(BETWEEN).await;
            if round < CONSENSUSES {
                tor.new_consensus()?;
            }
        }
        let Resident { now, most } = resident(pid)?;
        report.figure(&format!("{prefix}frontend_rss_9000_mib"), now, "MiB");
        report.figure(&format!("{prefix}frontend_rss_9000_peak_mib"), most, "MiB");
        settled.push(now);
    }
    if let [ours, theirs] = settled[..] {
        report.figure("python_to_frontend_rss_9000", theirs / ours, "");
    }
    processes.stop_all().await
}
