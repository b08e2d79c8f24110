//! Queues fetches. Only a few run at a time, and their starts are spaced out, so that tor's guard
//! does not see bursts of circuits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::consensus::Fingerprint;
use crate::control::{HsDescAction, HsDescEvent};
use crate::onion::OnionAddress;

/// The maximum number of concurrent fetches of all services together.
const AT_A_TIME: usize = 6;
/// The shortest time between the starts of two fetches.
const SPACING: Duration = Duration::from_millis(200);
/// The time after which a fetch is considered failed. If the HSDir is dead, tor might never report
/// a result. If the HSDir is slow, tor takes at most a minute to build the circuit.
const DEADLINE: Duration = Duration::from_secs(60);

/// A descriptor to fetch: its onion address, and the HSDir to fetch it from.
pub(super) type Target = (OnionAddress, Fingerprint);

/// A queue of fetches, in the order of the requests. Services that request the same fetch share its
/// result.
#[derive(Debug, Default)]
pub(super) struct FetchQueue {
    /// For each waiting or running fetch, the services that requested it.
    askers: BTreeMap<Target, BTreeSet<OnionAddress>>,
    waiting: VecDeque<Target>,
    /// The deadline of each running fetch.
    under_way: BTreeMap<Target, Instant>,
    /// The earliest time at which the next fetch may start.
    next: Option<Instant>,
}

impl FetchQueue {
    /// Adds a fetch for a service.
    pub(super) fn order(&mut self, service: OnionAddress, target: Target) {
        let askers = self.askers.entry(target).or_default();
        if askers.is_empty() {
            self.waiting.push_back(target);
        }
        askers.insert(service);
    }

    /// Returns the time at which [`Self::expired`] and [`Self::start`] must be called next.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let room = !self.waiting.is_empty() && self.under_way.len() < AT_A_TIME;
        let start = room.then(|| self.next.unwrap_or(now));
        start.into_iter().chain(self.under_way.values().copied()).min()
    }

    /// Starts and returns the next fetch if one may start now.
    pub(super) fn start(&mut self, now: Instant) -> Option<Target> {
        if self.under_way.len() >= AT_A_TIME || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let target = self.waiting.pop_front()?;
        self.under_way.insert(target, now + DEADLINE);
        self.next = Some(now + SPACING);
        Some(target)
    }

    /// Ends a fetch that has taken too long. Returns it with the services that requested it.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(Target, BTreeSet<OnionAddress>)> {
        let (target, _) = self.under_way.iter().find(|(_, deadline)| **deadline <= now)?;
        let target = *target;
        Some((target, self.ended(target)))
    }

    /// Ends a fetch and returns the services that requested it. The set is empty if the fetch was
    /// not running.
    pub(super) fn ended(&mut self, target: Target) -> BTreeSet<OnionAddress> {
        match self.under_way.remove(&target) {
            Some(_) => self.askers.remove(&target).unwrap_or_default(),
            None => BTreeSet::new(),
        }
    }

    /// Returns the running fetch that an event reports as failed.
    pub(super) fn failed(&self, event: &HsDescEvent) -> Option<Target> {
        let target = (event.address?, Fingerprint(event.hsdir?));
        (event.action == HsDescAction::Failed && self.under_way.contains_key(&target)).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{address, event};
    use super::*;

    const SERVICES: usize = 3;

    fn hsdir(number: u8) -> Fingerprint {
        Fingerprint([number; 20])
    }

    #[test]
    fn services_that_request_the_same_fetch_share_its_result() {
        let now = Instant::now();
        let (mut fetches, target) = (FetchQueue::default(), (address(0), hsdir(1)));
        fetches.order(address(1), target);
        fetches.order(address(2), target);
        fetches.order(address(2), target);
        assert_eq!(fetches.start(now), Some(target));
        assert_eq!(fetches.start(now + SPACING), None, "both services share one fetch");
        fetches.order(address(0), target);
        assert_eq!(fetches.start(now + SPACING), None, "a running fetch is shared as well");
        assert_eq!(fetches.ended(target), BTreeSet::from([address(0), address(1), address(2)]));
        assert_eq!(fetches.ended(target), BTreeSet::new());
        fetches.order(address(1), target);
        assert_eq!(fetches.start(now + SPACING), Some(target), "a new fetch starts");
    }

    #[test]
    fn only_a_running_fetch_can_fail() {
        let now = Instant::now();
        let (mut fetches, target) = (FetchQueue::default(), (address(0), hsdir(7)));
        let failed = event(HsDescAction::Failed, Some(address(0)), hsdir(7), Some("NOT_FOUND"));
        fetches.order(address(1), target);
        assert_eq!(fetches.failed(&failed), None);
        fetches.start(now);
        assert_eq!(fetches.failed(&failed), Some(target));
        assert_eq!(fetches.failed(&event(HsDescAction::Received, Some(address(0)), hsdir(7), None)), None);
        assert_eq!(fetches.failed(&event(HsDescAction::Failed, Some(address(1)), hsdir(7), None)), None);
    }

    proptest! {
        /// Checks for any sequence of requests and results that the queue limits the number of
        /// fetches, spaces them out, and ends each of them.
        #[test]
        fn the_guard_is_not_flooded(steps in prop::collection::vec((0..SERVICES, 0..SERVICES, 0..20_u8, 0..3_u8, 0..1_000_u64), 1..200)) {
            let mut now = Instant::now();
            let mut fetches = FetchQueue::default();
            let (mut owed, mut started): (BTreeSet<(usize, Target)>, Vec<Instant>) = Default::default();
            let settle = |fetches: &mut FetchQueue, target, askers: BTreeSet<OnionAddress>, owed: &mut BTreeSet<(usize, Target)>| {
                for service in 0..SERVICES {
                    prop_assert_eq!(owed.remove(&(service, target)), askers.contains(&address(service)));
                }
                prop_assert!(!fetches.under_way.contains_key(&target));
                Ok(())
            };
            let turn = |fetches: &mut FetchQueue, now: Instant, owed: &mut BTreeSet<(usize, Target)>, started: &mut Vec<Instant>| {
                while let Some((target, askers)) = fetches.expired(now) {
                    settle(fetches, target, askers, owed)?;
                }
                while fetches.start(now).is_some() {
                    prop_assert!(started.last().is_none_or(|last| now >= *last + SPACING));
                    started.push(now);
                }
                prop_assert!(fetches.under_way.len() <= AT_A_TIME);
                Ok(())
            };
            for (service, whose, at, end, millis) in steps {
                let target = (address(whose), hsdir(at));
                fetches.order(address(service), target);
                owed.insert((service, target));
                if end == 0 && let Some(target) = fetches.under_way.keys().next().copied() {
                    let askers = fetches.ended(target);
                    settle(&mut fetches, target, askers, &mut owed)?;
                }
                turn(&mut fetches, now, &mut owed, &mut started)?;
                now += Duration::from_millis(millis);
            }
            // Without further answers, all fetches reach their deadlines at the returned times.
            while let Some(due) = fetches.due(now) {
                prop_assert!(due <= now + DEADLINE);
                now = now.max(due);
                turn(&mut fetches, now, &mut owed, &mut started)?;
            }
            prop_assert!(owed.is_empty(), "{owed:?}");
        }
    }
}
