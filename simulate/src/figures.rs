//! The figures of a simulation.

use std::collections::BTreeMap;
use std::time::Duration;

use onionbalance_operator::onion::TimePeriod;

use crate::time::DAY;
use crate::world::World;

/// The number of HSDirs that hold the descriptors of a service: eight in each of two periods.
const HSDIRS: f64 = 16.0;

/// The numbers of all visits and of those that succeeded.
#[derive(Debug, Default, Clone, Copy)]
pub struct Visits {
    /// The number of all visits.
    pub all: u64,
    /// The number of visits that reached a live introduction point.
    pub succeeded: u64,
}

impl Visits {
    pub(crate) fn count(&mut self, success: bool) {
        self.all += 1;
        self.succeeded += u64::from(success);
    }

    fn add(&mut self, other: Self) {
        self.all += other.all;
        self.succeeded += other.succeeded;
    }
}

/// For how long HSDirs that clients ask show dead introduction points.
#[derive(Debug, Default)]
pub struct DeadPoints {
    /// The dead points that HSDirs still show, with the times of their deaths.
    pub(crate) open: BTreeMap<u64, Duration>,
    count: u64,
    total: Duration,
}

/// The figures of one or more simulations.
#[derive(Debug, Default)]
pub struct Figures {
    /// The visits of clients without a cached descriptor.
    pub fresh: Visits,
    /// The visits of clients with one.
    pub returning: Visits,
    /// The visits of fresh clients that tried a dead point first.
    pub dead_first: u64,
    /// The times at which fresh clients found no live point.
    pub failures: Vec<Duration>,
    /// The dead points.
    pub dead: DeadPoints,
    /// The uploads of our publishers.
    pub uploads: u64,
    /// The uploads of the stock service.
    pub stock_uploads: u64,
    /// The publishing rounds: their times, their periods and their publishers.
    pub rounds: Vec<(Duration, TimePeriod, usize)>,
    /// The number of times that a publisher began to lead.
    pub leads: u64,
    /// The number of faults.
    pub faults: u64,
    /// The greatest number of entries in an engine's collections, by day.
    pub entries: Vec<usize>,
    /// The number of times that a publisher reported a foreign publisher, in checks.
    pub foreign: u64,
    time: Duration,
}

impl Figures {
    /// Adds the figures of another simulation that took this long.
    pub fn add(&mut self, other: &Self, time: Duration) {
        self.fresh.add(other.fresh);
        self.returning.add(other.returning);
        self.dead_first += other.dead_first;
        self.dead.count += other.dead.count;
        self.dead.total += other.dead.total;
        self.uploads += other.uploads;
        self.stock_uploads += other.stock_uploads;
        self.rounds.extend(&other.rounds);
        self.leads += other.leads;
        self.faults += other.faults;
        self.foreign += other.foreign;
        self.time += time;
    }

    /// Returns the share of fresh clients that found a live introduction point, in percent.
    pub fn success_percent(&self) -> f64 {
        percent(self.fresh.succeeded, self.fresh.all)
    }

    /// Returns the lines that `make simulate` prints.
    pub fn lines(&self) -> Vec<String> {
        let days = self.time.as_secs_f64() / DAY.as_secs_f64();
        let per_hsdir_day = |uploads: u64| uploads as f64 / HSDIRS / days;
        let figures = [
            ("simulated_days", days),
            ("simulated_clients", self.fresh.all as f64),
            ("simulated_client_success_percent", self.success_percent()),
            ("simulated_cached_client_success_percent", percent(self.returning.succeeded, self.returning.all)),
            ("simulated_dead_first_percent", percent(self.dead_first, self.fresh.all)),
            ("simulated_dead_points_seconds", self.dead.total.as_secs_f64() / self.dead.count.max(1) as f64),
            ("simulated_uploads_per_hsdir_day", per_hsdir_day(self.uploads)),
            ("simulated_stock_uploads_per_hsdir_day", per_hsdir_day(self.stock_uploads)),
            ("simulated_rounds_per_period_day", self.rounds.len() as f64 / 2.0 / days),
            ("simulated_faults", self.faults as f64),
            ("simulated_takeovers", self.leads as f64),
            ("simulated_foreign_reports", self.foreign as f64),
        ];
        figures.iter().map(|(name, value)| format!("figure {name} {}", shortest(*value))).collect()
    }
}

fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 100.0 } else { 100.0 * part as f64 / all as f64 }
}

/// Formats a number with at most four decimals.
fn shortest(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl World {
    /// Returns true if an HSDir from which clients fetch shows the point.
    pub(crate) fn is_shown(&self, point: u64) -> bool {
        let Some(view) = self.relays.newest() else { return false };
        view.asked.iter().any(|hsdir| {
            let held = self.hsdirs.fetch(hsdir, view.used, self.now).filter(|_| self.relays.runs(hsdir));
            held.is_some_and(|held| held.points.contains(&point))
        })
    }

    /// Records for how long dead points were shown that no HSDir shows any more.
    pub(crate) fn settle_dead_points(&mut self) {
        let gone: Vec<u64> = self.figures.dead.open.keys().copied().filter(|point| !self.is_shown(*point)).collect();
        for point in gone {
            if let Some(died) = self.figures.dead.open.remove(&point) {
                self.figures.dead.count += 1;
                self.figures.dead.total += self.now.saturating_sub(died);
            }
        }
    }
}
