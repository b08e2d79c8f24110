//! Decides how soon a change of the backends is published in each time period.
//!
//! HSDirs see the time of every upload. They need not know the address to count the uploads for a
//! blinded key, nor to compare the upload times of two blinded keys. Decision 37 in
//! `docs/decisions/` gives the reasons for the times.
//!
//! All times are those of the public network, whose time periods last a day. On a test network,
//! they are shorter in the same proportion as its time periods.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::schedule::Request;
use crate::onion::TimePeriod;

/// The time that the engine waits for further changes after the first one.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(300);
/// The time by which the period that clients do not use follows the other one, in seconds.
const LAG: RangeInclusive<u64> = 2 * 60..=6 * 60;
/// The time for which changes are gathered while few of the published points are dead, in seconds.
const GATHER: RangeInclusive<u64> = 4 * 60..=8 * 60;
/// The shortest time, in seconds, between rounds of two periods, unless clients fail to connect
/// until the second one.
const APART: u64 = 60;
/// The length of the public network's time periods, in minutes.
const DAY: u64 = 24 * 60;

/// A change of the backends that does not remove a whole backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Points were added, or something else changed.
    More,
    /// A backend has this many new points in place of earlier ones. tor withdraws a point before it
    /// has another one, so that most replacements are seen in two steps.
    PointsBack(usize),
    /// A backend replaced or withdrew some of its points.
    PointsGone,
}

impl Change {
    /// Returns the change as it appears among this many published points. Points that a backend has
    /// regained are as urgent as new ones if they are more than a twentieth of all.
    pub(super) fn among(self, published: usize) -> Self {
        match self {
            Self::PointsBack(points) if Loss::of(points, published) != Loss::Few => Self::More,
            other => other,
        }
    }
}

/// The share of a period's published points that are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// At most one point in twenty is dead. Clients hardly notice.
    Few,
    /// At most one point in five is dead. Many clients try a dead point first.
    Several,
    /// More points are dead, or nothing is published.
    Many,
}

impl Loss {
    /// Returns the loss if this many of all published points are dead.
    pub(super) fn of(dead: usize, all: usize) -> Self {
        if all == 0 || dead.saturating_mul(5) > all {
            Self::Many
        } else if dead.saturating_mul(20) > all {
            Self::Several
        } else {
            Self::Few
        }
    }
}

/// Returns the request by which a period publishes a change. `used` is true if clients use the
/// period now.
pub(super) fn request(
    change: Change,
    loss: Loss,
    period: TimePeriod,
    used: bool,
    now: Duration,
    rng: &mut impl Rng,
) -> Request {
    if loss == Loss::Many {
        return Request { at: now.saturating_add(DEBOUNCE), urgent: true, forced: false };
    }
    let wait = match (change, loss) {
        (Change::PointsGone | Change::PointsBack(_), Loss::Few) => random(GATHER, period, rng),
        _ => DEBOUNCE,
    };
    let lag = lag_unless(used, period, rng);
    Request { at: now.saturating_add(wait).saturating_add(lag), urgent: false, forced: false }
}

/// Returns no time for a round that must begin `at_once`. Otherwise returns a random time by which
/// a period that clients do not use follows the other one.
pub(super) fn lag_unless(at_once: bool, period: TimePeriod, rng: &mut impl Rng) -> Duration {
    if at_once { Duration::ZERO } else { random(LAG, period, rng) }
}

/// Returns the shortest time between a round of this period and one of another period.
pub(super) fn apart(period: TimePeriod) -> Duration {
    scaled(Duration::from_secs(APART), period)
}

fn random(seconds: RangeInclusive<u64>, period: TimePeriod, rng: &mut impl Rng) -> Duration {
    let milliseconds = seconds.start().saturating_mul(1000)..=seconds.end().saturating_mul(1000);
    scaled(Duration::from_millis(rng.random_range(milliseconds)), period)
}

