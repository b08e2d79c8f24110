//! Measures the publisher beside Python Onionbalance and prints `figure <name> <value> <unit>` lines.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser as _;
use onionbalance_bench::daemons;
use onionbalance_bench::descriptor::{Service, Signatures};
use onionbalance_bench::forwarder;
use onionbalance_bench::network::{RELAYS, Texts};
use onionbalance_bench::python::Python;
use onionbalance_bench::replay::Replay;
use onionbalance_bench::rounds::{figure_ms, median, time};

/// Measures the publisher beside Python Onionbalance.
#[derive(Debug, clap::Parser)]
enum Args {
    /// Print all figures
    Figures(Figures),
    /// Print the figures of the operator with many objects on a real API server
    Scale {
        /// The folder of kube-apiserver (`e2e/setup/kubernetes.sh` makes it)
        #[arg(long)]
        programs: PathBuf,
        /// Objects
        #[arg(long, default_value_t = 500)]
        objects: usize,
    },
    /// Measure the agent's forwarder beside streams that go straight to the target
    Forwarder {
        /// Rounds; the median counts
        #[arg(long, default_value_t = 11)]
        rounds: usize,
    },
    /// Play a tor with a large network, until interrupted
    Replay {
        /// Where to listen
        socket: PathBuf,
        /// Relays in its consensus
        #[arg(long, default_value_t = RELAYS)]
        relays: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Figures {
    /// An interpreter that has `onionbalance` (e2e/setup/python-onionbalance.sh makes it)
    #[arg(long)]
    python: PathBuf,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 51)]
    rounds: usize,
}

/// Since the start of the period's shared random value: half a day, and others of which the revision counter's cost is told.
const AGE: Duration = Duration::from_secs(12 * 3600);
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
    let mut service = Service::of_twenty_points();
    descriptors(args.rounds, &mut service, &mut python, dir.path())?;
    networks(args.rounds.div_ceil(5), &service, &mut python, dir.path())?;
    drop(python);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        daemons::large_network(&args.python, &dir.path().join("large")).await?;
        daemons::private_network(&args.python, &dir.path().join("private")).await
    })
}

fn descriptors(rounds: usize, service: &mut Service, python: &mut Python, dir: &Path) -> Result<()> {
    let text = service.build(AGE)?;
    let file = dir.join("descriptor");
    std::fs::write(&file, &text)?;
    let points =
        python.ask(&format!("service {} {} {}", service.secret_key_file(), file.display(), service.address()))?;
    ensure!(points == "20", "Python finds {points} points in the descriptor");
    let signatures = Signatures::of(text);

    let (mut ours, mut floor, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time(|| service.build(AGE)));
        floor.push(time(|| signatures.sign()));
        theirs.push(python.time(&format!("descriptor {}", AGE.as_secs()))?);
    }
    figure_ms("descriptor_build_20_ms", median(ours));
    figure_ms("descriptor_signatures_floor_ms", median(floor));
    figure_ms("python_descriptor_build_20_ms", median(theirs));

    for (name, age) in AGES {
        let ours = (0..rounds).map(|_| time(|| service.revision_counter(age))).collect();
        figure_ms(&format!("revision_counter_{name}_ms"), median(ours));
    }
    Ok(())
}

fn networks(rounds: usize, service: &Service, python: &mut Python, dir: &Path) -> Result<()> {
    let texts = Texts::generate(RELAYS)?;
    texts.write(dir)?;
    let (dir, address) = (dir.display(), service.address());
    let ask = format!("network {dir}/consensus {dir}/microdescriptors");
    ensure!(texts.place(&address)?.len() == 16, "two periods have eight HSDirs each");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time(|| texts.place(&address)));
        theirs.push(python.time(&ask)?);
    }
    figure_ms("consensus_9000_ms", median(ours));
    figure_ms("python_consensus_9000_ms", median(theirs));
    Ok(())
}
