//! The figures of the flood, and their limits.

use tokio::time::Instant;

use super::attack::Observed;
use super::live::{live_percent, percent};
use super::systems::Kind;
use crate::chaos::figure::{Figure, Results};
use crate::chaos::judge::{held, of_responsible};
use crate::chaos::limit::{Bound, Limit};
use crate::chaos::request::{Request, ServiceKind};
use crate::chaos::tally::Requests;
use crate::chaos::verdict::Judged;

/// The least percentage of live introduction points that each HSDir must hold.
const LIVE_PERCENT: f64 = 95.0;
const LIVE: &str = "live_points_percent";
const FAILED: &str = "failed_percent";
const SLOW: &str = "slow_percent";

/// The measurements of the flood of one service.
#[derive(Debug)]
pub struct Measured {
    /// The time at which the flood began.
    pub began: Instant,
    /// The time at which the measurement ended.
    pub ended: Instant,
    /// The answers that the flood has got.
    pub seen: Observed,
    /// The honest requests.
    pub requests: Vec<Request>,
    /// The introductions per second that the service's tors handled.
    pub handled_per_s: f64,
}

/// Returns the name of the flood of one system, with which its figures begin.
pub fn name(kind: Kind, defended: bool) -> String {
    format!("{}flood{}", kind.prefix(), if defended { "_defended" } else { "" })
}

/// Computes the figures from the measurements.
pub fn compute(name: &str, measured: &Measured) -> Results {
    let Measured { began, ended, seen, requests, handled_per_s } = measured;
    let (before, since): (Vec<_>, Vec<_>) = seen.answers.iter().cloned().partition(|answer| answer.at < *began);
    let during: Vec<_> = since.into_iter().filter(|answer| answer.at < *ended).collect();
    let mut during = of_responsible(&during, &held(&before));
    during.retain(|answer| answer.of_clients);
    let live = live_percent(&during, &seen.points);
    // Without any HSDir, nothing is alive.
    let worst = live.values().copied().reduce(f64::min).unwrap_or(0.0);
    let counts = Requests::new(requests.clone(), *began).of(ServiceKind::Ours);
    let share = |part| if counts.requests == 0 { f64::NAN } else { percent(part, counts.requests) };
    let figures = vec![
        Figure::new(LIVE, worst, "%"),
        Figure::new(FAILED, share(counts.failed), "%"),
        Figure::new(SLOW, share(counts.slow), "%"),
        Figure::new("introductions_per_s", *handled_per_s, "per s"),
        Figure::count("introductions_passed_on", seen.outcomes.passed_on, "introductions"),
        Figure::count("introductions_refused", seen.outcomes.refused, "introductions"),
        Figure::count("requests", counts.requests, "requests"),
        Figure::count("hsdirs", live.len(), "HSDirs"),
    ];
    Results { fault: name.to_owned(), figures }
}

/// Compares all figures with their limits. Each HSDir must hold enough live points of our service.
/// Fewer honest requests to our service than to Python Onionbalance may fail or be slow. If none
/// failed or was slow there, none may here.
pub fn judge(all: Vec<Results>) -> Vec<Judged> {
    let limits = |results: &Results| {
        let Some(defended) = [false, true].into_iter().find(|defended| is_of(results, Kind::Ours, *defended)) else {
            return Vec::new();
        };
        let mut limits = vec![Limit::new(LIVE, Bound::AtLeast(LIVE_PERCENT))];
        if let Some(python) = all.iter().find(|results| is_of(results, Kind::Python, defended)) {
            let fewer = |what| {
                let value = python.get(what).map_or(f64::NAN, |figure| figure.value);
                Limit::new(what, if value == 0.0 { Bound::AtMost(0.0) } else { Bound::Below(value) })
            };
            limits.extend([FAILED, SLOW].map(fewer));
        }
        limits
    };
    let limits: Vec<_> = all.iter().map(limits).collect();
    all.into_iter().zip(limits).map(|(results, limits)| Judged { results, limits }).collect()
}