/// Returns the time on a network with such periods that corresponds to a time on the public
/// network.
pub(super) fn scaled(time: Duration, period: TimePeriod) -> Duration {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(milliseconds.saturating_mul(period.length_minutes) / DAY)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const PUBLIC: TimePeriod = TimePeriod { number: 7, length_minutes: 1440 };
    const TEST: TimePeriod = TimePeriod { number: 7, length_minutes: 8 };
    const MINUTE: Duration = Duration::from_secs(60);

    /// Returns the shortest and the longest of many waits.
    fn waits(change: Change, loss: Loss, period: TimePeriod, used: bool) -> [Duration; 2] {
        let mut rng = StdRng::from_seed([0; 32]);
        let mut waits: Vec<Duration> = Vec::new();
        for _ in 0..500 {
            let Request { at, urgent, forced } = request(change, loss, period, used, MINUTE, &mut rng);
            assert_eq!((urgent, forced), (loss == Loss::Many, false));
            waits.push(at.abs_diff(MINUTE));
        }
        waits.sort_unstable();
        [waits[0], waits[499]]
    }

    #[test]
    fn the_share_of_dead_points_decides() {
        for (dead, all, loss) in [
            (0, 0, Loss::Many),
            (0, 3, Loss::Few),
            (1, 3, Loss::Many),
            (1, 6, Loss::Several),
            (1, 20, Loss::Few),
            (2, 20, Loss::Several),
            (4, 20, Loss::Several),
            (5, 20, Loss::Many),
            (6, 120, Loss::Few),
            (7, 120, Loss::Several),
        ] {
            assert_eq!(Loss::of(dead, all), loss, "{dead} of {all}");
        }
    }

    #[test]
    fn the_period_that_clients_use_shows_new_points_at_once_and_gathers_replaced_ones() {
        let at_once = [DEBOUNCE, DEBOUNCE];
        for loss in [Loss::Few, Loss::Several, Loss::Many] {
            assert_eq!(waits(Change::More, loss, PUBLIC, true), at_once, "{loss:?}");
        }
        for loss in [Loss::Several, Loss::Many] {
            assert_eq!(waits(Change::PointsGone, loss, PUBLIC, true), at_once, "{loss:?}");
        }
        let [shortest, longest] = waits(Change::PointsGone, Loss::Few, PUBLIC, true);
        assert!(shortest >= MINUTE * 4 && shortest < MINUTE * 5, "{shortest:?}");
        assert!(longest <= MINUTE * 8 && longest > MINUTE * 7, "{longest:?}");
    }

    #[test]
    fn regained_points_are_gathered_if_they_are_few() {
        assert_eq!(Change::PointsBack(3).among(60), Change::PointsBack(3));
        for (points, published) in [(4, 60), (1, 3), (1, 0)] {
            assert_eq!(Change::PointsBack(points).among(published), Change::More, "{points} of {published}");
        }
        let [shortest, longest] = waits(Change::PointsBack(1), Loss::Few, PUBLIC, true);
        assert!(shortest >= MINUTE * 4 && longest <= MINUTE * 8, "{shortest:?} {longest:?}");
        assert_eq!(waits(Change::PointsBack(1), Loss::Several, PUBLIC, true), [DEBOUNCE, DEBOUNCE]);
    }

    #[test]
    fn the_other_period_follows_after_minutes_unless_many_points_are_dead() {
        let [shortest, longest] = waits(Change::More, Loss::Few, PUBLIC, false);
        assert!(shortest >= MINUTE * 2 && shortest < MINUTE * 3, "{shortest:?}");
        assert!(longest <= MINUTE * 6 + DEBOUNCE && longest > MINUTE * 5, "{longest:?}");
        assert_eq!(waits(Change::PointsGone, Loss::Many, PUBLIC, false), [DEBOUNCE, DEBOUNCE]);
    }

    #[test]
    fn all_times_are_shorter_on_a_test_network() {
        assert!(waits(Change::PointsGone, Loss::Few, TEST, false)[1] < Duration::from_secs(5));
        assert_eq!((apart(PUBLIC), apart(TEST)), (MINUTE, Duration::from_millis(333)));
    }
}
