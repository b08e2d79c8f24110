//! Decides when to probe, and which port.

use std::collections::BTreeMap;
use std::time::Duration;

/// The time from the moment at which there is something to probe to the first probe. A new
/// descriptor is not on all HSDirs at once. If the period is shorter, the first probe begins after
/// one period.
const FIRST: Duration = Duration::from_secs(30);
/// The largest part of the period by which a probe begins early. Probes at exactly equal intervals
/// would be easy to recognise.
const JITTER: f64 = 0.1;

/// The times of the probes of one service. All times are monotonic.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// The time of the next probe. None while there is nothing to probe.
    next: Option<Duration>,
    /// The time at which the last probe of each port began.
    begun: BTreeMap<u16, Duration>,
}

impl Schedule {
    /// Returns the time of the next probe. None if there is nothing to probe, which is the case if
    /// `period` is None. A shorter period takes effect at once.
    pub(super) fn due(&mut self, period: Option<Duration>, now: Duration) -> Option<Duration> {
        let period = period?;
        let latest = now.saturating_add(period);
        let next = self.next.unwrap_or_else(|| now.saturating_add(FIRST.min(period))).min(latest);
        self.next = Some(next);
        self.next
    }

    /// Ends the schedule while there is nothing to probe.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    /// Starts a probe and returns its port: the one that was probed least recently. `chance` is a
    /// random number from 0 to 1.
    pub(super) fn begin(&mut self, ports: &[u16], period: Duration, chance: f64, now: Duration) -> Option<u16> {
        self.begun.retain(|port, _| ports.contains(port));
        self.next = Some(now.saturating_add(period.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))));
        let port = ports.iter().copied().min_by_key(|port| self.begun.get(port).copied())?;
        self.begun.insert(port, now);
        Some(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_probe_waits_for_the_uploads_and_the_next_ones_for_a_period() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(None, at(0)), None);
        assert_eq!(schedule.due(Some(PERIOD), at(10)), Some(at(40)));
        assert_eq!(schedule.due(Some(PERIOD), at(20)), Some(at(40)), "the time does not move");
        assert_eq!(schedule.begin(&[80], PERIOD, 0.0, at(40)), Some(80));
        assert_eq!(schedule.due(Some(PERIOD), at(41)), Some(at(340)));
        assert_eq!(schedule.due(Some(at(60)), at(50)), Some(at(110)), "a shorter period takes effect at once");
        schedule.stop();
        assert_eq!(schedule.due(Some(at(10)), at(120)), Some(at(130)), "after another one's turn");
    }

    #[test]
    fn a_probe_never_begins_late() {
        for chance in [0.0, 0.3, 1.0, 7.0] {
            let mut schedule = Schedule::default();
            schedule.begin(&[80], PERIOD, chance, at(0));
            let next = schedule.due(Some(PERIOD), at(0)).unwrap();
            assert!((at(269)..=PERIOD).contains(&next), "{next:?}");
        }
    }

    #[test]
    fn the_ports_take_turns() {
        let mut schedule = Schedule::default();
        let mut turn = |ports: &[u16], now| schedule.begin(ports, PERIOD, 0.0, at(now));
        assert_eq!([turn(&[80, 443], 1), turn(&[80, 443], 2), turn(&[80, 443], 3)], [Some(80), Some(443), Some(80)]);
        assert_eq!(turn(&[80, 443, 22], 4), Some(22), "a new port comes first");
        assert_eq!(turn(&[80, 22], 5), Some(80));
        assert_eq!(turn(&[], 6), None);
    }
}
