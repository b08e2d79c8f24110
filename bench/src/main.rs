//! Benchmarks the Onionbalance operator and prints `figure <name> <value> <unit>` lines.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser as _;
use onionbalance_bench::daemons;
use onionbalance_bench::descriptor::{SampleService, Signatures};
use onionbalance_bench::forwarder;
use onionbalance_bench::network::{RELAYS, Texts};
use onionbalance_bench::python::Python;
use onionbalance_bench::replay::Replay;
use onionbalance_bench::rounds::{figure, figure_ms, median, time};
use onionbalance_bench::strangers;

/// Benchmarks the Onionbalance operator
#[derive(Debug, clap::Parser)]
enum Args {
    /// Compare the publisher with Python Onionbalance
    Figures(Figures),
    /// Measure the operator with many objects on a real API server
    Scale {
        /// Folder that contains kube-apiserver, as printed by e2e/setup/kubernetes.sh
        #[arg(long)]
        programs: PathBuf,
        /// Number of objects
        #[arg(long, default_value_t = 500)]
        objects: usize,
    },
    /// Compare the agent's forwarder with streams that go directly to the target
    Forwarder {
        /// Number of rounds; the median of the rounds is reported
        #[arg(long, default_value_t = 11)]
        rounds: usize,
    },
    /// Measure the programs while strangers open connections and send half of a request; fails if a
    /// target is missed
    Strangers,
    /// Simulate the control port of a tor with a large network until interrupted
    Replay {
        /// Unix socket to listen on
        socket: PathBuf,
        /// Number of relays in the consensus
        #[arg(long, default_value_t = RELAYS)]
        relays: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Figures {
    /// Python interpreter with onionbalance, as printed by e2e/setup/python-onionbalance.sh
    #[arg(long)]
    python: PathBuf,
    /// Number of rounds; the median of the rounds is reported
    #[arg(long, default_value_t = 51)]
    rounds: usize,
}

/// The age of the shared random value when a descriptor benchmark builds its descriptor.
const AGE: Duration = Duration::from_secs(12 * 3600);
/// The ages of the shared random value at which the computation of a revision counter is measured.
/// Each age has the name that its figure uses.
const AGES: [(&str, Duration); 4] = [
    ("15min", Duration::from_secs(15 * 60)),
    ("12h", AGE),
    ("24h", Duration::from_secs(24 * 3600)),
    ("48h", Duration::from_secs(48 * 3600)),
];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    match args {
        Args::Figures(args) => figures(args),
        Args::Scale { programs, objects } => {
            tokio::runtime::Runtime::new()?.block_on(onionbalance_bench::scale::run(programs, *objects))
        }
        Args::Forwarder { rounds } => {
            let dir = tempfile::tempdir()?;
            tokio::runtime::Runtime::new()?.block_on(forwarder::measure(*rounds, dir.path()))
        }
        Args::Strangers => {
            let dir = tempfile::tempdir()?;
            tokio::runtime::Runtime::new()?.block_on(strangers::measure(dir.path()))
        }
        Args::Replay { socket, relays } => {
            Replay::new(Texts::generate(*relays)?).listen(socket)?;
            loop {
                std::thread::park();
            }
        }
    }
}

fn figures(args: &Figures) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut python = Python::start(&args.python)?;
    let mut service = SampleService::with_twenty_points();
    descriptors(args.rounds, &mut service, &mut python, dir.path())?;
    networks(args.rounds.div_ceil(5), &service, &mut python, dir.path())?;
    drop(python);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        daemons::large_network(&args.python, &dir.path().join("large")).await?;
        daemons::private_network(&args.python, &dir.path().join("private")).await
    })
}

fn descriptors(rounds: usize, service: &mut SampleService, python: &mut Python, dir: &Path) -> Result<()> {
    let text = service.build(AGE)?;
    let file = dir.join("descriptor");
    std::fs::write(&file, &text)?;
    let points =
        python.ask(&format!("service {} {} {}", service.secret_key_file(), file.display(), service.address()))?;
    ensure!(points == "20", "Python Onionbalance found {points} introduction points in the descriptor, expected 20");
    let signatures = Signatures::of(text);

    let (mut ours, mut floor, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time(|| service.build(AGE)));
        floor.push(time(|| signatures.sign()));
        theirs.push(python.time(&format!("descriptor {}", AGE.as_secs()))?);
    }
    figure_ms("descriptor_build_20_ms", median(ours));
    figure_ms("descriptor_signatures_floor_ms", median(floor));
    delegated(rounds, service)?;
    figure_ms("python_descriptor_build_20_ms", median(theirs));

    for (name, age) in AGES {
        let ours = (0..rounds).map(|_| time(|| service.revision_counter(age))).collect();
        figure_ms(&format!("revision_counter_{name}_ms"), median(ours));
    }
    Ok(())
}

/// Measures a delegated service: the time to build a descriptor, and the size of a kit for a year.
fn delegated(rounds: usize, service: &mut SampleService) -> Result<()> {
    let kit = service.signing_kit(366)?;
    let kib = u32::try_from(kit.to_bytes().len().div_ceil(1024))?;
    let (key, keys) = service.delegated_keys(kit)?;
    let times = (0..rounds).map(|_| time(|| service.build_delegated(&key, &keys, AGE))).collect();
    figure_ms("delegated_descriptor_build_20_ms", median(times));
    figure("signing_kit_365_days_kib", f64::from(kib), "KiB");
    Ok(())
}

fn networks(rounds: usize, service: &SampleService, python: &mut Python, dir: &Path) -> Result<()> {
    let texts = Texts::generate(RELAYS)?;
    texts.write(dir)?;
    let (dir, address) = (dir.display(), service.address());
    let ask = format!("network {dir}/consensus {dir}/microdescriptors");
    ensure!(texts.place(&address)?.len() == 16, "expected eight HSDirs for each of the two periods");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time(|| texts.place(&address)));
        theirs.push(python.time(&ask)?);
    }
    figure_ms("consensus_9000_ms", median(ours));
    figure_ms("python_consensus_9000_ms", median(theirs));
    Ok(())
}
