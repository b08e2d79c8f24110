//! Benchmarks the Onionbalance operator and prints `figure <name> <value> <unit>` lines. Fails if a
//! figure misses its target.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser as _;
use onionbalance_bench::daemons;
use onionbalance_bench::descriptor::{SampleService, Signatures};
use onionbalance_bench::forwarder;
use onionbalance_bench::guards;
use onionbalance_bench::network::{RELAYS, Texts};
use onionbalance_bench::python::Python;
use onionbalance_bench::replay::Replay;
use onionbalance_bench::report::Report;
use onionbalance_bench::rounds::{median, median_ratio, time};
use onionbalance_bench::sizing;
use onionbalance_bench::strangers;
use onionbalance_bench::targets::{self, Benchmark};
use onionbalance_e2e::machine;
use tokio::runtime::Runtime;

/// Benchmarks the Onionbalance operator; fails if a figure misses its target
#[derive(Debug, clap::Parser)]
enum Args {
    /// Run `forwarder`, `guards`, `figures`, `sizing` and `strangers`, and compare the figures with
    /// their targets
    All {
        /// Python interpreter with onionbalance, as printed by e2e/setup/python-onionbalance.sh
        #[arg(long)]
        python: PathBuf,
    },
    /// Compare the publisher with Python Onionbalance
    Figures {
        /// Python interpreter with onionbalance, as printed by e2e/setup/python-onionbalance.sh
        #[arg(long)]
        python: PathBuf,
        /// Number of rounds; the median of the rounds is reported
        #[arg(long, default_value_t = FIGURES_ROUNDS)]
        rounds: NonZeroUsize,
    },
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
        #[arg(long, default_value_t = FORWARDER_ROUNDS)]
        rounds: NonZeroUsize,
    },
    /// Compare a service whose backends use three guards with one that uses one guard
    Guards {
        /// Number of rounds; the median of the rounds is reported
        #[arg(long, default_value_t = GUARDS_ROUNDS)]
        rounds: NonZeroUsize,
    },
    /// Measure what a whole service needs at rest, next to a consensus of 9,000 relays
    Sizing,
    /// Measure the programs while strangers open connections and send half of a request
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

const FIGURES_ROUNDS: NonZeroUsize = NonZeroUsize::new(51).unwrap();
const GUARDS_ROUNDS: NonZeroUsize = NonZeroUsize::new(3).unwrap();
const FORWARDER_ROUNDS: NonZeroUsize = NonZeroUsize::new(11).unwrap();
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
        Args::All { python } => all(python),
        Args::Figures { python, rounds } => judged(&[Benchmark::Figures], |report| figures(python, *rounds, report)),
        Args::Scale { programs, objects } => {
            Runtime::new()?.block_on(onionbalance_bench::scale::run(programs, *objects))
        }
        Args::Forwarder { rounds } => judged(&[Benchmark::Forwarder], |report| forwarder(*rounds, report)),
        Args::Guards { rounds } => judged(&[Benchmark::Guards], |report| guards(*rounds, report)),
        Args::Sizing => judged(&[Benchmark::Sizing], sizing),
        Args::Strangers => judged(&[Benchmark::Strangers], strangers),
        Args::Replay { socket, relays } => {
            Replay::new(Texts::generate(*relays)?).listen(socket)?;
            loop {
                std::thread::park();
            }
        }
    }
}

fn all(python: &Path) -> Result<()> {
    let benchmarks =
        [Benchmark::Figures, Benchmark::Forwarder, Benchmark::Guards, Benchmark::Sizing, Benchmark::Strangers];
    judged(&benchmarks, |report| {
        forwarder(FORWARDER_ROUNDS, report)?;
        guards(GUARDS_ROUNDS, report)?;
        figures(python, FIGURES_ROUNDS, report)?;
        sizing(report)?;
        // Last, because this benchmark raises the limit of open files, which child processes
        // inherit.
        strangers(report)
    })
}

/// Runs benchmarks and compares their figures with the targets, even if the run ends early.
fn judged(benchmarks: &[Benchmark], measure: impl FnOnce(&mut Report) -> Result<()>) -> Result<()> {
    let mut report = Report::begin(&Runtime::new()?.block_on(machine::tor_version())?)?;
    let measured = measure(&mut report);
    let judged = report.judge(targets::of(benchmarks));
    measured.and(judged)
}

