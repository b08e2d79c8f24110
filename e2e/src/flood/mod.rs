//! Floods onion services with introductions, on a private Tor network whose consensus makes tor
//! replace an introduction point after few introductions.
//!
//! Our service, Python Onionbalance and a single stock service take turns, with and without
//! `introDosDefense`. Meanwhile, honest clients send requests at a fixed rate, and every HSDir is
//! asked for the descriptors that it holds. `docs/performance.md` has the results.

pub mod attack;
pub mod figures;
pub mod live;
#[path = "../../../tests/torrc_real_tor/render.rs"]
mod render;
mod stage;
pub mod systems;
mod throttle;
pub mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep};

use self::figures::{Measured, compute, judge, name, table};
use self::stage::Stage;
use self::systems::{Defense, Kind, System};
use self::throttle::Throttle;
use crate::chaos::figure::{Figure, Results};
use crate::chaos::verdict::verdict;
use crate::machine;
use crate::steps::{say, step};
use crate::tornet::period::{until_quiet, wall_clock};

/// The number of backends of our service and of Python Onionbalance.
const BACKENDS: usize = 3;
/// The interval of honest requests.
const EVERY: Duration = Duration::from_millis(333);
/// The limit with `introDosDefense`. tor's relay adds the rate once a second and keeps the last
/// token, so one introduction less passes in each second, about half of the flood.
const DEFENSE: Defense = Defense { rate: 2, burst: 16 };
/// The time for which a flood goes on after the measurement, so that points which are alive at its
/// end can prove it.
const PROOF: Duration = Duration::from_secs(5);
/// The numbers of backends with which the capacity is measured.
const CAPACITIES: [usize; 3] = [1, 3, 9];
/// The introductions per second that are offered when the capacity is measured.
const OFFERED: f64 = 100.0;
/// The time for which the capacity is measured.
const CAPACITY_LASTS: Duration = Duration::from_secs(30);

/// The parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Flood our service with and without `introDosDefense`.
    Ours,
    /// Flood Python Onionbalance with and without `introDosDefense`.
    Python,
    /// Flood a single stock service with and without `introDosDefense`.
    Stock,
    /// Measure the introductions per second that our service handles, by the number of backends.
    Capacity,
}

impl Part {
    /// All parts, in the order of the run.
    pub const ALL: [Self; 4] = [Self::Capacity, Self::Ours, Self::Python, Self::Stock];

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Ours => Some(Kind::Ours),
            Self::Python => Some(Kind::Python),
            Self::Stock => Some(Kind::Stock),
            Self::Capacity => None,
        }
    }
}

/// The options of a run.
#[derive(Debug)]
pub struct Options {
    /// The parts of the run.
    pub parts: Vec<Part>,
    /// The time for which each service is flooded.
    pub lasts: Duration,
    /// The rate of the flood, in introductions per second.
    pub rate: f64,
    /// The file for the figures.
    pub figures: Option<PathBuf>,
}

/// Runs the parts, and prints their figures. Returns an error if a figure misses its limit.
pub async fn run(options: &Options) -> Result<()> {
    machine::check_tor()?;
    let dir = tempfile::tempdir()?;
    let heading = heading().await?;
    println!("{heading}");
    let stage = Stage::start(dir.path()).await?;
    let outcome = all(options, &stage, &heading).await;
    stage.end();
    if outcome.is_err() {
        eprintln!("the files of the failed run are in {}", dir.keep().display());
    }
    outcome
}

async fn all(options: &Options, stage: &Stage, heading: &str) -> Result<()> {
    let mut results = Vec::new();
    let is_wanted = |part: &Part| options.parts.contains(part);
    if is_wanted(&Part::Capacity) {
        record(capacity(stage).await?, &mut results, options, heading)?;
    }
    step("a consensus that retires introduction points early", stage.retire_points_early()).await?;
    for defended in [false, true] {
        for kind in Part::ALL.iter().filter(|part| is_wanted(part)).filter_map(|part| part.kind()) {
            record(turn(stage, options, kind, defended).await?, &mut results, options, heading)?;
        }
    }
    println!("\n{}\n", table(&results));
    let judged = judge(results);
    for judged in &judged {
        println!("{}", judged.rows());
    }
    verdict(&judged, &[])
}

