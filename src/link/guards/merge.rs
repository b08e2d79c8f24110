//! Merges what the tors of a service report into the shared sample of guards.
//!
//! The order of the sample never changes, and a new guard comes last. Only the publisher's own tor
//! adds guards and says which ones are in the consensus, because whoever controls one backend could
//! otherwise choose the guards of all pods. The agents' reports only confirm guards.

use std::collections::BTreeSet;

use super::sample::{Guard, GuardSample};

const DAY: u64 = 24 * 60 * 60;
/// The time after which an unlisted guard is removed (guard-spec, `REMOVE_UNLISTED_GUARDS_AFTER`).
const UNLISTED_LIFETIME: u64 = 20 * DAY;
/// The time after which a sampled guard is removed (guard-spec, `GUARD_LIFETIME`).
const LIFETIME: u64 = 120 * DAY;
/// The minimum time for which a confirmed guard is kept (guard-spec,
/// `GUARD_CONFIRMED_MIN_LIFETIME`).
const CONFIRMED_LIFETIME: u64 = 60 * DAY;
/// The number of listed guards up to which the sample grows (guard-spec, `MIN_FILTERED_SAMPLE`).
const WANTED: usize = 20;

/// The newest samples of the tors of a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuardReports<'a> {
    /// The sample of the tor next to the publisher, if it is known.
    pub own: Option<&'a GuardSample>,
    /// The samples that the agents of the backends report.
    pub agents: &'a [&'a GuardSample],
}

impl<'a> GuardReports<'a> {
    fn all(self) -> impl Iterator<Item = &'a GuardSample> {
        self.agents.iter().copied().chain(self.own)
    }
}

impl GuardSample {
    /// Returns the shared sample after the reports have been merged into it. Without a shared
    /// sample, the result is the sample of the publisher's own tor. `now` is the time in seconds
    /// since the Unix epoch. Guards expire by the default values of the consensus parameters. If a
    /// consensus shortens the lifetimes, each tor removes its expired guards by itself.
    pub fn merged(&self, reports: GuardReports<'_>, now: u64) -> Self {
        let mut guards = self.guards().to_vec();
        if let Some(own) = reports.own {
            for guard in &mut guards {
                if let Some(seen) = own.find(guard.identity) {
                    note_presence(guard, seen, now);
                }
            }
        }
        guards.retain(|guard| !is_expired(guard, now));
        if let Some(own) = reports.own {
            extend(&mut guards, own, now);
        }
        confirm(&mut guards, reports, now);
        Self::new(guards).unwrap_or_else(|_| self.clone())
    }

    fn find(&self, identity: [u8; 20]) -> Option<&Guard> {
        self.guards().iter().find(|guard| guard.identity == identity)
    }
}

/// Takes over whether a guard is in the consensus. The first known date of its absence is kept.
fn note_presence(guard: &mut Guard, seen: &Guard, now: u64) {
    guard.unlisted_since = seen.unlisted_since.map(|since| guard.unlisted_since.unwrap_or(since.min(now)));
}

/// Returns true if tor would remove the guard from its sample (guard-spec, "Sampling guards").
fn is_expired(guard: &Guard, now: u64) -> bool {
    let is_older = |date: u64, lifetime: u64| date < now.saturating_sub(lifetime);
    guard.unlisted_since.is_some_and(|since| is_older(since, UNLISTED_LIFETIME))
        || is_older(guard.sampled_on, LIFETIME)
            && guard.confirmed_on.is_none_or(|confirmed| is_older(confirmed, CONFIRMED_LIFETIME))
}

/// Appends new guards of the publisher's own tor until there are enough listed ones.
fn extend(guards: &mut Vec<Guard>, own: &GuardSample, now: u64) {
    let known: BTreeSet<_> = guards.iter().map(|guard| guard.identity).collect();
    let missing = WANTED.saturating_sub(guards.iter().filter(|guard| guard.is_listed()).count());
    let unknown = own.guards().iter().filter(|guard| !known.contains(&guard.identity) && guard.is_listed());
    let new = unknown.map(|guard| Guard { sampled_on: guard.sampled_on.min(now), confirmed_on: None, ..guard.clone() });
    guards.extend(new.filter(|guard| !is_expired(guard, now)).take(missing));
}