fn forwarder(rounds: NonZeroUsize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    Runtime::new()?.block_on(forwarder::measure(rounds.get(), dir.path(), report))
}

fn guards(rounds: NonZeroUsize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    Runtime::new()?.block_on(guards::measure(rounds.get(), dir.path(), report))
}

fn sizing(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    Runtime::new()?.block_on(sizing::measure(dir.path(), report))
}

fn strangers(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    Runtime::new()?.block_on(strangers::measure(dir.path(), report))
}

fn figures(interpreter: &Path, rounds: NonZeroUsize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut python = Python::start(interpreter)?;
    let mut service = SampleService::with_twenty_points();
    descriptors(rounds.get(), &mut service, &mut python, dir.path(), report)?;
    delegated(rounds.get(), &mut service, report)?;
    networks(rounds.get().div_ceil(5), &service, &mut python, dir.path(), report)?;
    drop(python);
    Runtime::new()?.block_on(async {
        daemons::large_network(interpreter, &dir.path().join("large"), report).await?;
        daemons::private_network(interpreter, &dir.path().join("private"), report).await
    })
}

fn descriptors(
    rounds: usize,
    service: &mut SampleService,
    python: &mut Python,
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
    let text = service.build(AGE)?;
    let file = dir.join("descriptor");
    std::fs::write(&file, &text)?;
    let points =
        python.ask(&format!("service {} {} {}", service.secret_key_file(), file.display(), service.address()))?;
    ensure!(points == "20", "Python Onionbalance found {points} introduction points in the descriptor, expected 20");
    let signatures = Signatures::of(text);

    let (mut ours, mut floor, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut counters = AGES.map(|_| Vec::new());
    for _ in 0..rounds {
        ours.push(time(|| service.build(AGE)));
        floor.push(time(|| signatures.sign()));
        for (times, (_, age)) in counters.iter_mut().zip(AGES) {
            times.push(time(|| service.revision_counter(age)));
        }
        theirs.push(python.time(&format!("descriptor {}", AGE.as_secs()))?);
    }
    let ratio = Duration::div_duration_f64;
    report.figure("descriptor_build_to_signatures", median_ratio(&ours, &floor, ratio), "");
    report.figure("python_to_descriptor_build", median_ratio(&theirs, &ours, ratio), "");
    // The last age is the greatest, so this counter takes the longest.
    let [.., oldest] = &counters;
    report.figure("revision_counter_48h_to_build", median_ratio(oldest, &ours, ratio), "");
    report.figure_ms("descriptor_build_20_ms", median(ours));
    report.figure_ms("descriptor_signatures_floor_ms", median(floor));
    report.figure_ms("python_descriptor_build_20_ms", median(theirs));
    for (times, (name, _)) in counters.into_iter().zip(AGES) {
        report.figure_ms(&format!("revision_counter_{name}_ms"), median(times));
    }
    Ok(())
}

/// Compares a delegated service with one that has its master key: the time to build a descriptor,
/// and the size of a kit for a year.
fn delegated(rounds: usize, service: &mut SampleService, report: &mut Report) -> Result<()> {
    let kit = service.signing_kit(366)?;
    let kib = u32::try_from(kit.to_bytes().len().div_ceil(1024))?;
    let (key, keys) = service.delegated_keys(kit)?;
    let (mut online, mut delegated) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        online.push(time(|| service.build(AGE)));
        delegated.push(time(|| service.build_delegated(&key, &keys, AGE)));
    }
    report.figure("delegated_to_descriptor_build", median_ratio(&delegated, &online, Duration::div_duration_f64), "");
    report.figure_ms("delegated_descriptor_build_20_ms", median(delegated));
    report.figure("signing_kit_365_days_kib", f64::from(kib), "KiB");
    Ok(())
}

fn networks(
    rounds: usize,
    service: &SampleService,
    python: &mut Python,
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
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
    report.figure("python_to_consensus_9000", median_ratio(&theirs, &ours, Duration::div_duration_f64), "");
    report.figure_ms("consensus_9000_ms", median(ours));
    report.figure_ms("python_consensus_9000_ms", median(theirs));
    Ok(())
}
