//! The queue of fetches: few at a time, spaced, so that our guard does not see a burst of circuits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::consensus::Fingerprint;
use crate::control::{HsDescAction, HsDescEvent};
use crate::onion::OnionAddress;

/// Fetches on their way at a time, of all services together.
const AT_A_TIME: usize = 6;
/// Between the starts of two.
const SPACING: Duration = Duration::from_millis(200);
/// From the start of one to its end. A dead HSDir may never be told of; a circuit to a slow one takes tor a minute at most.
const DEADLINE: Duration = Duration::from_secs(60);

/// A descriptor to fetch: whose, and from which HSDir.
pub(super) type Matter = (OnionAddress, Fingerprint);

/// Fetches in the order of their coming. Who asks for what is asked for already shares the answer.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// By whom each is asked for: those that wait, and those on their way.
    askers: BTreeMap<Matter, BTreeSet<OnionAddress>>,
    waiting: VecDeque<Matter>,
    /// Until when.
    under_way: BTreeMap<Matter, Instant>,
    /// When the next may start.
    next: Option<Instant>,
}

impl Fetches {
    pub(super) fn order(&mut self, service: OnionAddress, matter: Matter) {
        let askers = self.askers.entry(matter).or_default();
        if askers.is_empty() {
            self.waiting.push_back(matter);
        }
        askers.insert(service);
    }

    /// When to call [`Self::expired`] and [`Self::start`] next.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let room = !self.waiting.is_empty() && self.under_way.len() < AT_A_TIME;
        let start = room.then(|| self.next.unwrap_or(now));
        start.into_iter().chain(self.under_way.values().copied()).min()
    }

    /// The one that is to start now.
    pub(super) fn start(&mut self, now: Instant) -> Option<Matter> {
        if self.under_way.len() >= AT_A_TIME || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let matter = self.waiting.pop_front()?;
        self.under_way.insert(matter, now + DEADLINE);
        self.next = Some(now + SPACING);
        Some(matter)
    }

    /// One that took too long, and who asked for it.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(Matter, BTreeSet<OnionAddress>)> {
        let (matter, _) = self.under_way.iter().find(|(_, deadline)| **deadline <= now)?;
        let matter = *matter;
        Some((matter, self.ended(matter)))
    }

    /// It is over: who asked for it; nobody if it was not on its way.
    pub(super) fn ended(&mut self, matter: Matter) -> BTreeSet<OnionAddress> {
        match self.under_way.remove(&matter) {
            Some(_) => self.askers.remove(&matter).unwrap_or_default(),
            None => BTreeSet::new(),
        }
    }

    /// Which fetch on its way an event says to have failed.
    pub(super) fn failed(&self, event: &HsDescEvent) -> Option<Matter> {
        let matter = (event.address?, Fingerprint(event.hsdir?));
        (event.action == HsDescAction::Failed && self.under_way.contains_key(&matter)).then_some(matter)
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
    fn who_asks_for_what_is_asked_for_shares_the_answer() {
        let now = Instant::now();
        let (mut fetches, matter) = (Fetches::default(), (address(0), hsdir(1)));
        fetches.order(address(1), matter);
        fetches.order(address(2), matter);
        fetches.order(address(2), matter);
        assert_eq!(fetches.start(now), Some(matter));
        assert_eq!(fetches.start(now + SPACING), None, "it is one fetch");
        fetches.order(address(0), matter);
        assert_eq!(fetches.start(now + SPACING), None, "also while it is on its way");
        assert_eq!(fetches.ended(matter), BTreeSet::from([address(0), address(1), address(2)]));
        assert_eq!(fetches.ended(matter), BTreeSet::new());
        fetches.order(address(1), matter);
        assert_eq!(fetches.start(now + SPACING), Some(matter), "a new one");
    }

    #[test]
    fn only_what_is_on_its_way_fails() {
        let now = Instant::now();
        let (mut fetches, matter) = (Fetches::default(), (address(0), hsdir(7)));
        let failed = event(HsDescAction::Failed, Some(address(0)), hsdir(7), Some("NOT_FOUND"));
        fetches.order(address(1), matter);
        assert_eq!(fetches.failed(&failed), None);
        fetches.start(now);
        assert_eq!(fetches.failed(&failed), Some(matter));
        assert_eq!(fetches.failed(&event(HsDescAction::Received, Some(address(0)), hsdir(7), None)), None);
        assert_eq!(fetches.failed(&event(HsDescAction::Failed, Some(address(1)), hsdir(7), None)), None);
    }

    proptest! {
        /// Whatever is asked for and whatever ends when: few at a time, spaced, each in its turn, none for ever.
        #[test]
        fn the_guard_is_not_flooded(steps in prop::collection::vec((0..SERVICES, 0..SERVICES, 0..20_u8, 0..3_u8, 0..1_000_u64), 1..200)) {
            let mut now = Instant::now();
            let mut fetches = Fetches::default();
            let (mut owed, mut started): (BTreeSet<(usize, Matter)>, Vec<Instant>) = Default::default();
            let settle = |fetches: &mut Fetches, matter, askers: BTreeSet<OnionAddress>, owed: &mut BTreeSet<(usize, Matter)>| {
                for service in 0..SERVICES {
                    prop_assert_eq!(owed.remove(&(service, matter)), askers.contains(&address(service)));
                }
                prop_assert!(!fetches.under_way.contains_key(&matter));
                Ok(())
            };
            let turn = |fetches: &mut Fetches, now: Instant, owed: &mut BTreeSet<(usize, Matter)>, started: &mut Vec<Instant>| {
                while let Some((matter, askers)) = fetches.expired(now) {
                    settle(fetches, matter, askers, owed)?;
                }
                while fetches.start(now).is_some() {
                    prop_assert!(started.last().is_none_or(|last| now >= *last + SPACING));
                    started.push(now);
                }
                prop_assert!(fetches.under_way.len() <= AT_A_TIME);
                Ok(())
            };
            for (service, whose, at, end, millis) in steps {
                let matter = (address(whose), hsdir(at));
                fetches.order(address(service), matter);
                owed.insert((service, matter));
                if end == 0 && let Some(matter) = fetches.under_way.keys().next().copied() {
                    let askers = fetches.ended(matter);
                    settle(&mut fetches, matter, askers, &mut owed)?;
                }
                turn(&mut fetches, now, &mut owed, &mut started)?;
                now += Duration::from_millis(millis);
            }
            // Nobody answers any more: all come to their deadlines, by the times that are told.
            while let Some(due) = fetches.due(now) {
                prop_assert!(due <= now + DEADLINE);
                now = now.max(due);
                turn(&mut fetches, now, &mut owed, &mut started)?;
            }
            prop_assert!(owed.is_empty(), "{owed:?}");
        }
    }
}