/// Confirms guards that tors have used. A tor prefers confirmed guards. Therefore a guard is
/// confirmed only if every listed guard before it is confirmed, or if most tors have confirmed it:
/// a single pod that could not reach the preferred guard must not move the others.
fn confirm(guards: &mut [Guard], reports: GuardReports<'_>, now: u64) {
    let tors = reports.all().count();
    let mut is_next = true;
    for guard in guards {
        if guard.confirmed_on.is_none() {
            let dates: Vec<_> = reports.all().filter_map(|tor| tor.find(guard.identity)?.confirmed_on).collect();
            if is_next || 2 * dates.len() > tors {
                let first = dates.into_iter().min();
                guard.confirmed_on = first.map(|date| date.clamp(guard.sampled_on, now.max(guard.sampled_on)));
            }
        }
        is_next &= guard.confirmed_on.is_some() || !guard.is_listed();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::sample::tests::{any_sample, guard};
    use super::*;

    const NOW: u64 = 1_000 * DAY;

    fn sample(guards: &[Guard]) -> GuardSample {
        GuardSample::new(guards.to_vec()).unwrap()
    }

    fn recent(number: u8) -> Guard {
        guard(number, NOW - DAY)
    }

    fn confirmed(number: u8) -> Guard {
        Guard { confirmed_on: Some(NOW - 10), ..recent(number) }
    }

    fn unlisted(number: u8, days: u64) -> Guard {
        Guard { unlisted_since: Some(NOW - days * DAY), ..recent(number) }
    }

    fn numbers(sample: &GuardSample) -> Vec<u8> {
        sample.guards().iter().map(|guard| guard.identity[0]).collect()
    }

    fn confirmed_numbers(sample: &GuardSample) -> Vec<u8> {
        let confirmed = sample.guards().iter().filter(|guard| guard.confirmed_on.is_some());
        confirmed.map(|guard| guard.identity[0]).collect()
    }

    fn own(own: &GuardSample) -> GuardReports<'_> {
        GuardReports { own: Some(own), agents: &[] }
    }

    #[test]
    fn the_first_sample_is_the_one_of_the_publishers_own_tor() {
        let drawn = sample(&[confirmed(3), recent(1), recent(2)]);
        assert_eq!(GuardSample::default().merged(own(&drawn), NOW), drawn);
        let agents = [&drawn];
        let reports = GuardReports { own: None, agents: &agents };
        assert_eq!(GuardSample::default().merged(reports, NOW), GuardSample::default());
    }

    #[test]
    fn a_new_guard_is_appended_once_and_the_order_is_kept() {
        let shared = sample(&[recent(3), recent(1)]);
        let first = shared.merged(own(&sample(&[recent(7), recent(1), recent(3)])), NOW);
        assert_eq!(numbers(&first), [3, 1, 7]);
        let many: Vec<_> = (0..60).map(recent).collect();
        let full = first.merged(own(&sample(&many)), NOW);
        assert_eq!((full.guards().len(), &numbers(&full)[..4]), (WANTED, &[3, 1, 7, 0][..]));
    }

    #[test]
    fn an_agent_cannot_add_a_guard() {
        let shared = sample(&[recent(1)]);
        let foreign = sample(&[confirmed(9), confirmed(1)]);
        let merged = shared.merged(GuardReports { own: None, agents: &[&foreign] }, NOW);
        assert_eq!(numbers(&merged), [1]);
    }

    #[test]
    fn one_pod_that_cannot_reach_the_first_guard_moves_no_other_pod() {
        let shared = sample(&[recent(1), recent(2), recent(3)]);
        let failing = sample(&[recent(1), confirmed(2), recent(3)]);
        let merged = shared.merged(GuardReports { own: Some(&shared), agents: &[&failing, &shared] }, NOW);
        assert_eq!(confirmed_numbers(&merged), [0; 0]);
        let most = shared.merged(GuardReports { own: Some(&shared), agents: &[&failing, &failing] }, NOW);
        assert_eq!(confirmed_numbers(&most), [2]);
        let used = sample(&[confirmed(1), recent(2), recent(3)]);
        let both = shared.merged(GuardReports { own: Some(&used), agents: &[&failing, &used] }, NOW);
        assert_eq!(confirmed_numbers(&both), [1, 2]);
    }

    #[test]
    fn the_date_of_the_first_confirmation_is_kept() {
        let early = Guard { confirmed_on: Some(NOW - 500), ..recent(1) };
        let forged = Guard { confirmed_on: Some(7), ..recent(1) };
        let (early, forged, late) = (sample(&[early]), sample(&[forged]), sample(&[confirmed(1)]));
        let date = |sample: GuardSample| sample.guards()[0].confirmed_on;
        let shared = sample(&[recent(1)]);
        let merged = shared.merged(GuardReports { own: Some(&late), agents: &[&early] }, NOW);
        assert_eq!(date(merged), Some(NOW - 500));
        let merged = late.merged(GuardReports { own: Some(&late), agents: &[&early] }, NOW);
        assert_eq!(date(merged), Some(NOW - 10), "the shared sample already has a date");
        let merged = shared.merged(GuardReports { own: None, agents: &[&forged] }, NOW);
        assert_eq!(date(merged), Some(NOW - DAY), "a guard is not confirmed before it is sampled");
    }

    #[test]
    fn guards_expire_as_in_tor() {
        let aged = |sampled: u64, confirmed: Option<u64>| Guard {
            confirmed_on: confirmed.map(|days| NOW - days * DAY),
            ..guard(1, NOW - sampled * DAY)
        };
        for (guard, stays) in [
            (unlisted(1, 19), true),
            (unlisted(1, 21), false),
            (aged(119, None), true),
            (aged(121, None), false),
            (aged(121, Some(59)), true),
            (aged(121, Some(61)), false),
            (aged(100, Some(90)), true),
        ] {
            let merged = sample(std::slice::from_ref(&guard)).merged(GuardReports::default(), NOW);
            assert_eq!(!merged.is_empty(), stays, "{guard:?}");
        }
    }

    #[test]
    fn the_publishers_own_tor_says_which_guards_are_listed() {
        let shared = sample(&[recent(1), unlisted(2, 5), unlisted(3, 5)]);
        let seen = sample(&[unlisted(1, 0), recent(2), unlisted(3, 1)]);
        let since = |sample: &GuardSample| sample.guards().iter().map(|guard| guard.unlisted_since).collect::<Vec<_>>();
        assert_eq!(since(&shared.merged(own(&seen), NOW)), [Some(NOW), None, Some(NOW - 5 * DAY)]);
        let agents = GuardReports { own: None, agents: &[&seen] };
        assert_eq!(since(&shared.merged(agents, NOW)), since(&shared));
    }

    proptest! {
        #[test]
        fn agents_change_nothing_but_confirmations(
            shared in any_sample(NOW), reported in vec(any_sample(NOW), 0..4), now in 0..2 * NOW,
        ) {
            let plain = shared.merged(GuardReports::default(), now);
            let agents: Vec<_> = reported.iter().collect();
            let merged = shared.merged(GuardReports { own: None, agents: &agents }, now);
            let without = |sample: &GuardSample| {
                let guards = sample.guards().iter().map(|guard| Guard { confirmed_on: None, ..guard.clone() });
                guards.collect::<Vec<_>>()
            };
            prop_assert_eq!(without(&merged), without(&plain));
            for (old, new) in plain.guards().iter().zip(merged.guards()) {
                prop_assert!(old.confirmed_on.is_none() || old.confirmed_on == new.confirmed_on);
            }
        }

        #[test]
        fn the_order_and_the_dates_of_the_shared_guards_are_kept(
            shared in any_sample(NOW), drawn in option::of(any_sample(NOW)), now in 0..2 * NOW,
        ) {
            let merged = shared.merged(GuardReports { own: drawn.as_ref(), agents: &[] }, now);
            let kept: Vec<_> = numbers(&shared).into_iter().filter(|number| numbers(&merged).contains(number)).collect();
            let old_ones: Vec<_> =
                numbers(&merged).into_iter().filter(|number| numbers(&shared).contains(number)).collect();
            // A guard of the shared sample that has expired can come back as a new guard.
            let came_back = numbers(&merged).iter().any(|number| {
                let old = shared.find([*number; 20]);
                old.is_some_and(|old| merged.find([*number; 20]).is_some_and(|new| new.sampled_on != old.sampled_on))
            });
            prop_assert!(kept == old_ones || came_back);
        }

        #[test]
        fn merging_the_same_reports_again_changes_nothing(
            shared in any_sample(NOW), drawn in option::of(any_sample(NOW)),
            reported in vec(any_sample(NOW), 0..4), now in 0..2 * NOW,
        ) {
            let agents: Vec<_> = reported.iter().collect();
            let reports = GuardReports { own: drawn.as_ref(), agents: &agents };
            let once = shared.merged(reports, now);
            prop_assert_eq!(once.merged(reports, now), once);
        }
    }
}