/// Prints figures, and adds them to those of the run and to the file.
fn record(new: Results, results: &mut Vec<Results>, options: &Options, heading: &str) -> Result<()> {
    print!("{new}");
    results.push(new);
    let Some(file) = &options.figures else { return Ok(()) };
    let lines: String = results.iter().map(ToString::to_string).collect();
    std::fs::write(file, format!("{heading}\n\n{lines}")).with_context(|| format!("could not write {}", file.display()))
}

/// Returns the line that a page with the figures quotes: the date, the command and the machine.
#[allow(clippy::disallowed_methods, reason = "the line contains the date of the run")]
async fn heading() -> Result<String> {
    let date: String = Timestamp::now().to_string().chars().take(10).collect();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "Measured on {date} with `make flood`: {}, {}; load average at the start: {}.",
        machine::describe()?,
        machine::tor_version().await?,
        load.split(' ').next().unwrap_or_default()
    ))
}

/// Floods one service.
async fn turn(stage: &Stage, options: &Options, kind: Kind, defended: bool) -> Result<Results> {
    let name = name(kind, defended);
    let defense = defended.then_some(DEFENSE);
    let start = System::start(&stage.place, &name, kind, BACKENDS, defense);
    let system = step(&format!("{name}: start"), start).await?;
    let mut attack = stage.attack(&name, &system).await?;
    step(&format!("{name}: complete descriptors"), stage.wait_published(&system, &attack)).await?;
    wait_for_a_calm_time(options.lasts).await?;
    say(&format!("{name}: flood for {} s", options.lasts.as_secs()));
    let (began, handled) = (Instant::now(), system.handled().await?);
    attack.flood(options.rate).await?;
    let ended = began + options.lasts;
    let handled_at_end = async {
        tokio::time::sleep_until(ended).await;
        anyhow::Ok(system.handled().await? - handled)
    };
    let requests = traffic::send(&stage.clients, &system.onion, EVERY, ended);
    let (requests, handled) = tokio::try_join!(requests, handled_at_end)?;
    sleep(PROOF).await;
    system.check(&stage.place)?;
    let seen = attack.seen()?;
    say(&format!("{name}: introductions: {:?}", seen.outcomes));
    system.stop(&stage.place).await?;
    let handled_per_s = per_second(handled, options.lasts);
    Ok(compute(&name, &Measured { began, ended, seen, requests, handled_per_s }))
}

/// Measures how many introductions our service handles if more are offered, and if each backend's
/// tor may use the processor for a small part of the time only.
async fn capacity(stage: &Stage) -> Result<Results> {
    let mut figures = Vec::new();
    for backends in CAPACITIES {
        let name = format!("capacity{backends}");
        let start = System::start(&stage.place, &name, Kind::Ours, backends, None);
        let system = step(&format!("{backends} backends: start"), start).await?;
        let mut attack = stage.attack(&name, &system).await?;
        step(&format!("{backends} backends: complete descriptors"), stage.wait_published(&system, &attack)).await?;
        say(&format!("{backends} backends: flood for {} s", CAPACITY_LASTS.as_secs()));
        let before = system.handled().await?;
        let throttle = Throttle::start(&stage.place.processes, system.tors());
        attack.flood(OFFERED).await?;
        sleep(CAPACITY_LASTS).await;
        throttle.end()?;
        let handled = system.handled().await? - before;
        say(&format!("{backends} backends: introductions: {:?}", attack.seen()?.outcomes));
        system.stop(&stage.place).await?;
        let what = format!("introductions_per_s_{backends}");
        figures.push(Figure::new(what, per_second(handled, CAPACITY_LASTS), "per s"));
    }
    Ok(Results { fault: "flood".to_owned(), figures })
}

#[allow(clippy::cast_precision_loss, reason = "the numbers are a few thousand")]
fn per_second(number: u64, time: Duration) -> f64 {
    number as f64 / time.as_secs_f64()
}

/// Waits until no time period changes during a flood.
async fn wait_for_a_calm_time(lasts: Duration) -> Result<()> {
    let pause = until_quiet(wall_clock()?, lasts);
    if !pause.is_zero() {
        say(&format!("waiting {} s until no time period changes during the flood", pause.as_secs()));
        sleep(pause).await;
    }
    Ok(())
}