/// Returns true if these are the results of a flood, and not those of the capacity, whose figures
/// have the same prefix.
fn is_of(results: &Results, kind: Kind, defended: bool) -> bool {
    results.fault == name(kind, defended) && results.get(LIVE).is_some()
}

/// Returns a table with a row for each figure and a column for each system.
pub fn table(all: &[Results]) -> String {
    let kinds = [Kind::Ours, Kind::Python, Kind::Stock];
    let mut rows = vec!["| figure | ours | Python Onionbalance 0.2.4 | a single stock service |".to_owned()];
    rows.push("|---|---|---|---|".to_owned());
    for defended in [false, true] {
        for what in [LIVE, FAILED, SLOW, "introductions_per_s"] {
            let cells = kinds.map(|kind| {
                let results = all.iter().find(|results| is_of(results, kind, defended));
                let figure = results.and_then(|results| results.get(what));
                figure.map(|figure| format!("{} {}", figure.shown(), figure.unit)).unwrap_or_default()
            });
            rows.push(format!("| `{}_{what}` | {} |", name(Kind::Ours, defended), cells.join(" | ")));
        }
    }
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::verdict::verdict;

    fn results(kind: Kind, live: f64, failed: f64, slow: f64) -> Results {
        let figures = [(LIVE, live), (FAILED, failed), (SLOW, slow)];
        let figures = figures.map(|(what, value)| Figure::new(what, value, "%")).into();
        Results { fault: name(kind, false), figures }
    }

    fn passes(ours: [f64; 3], python: [f64; 3]) -> bool {
        let [live, failed, slow] = ours;
        let ours = results(Kind::Ours, live, failed, slow);
        let [live, failed, slow] = python;
        verdict(&judge(vec![ours, results(Kind::Python, live, failed, slow)]), &[]).is_ok()
    }

    #[test]
    fn ours_must_be_alive_and_better_than_python() {
        assert!(passes([95.0, 1.0, 2.0], [40.0, 3.0, 3.0]));
        assert!(!passes([94.9, 1.0, 2.0], [40.0, 3.0, 3.0]));
        assert!(!passes([99.0, 3.0, 2.0], [40.0, 3.0, 3.0]));
        assert!(!passes([99.0, 0.0, 3.0], [40.0, 3.0, 3.0]));
        assert!(passes([99.0, 0.0, 0.0], [40.0, 0.0, 0.0]));
        assert!(!passes([99.0, 0.1, 0.1], [40.0, 0.0, 3.0]));
        assert!(!passes([99.0, f64::NAN, 0.0], [40.0, 1.0, 1.0]));
    }

    /// The capacity is measured first, and the prefix of its figures is that of our flood.
    fn capacity() -> Results {
        let figures = vec![Figure::new("introductions_per_s_1", 54.0, "per s")];
        Results { fault: name(Kind::Ours, false), figures }
    }

    #[test]
    fn the_capacity_has_no_limits_and_hides_no_flood() {
        let ours = results(Kind::Ours, 97.25, 0.0, 1.0);
        assert!(verdict(&judge(vec![capacity(), ours.clone()]), &[]).is_ok());
        assert!(table(&[capacity(), ours]).contains("| `flood_live_points_percent` | 97.3 % |"));
        assert!(verdict(&judge(vec![capacity(), results(Kind::Ours, 94.0, 0.0, 1.0)]), &[]).is_err());
    }

    #[test]
    fn the_table_has_a_column_for_each_system() {
        let table = table(&[results(Kind::Ours, 97.25, 0.0, 1.0), results(Kind::Stock, 60.0, 2.0, 3.0)]);
        assert!(table.contains("| `flood_live_points_percent` | 97.3 % |  | 60 % |"), "{table}");
        assert!(table.contains("| `flood_defended_slow_percent` |  |  |  |"), "{table}");
    }
}
