//! Simulates months of publishing and prints figures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, value_parser};
use onionbalance_simulate::time::DAY;
use onionbalance_simulate::{Figures, Plan, World};

/// The smallest share of fresh clients that must find a live introduction point, in percent.
const SUCCESS: f64 = 99.99;

/// Simulates publishers, backends, HSDirs and clients for months of virtual time.
#[derive(Debug, Parser)]
struct Args {
    /// The number of days.
    #[arg(long, default_value_t = 90, value_parser = value_parser!(u32).range(1..))]
    days: u32,
    /// The number of simulations, each with its own seed.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed. To replay a failure, give its seed and `--seeds 1`.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// The number of backends.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u16).range(1..))]
    backends: u16,
    /// The average number of visits by clients per hour.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u32).range(1..))]
    visits: u32,
    /// The number of simulations at a time. By default, one for each processor.
    #[arg(long)]
    jobs: Option<usize>,
    /// The file to which the figures are written.
    #[arg(long)]
    figures: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let next = AtomicU64::new(args.first_seed);
    let end = args.first_seed + args.seeds;
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let result = simulate(&args, seed);
                    if let Ok(mut results) = results.lock() {
                        results.insert(seed, result);
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&args, results)
}

/// Runs one simulation, and reports its progress.
fn simulate(args: &Args, seed: u64) -> Result<Figures> {
    let plan = Plan { seed, backends: args.backends.into(), visits_per_hour: args.visits, ..Plan::default() };
    let mut world = World::new(plan)?;
    for day in 1..=args.days {
        world.run_until(DAY * day)?;
        if day % 10 == 0 {
            eprintln!("seed {seed}: day {day} of {}", args.days);
        }
    }
    Ok(world.figures)
}

fn report(args: &Args, results: BTreeMap<u64, Result<Figures>>) -> Result<()> {
    let mut all = Figures::default();
    let mut failed = 0;
    let time: Duration = DAY * args.days;
    for (seed, result) in results {
        match result {
            Ok(figures) => {
                for at in &figures.failures {
                    eprintln!(
                        "seed {seed}: a fresh client found no live point after {:.2} h",
                        at.as_secs_f64() / 3600.0
                    );
                }
                all.add(&figures, time);
            }
            Err(error) => {
                failed += 1;
                eprintln!("{error:#}\nreplay it with: --first-seed {seed} --seeds 1");
            }
        }
    }
    if failed == args.seeds {
        bail!("all simulations failed");
    }
    let lines = all.lines();
    for line in &lines {
        println!("{line}");
    }
    if let Some(path) = &args.figures {
        std::fs::write(path, lines.join("\n") + "\n").with_context(|| format!("could not write {}", path.display()))?;
    }
    if failed > 0 {
        bail!("{failed} of {} simulations failed", args.seeds);
    }
    if all.success_percent() < SUCCESS {
        bail!("fewer than {SUCCESS}% of the fresh clients found a live introduction point");
    }
    Ok(())
}
