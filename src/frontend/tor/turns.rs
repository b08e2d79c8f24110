//! Gives the services turns, in which they hear of a new connection or a new network. A service
//! publishes all of its descriptors then, so the turns of a daemon with many services are spaced
//! out: tor and its guard would otherwise see the uploads of all services at once.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::onion::OnionAddress;

/// The time between the turns of two services. A turn causes about 16 uploads.
pub(super) const SPACING: Duration = Duration::from_millis(500);
/// The maximum time in which each of the services gets a turn.
const ROUND: Duration = Duration::from_secs(120);

/// The services that wait for their turns, in the order of the requests.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: VecDeque<OnionAddress>,
    /// The time of the last turn.
    last: Option<Instant>,
}

impl Turns {
    /// Requests a turn for a service, unless the service waits for one already.
    pub(super) fn request(&mut self, service: OnionAddress) {
        if !self.waiting.contains(&service) {
            self.waiting.push_back(service);
        }
    }

    /// Returns the time of the next turn, or None if no service waits. `services` is the number of
    /// all services. The only service of a frontend pod never waits.
    pub(super) fn due(&self, now: Instant, services: usize) -> Option<Instant> {
        let next = self.last.map_or(now, |last| last + spacing(services));
        (!self.waiting.is_empty()).then_some(next)
    }

    /// Starts a turn if one is due, and returns its service.
    pub(super) fn start(&mut self, now: Instant, services: usize) -> Option<OnionAddress> {
        self.due(now, services).filter(|due| *due <= now)?;
        self.last = Some(now);
        self.waiting.pop_front()
    }
}

fn spacing(services: usize) -> Duration {
    if services <= 1 {
        return Duration::ZERO;
    }
    SPACING.min(ROUND / u32::try_from(services).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::address;
    use super::*;

    #[test]
    fn the_only_service_never_waits() {
        let (now, mut turns) = (Instant::now(), Turns::default());
        for _ in 0..3 {
            assert_eq!(turns.due(now, 1), None);
            turns.request(address(0));
            assert_eq!(turns.start(now, 1), Some(address(0)));
        }
    }

    #[test]
    fn a_request_is_made_once_and_in_order() {
        let (mut now, mut turns) = (Instant::now(), Turns::default());
        for index in [1, 0, 1, 2, 0] {
            turns.request(address(index));
        }
        for index in [1, 0, 2] {
            assert_eq!(turns.start(now, 3), Some(address(index)));
            assert_eq!(turns.start(now, 3), None);
            now += SPACING;
        }
        assert_eq!(turns.due(now, 3), None);
    }

    #[test]
    fn many_services_are_spaced_out_within_a_round() {
        for (services, expected) in [(2, SPACING), (100, SPACING), (1000, ROUND / 1000)] {
            assert_eq!(spacing(services), expected, "{services}");
        }
    }

    proptest! {
        /// Each request is served, and two turns are never closer than the spacing.
        #[test]
        fn turns_are_spaced_out(requests in prop::collection::vec((0..3_usize, 0..2_000_u64), 1..50)) {
            let (mut now, mut turns) = (Instant::now(), Turns::default());
            let mut last: Option<Instant> = None;
            for (index, millis) in requests {
                turns.request(address(index));
                now += Duration::from_millis(millis);
                if turns.start(now, 3).is_some() {
                    prop_assert!(last.is_none_or(|last| now >= last + SPACING));
                    last = Some(now);
                }
            }
            while let Some(due) = turns.due(now, 3) {
                prop_assert!(due <= now.max(last.unwrap_or(now) + SPACING));
                now = now.max(due);
                prop_assert!(turns.start(now, 3).is_some());
                last = Some(now);
            }
        }
    }
}
