//! Tests of different descriptors for different HSDirs.

use std::collections::{BTreeMap, BTreeSet};

use super::network::{HOUR, backend, content, network, point};
use super::world::{Health, Held};
use super::*;
use crate::consensus::Fingerprint;
use crate::merge::{Distinct, PeriodStatus};

/// Returns a world with one publisher that has published these backends in this mode.
fn with(distinct: Distinct, backends: impl IntoIterator<Item = u8>) -> World {
    let mut world = running(&[]);
    world.all(&Input::Distinct(distinct));
    for number in backends {
        world.backend(backend(number, 0));
    }
    world.run(SETTLED);
    world
}

/// Returns the publishing state of the current time period.
fn round(world: &World) -> PeriodStatus {
    world.publishers[0].engine.status().periods.remove(0)
}

/// Returns the descriptors that clients can fetch in the current time period.
fn shown(world: &mut World) -> Vec<Held> {
    let period = round(world).period;
    world.shown(&network(RELAYS, 0), period)
}

type Keys = BTreeSet<[u8; 32]>;

fn keys(held: &Held) -> Keys {
    held.content.introduction_points.iter().map(|point| point.auth_key).collect()
}

/// Returns the number of introduction points that each backend has in these descriptors. A repeated
/// point is counted each time.
pub(super) fn shares<'a>(shown: impl IntoIterator<Item = &'a Held>) -> BTreeMap<u16, usize> {
    let mut shares = BTreeMap::new();
    for point in shown.into_iter().flat_map(|held| &held.content.introduction_points) {
        let [high, low, ..] = point.relay().0;
        *shares.entry(u16::from_be_bytes([high, low]) / 3).or_default() += 1;
    }
    shares
}

/// Returns the difference between the largest and the smallest backend share.
pub(super) fn spread(shares: &BTreeMap<u16, usize>) -> usize {
    shares.values().max().unwrap() - shares.values().min().unwrap()
}

#[test]
fn eight_backends_have_equal_shares_on_every_hsdir() {
    let mut world = with(Distinct::Auto, 0..8);
    let network = network(RELAYS, 0);
    world.assert_converged(&network);
    assert_eq!((round(&world).introduction_points, round(&world).descriptors), (24, 6));
    assert_eq!(world.shares(), [3; 8]);
    for period in network.service_periods() {
        let shown = world.shown(&network, period.period);
        assert_eq!(shown.iter().map(keys).collect::<BTreeSet<_>>().len(), 6, "each HSDir has its own descriptor");
        for held in &shown {
            let shares = shares([held]);
            assert_eq!((shares.len(), shares.values().sum::<usize>(), spread(&shares)), (8, 20, 1));
        }
        assert!(shares(&shown).values().all(|share| *share == 15), "{:?}", shares(&shown));
        // The HSDirs from which no client fetches hold the same descriptors as the others.
        let held = world.held(&network).into_iter().filter(|(of, ..)| *of == period.period);
        let held: BTreeSet<Keys> = held.map(|(_, _, held)| keys(&held.unwrap())).collect();
        assert_eq!(held.len(), 6);
    }
}

#[test]
fn forty_backends_fill_all_slots() {
    let mut world = with(Distinct::Auto, 0..40);
    let shown = shown(&mut world);
    assert_eq!(shown.iter().flat_map(keys).collect::<Keys>().len(), 120);
    assert!(shares(&shown).values().all(|share| *share == 3));
    assert_eq!((round(&world).introduction_points, world.shares()), (120, vec![3; 40]));
}

#[test]
fn twenty_points_fit_into_one_descriptor_and_twenty_one_require_six() {
    let mut world = with(Distinct::Auto, 0..6);
    world.backend((id("small"), std::sync::Arc::new(content([point(900, 900), point(901, 901)]))));
    world.run(seconds(30));
    assert_eq!((round(&world).introduction_points, round(&world).descriptors), (20, 1));
    world.backend((id("small"), std::sync::Arc::new(content((900..903).map(|relay| point(relay, relay))))));
    world.run(seconds(30));
    assert_eq!((round(&world).introduction_points, round(&world).descriptors), (21, 6));
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 0));
}

#[test]
fn points_at_one_relay_are_in_different_descriptors() {
    let mut world = with(Distinct::Auto, []);
    for (name, keys) in [("a", [1, 2]), ("b", [3, 4])] {
        // The first points of both backends are at the same relay.
        let points = content([point(0, keys[0]), point(keys[1], keys[1])]);
        world.backend((id(name), std::sync::Arc::new(points)));
    }
    world.run(seconds(30));
    assert_eq!((round(&world).introduction_points, round(&world).descriptors > 1), (4, true));
    let shown = shown(&mut world);
    assert!(shown.iter().all(|held| keys(held).len() == 3));
    assert_eq!(shown.iter().flat_map(keys).collect::<Keys>().len(), 4);
}

#[test]
fn mode_never_publishes_one_descriptor() {
    let mut world = with(Distinct::Never, 0..7);
    assert_eq!((round(&world).introduction_points, round(&world).descriptors), (20, 1));
    assert!(world.shares().iter().all(|share| [2, 3].contains(share)));
    let before = keys(&shown(&mut world)[0]);
    world.backend(backend(7, 0));
    world.run(seconds(30));
    assert!(world.shares().iter().all(|share| [2, 3].contains(share)), "{:?}", world.shares());
    let after = keys(&shown(&mut world)[0]);
    assert_eq!((after.len(), after.difference(&before).count()), (20, 2));
}

#[test]
fn mode_always_puts_half_of_the_points_into_each_descriptor() {
    let mut world = with(Distinct::Always, 0..4);
    let shown_of = shown(&mut world);
    assert!(shown_of.iter().all(|held| keys(held).len() == 6 && shares([held]).len() == 4), "{:?}", shares(&shown_of));
    assert_eq!(spread(&shares(&shown_of)), 0);
    assert_eq!((round(&world).introduction_points, round(&world).descriptors), (12, 6));
    // Three points are too few to divide.
    let world = with(Distinct::Always, [0]);
    assert_eq!((round(&world).introduction_points, round(&world).descriptors), (3, 1));
}

#[test]
fn a_change_of_the_mode_takes_effect_at_once() {
    let mut world = with(Distinct::Auto, 0..4);
    let rounds = world.publishes().len();
    world.all(&Input::Distinct(Distinct::Never));
    world.run(seconds(10));
    assert_eq!(world.publishes().len(), rounds, "the mode changes nothing for one backend");
    world.all(&Input::Distinct(Distinct::Always));
    world.run(seconds(10));
    assert_eq!((world.publishes().len(), round(&world).descriptors), (rounds + 1, 6));
    world.run(SETTLED);
    world.assert_converged(&network(RELAYS, 0));
}

#[test]
fn a_lost_backend_is_withdrawn_from_all_hsdirs_and_few_points_move() {
    let mut world = with(Distinct::Auto, 0..30);
    let before: Vec<Keys> = shown(&mut world).iter().map(keys).collect();
    world.lose(3);
    world.run(seconds(5));
    world.assert_converged(&network(RELAYS, 0));
    assert!(world.publishers[0].engine.withdrawn(&backend_id(3)));
    let after = shown(&mut world);
    assert!(!shares(&after).contains_key(&3) && spread(&shares(&after)) <= 1);
    let new: usize = after.iter().zip(&before).map(|(after, before)| keys(after).difference(before).count()).sum();
    assert!((4..=8).contains(&new), "{new} new points; the lost backend leaves 4 free slots");
    // Without a change, each HSDir keeps its own descriptor.
    world.all(&Input::TorRestarted);
    world.run(seconds(30));
    assert_eq!(shown(&mut world).iter().map(keys).collect::<Vec<_>>(), after.iter().map(keys).collect::<Vec<_>>());
}

#[test]
fn a_backend_is_withdrawn_when_every_hsdir_has_a_newer_descriptor() {
    let mut world = with(Distinct::Auto, 0..30);
    let period = round(&world).period;
    let held = world.held(&network(RELAYS, 0));
    // This HSDir's descriptor does not contain the backend, and the HSDir has no other descriptor.
    let is_without = |(of, hsdir, descriptor): &&(_, Fingerprint, Option<Held>)| {
        let is_only = held.iter().filter(|(_, other, _)| other == hsdir).count() == 1;
        *of == period && is_only && !shares(descriptor).contains_key(&3)
    };
    let without = held.iter().find(is_without).unwrap().1;
    world.set_health(without, Health::Answers(seconds(8)));
    world.lose(3);
    world.run(seconds(6));
    assert!(!world.publishers[0].engine.withdrawn(&backend_id(3)));
    world.run(seconds(6));
    assert!(world.publishers[0].engine.withdrawn(&backend_id(3)));
}

#[test]
fn hsdirs_that_failed_are_sent_their_own_descriptor_again() {
    let mut world = with(Distinct::Auto, 0..20);
    let network = network(RELAYS, 0);
    let dead: Vec<_> = world.held(&network).into_iter().map(|(_, hsdir, _)| hsdir).step_by(3).collect();
    for hsdir in dead {
        world.set_health(hsdir, Health::Dead);
    }
    world.lose(3);
    world.run(seconds(100));
    let rounds = world.publishes().len();
    world.heal_all();
    world.run(seconds(45));
    world.assert_converged(&network);
    assert_eq!(
        world.publishes().len(),
        rounds,
        "`World` checks that a retry with the same counter sends the same text"
    );
    assert_eq!(spread(&shares(&shown(&mut world))), 1);
}

#[test]
fn all_points_are_published_after_every_change_of_the_hsdirs() {
    let mut world = with(Distinct::Auto, 0..40);
    for first in 1..10 {
        let network = network(first..first + 30, 0);
        world.network(&network);
        world.run(SETTLED);
        world.assert_converged(&network);
        for period in network.service_periods() {
            let shown = world.shown(&network, period.period);
            assert_eq!(shown.iter().flat_map(keys).collect::<Keys>().len(), 120);
        }
    }
}

#[test]
fn a_backend_without_a_slot_waits_and_still_counts_as_usable() {
    let mut world = with(Distinct::Never, 0..30);
    let status = |world: &World| world.publishers[0].engine.status();
    let without = |world: &World| -> BTreeSet<_> {
        let points = status(world).points.into_iter();
        points.filter(|(_, points)| *points == 0).map(|(backend, _)| backend).collect()
    };
    assert_eq!((status(&world).points.len(), status(&world).waiting.len()), (30, 10));
    assert_eq!(status(&world).waiting, without(&world));

    // A new backend changes nothing for clients. It is reported as waiting as soon as points have
    // been selected again.
    let rounds = world.publishes().len();
    world.backend(backend(30, 0));
    assert!(without(&world).contains(&backend_id(30)) && !status(&world).waiting.contains(&backend_id(30)));
    world.run(seconds(30));
    assert_eq!((world.publishes().len(), status(&world).waiting.len()), (rounds, 11));
    assert!(status(&world).waiting.contains(&backend_id(30)));

    // A lost backend no longer waits, and another backend gets its slot.
    let lost = (0..30).find(|number| !without(&world).contains(&backend_id(*number))).unwrap();
    world.lose(lost);
    world.run(seconds(30));
    assert_eq!((status(&world).points.len(), status(&world).waiting.len()), (30, 10));
    assert!(!status(&world).waiting.contains(&backend_id(lost)));

    let mut never_waited: BTreeSet<_> = (0..31).map(backend_id).collect();
    for _ in 0..8 {
        let waiting = status(&world).waiting;
        assert_eq!(waiting, without(&world));
        never_waited.retain(|backend| !waiting.contains(backend));
        world.run(HOUR * 2);
    }
    assert_eq!(never_waited, [backend_id(lost)].into(), "every other backend waits at some time");

    world.all(&Input::Distinct(Distinct::Auto));
    world.run(seconds(30));
    assert!(status(&world).waiting.is_empty());
    world.all(&Input::Leading(false));
    assert!(status(&world).waiting.is_empty());
}

/// Returns the descriptors that clients can fetch in each publishing round within the given number
/// of hours. The consensus, and with it the time period, stays the same.
fn over_rounds(distinct: Distinct, backends: u8, hours: u32) -> Vec<Vec<Held>> {
    let mut world = with(distinct, 0..backends);
    let mut rounds = vec![shown(&mut world)];
    for _ in 0..hours {
        let before = world.publishes().len();
        world.run(HOUR);
        if world.publishes().len() > before {
            rounds.push(shown(&mut world));
        }
    }
    rounds
}

#[test]
fn backends_and_points_take_turns_if_there_are_too_few_slots() {
    for (distinct, backends, places) in [(Distinct::Never, 10, 20), (Distinct::Auto, 60, 120)] {
        let rounds = over_rounds(distinct, backends, 9);
        assert!(rounds.len() >= 5, "{}", rounds.len());
        let mut all = BTreeMap::new();
        let mut points = BTreeMap::<_, usize>::new();
        for shown in &rounds {
            // In this mode, all HSDirs hold the same descriptor.
            let shown = if distinct == Distinct::Never { &shown[..1] } else { shown };
            let of_round = shares(shown);
            assert_eq!(of_round.values().sum::<usize>(), places);
            assert!(of_round.len() < usize::from(backends) || spread(&of_round) <= 1);
            for (backend, share) in of_round {
                *all.entry(backend).or_default() += share;
            }
            shown.iter().flat_map(keys).for_each(|key| *points.entry(key).or_default() += 1);
        }
        assert_eq!(all.len(), usize::from(backends));
        assert!(spread(&all) <= 1, "{all:?}");
        assert_eq!(points.len(), 3 * usize::from(backends), "every point was published");
        assert!(points.values().max().unwrap() - points.values().min().unwrap() <= 1, "{points:?}");
    }
}

#[test]
fn a_new_backend_gets_no_lasting_priority_over_those_that_take_turns() {
    let mut world = with(Distinct::Never, 0..30);
    world.run(HOUR * 8);
    world.backend(backend(30, 0));
    let mut seen = 0;
    for _ in 0..10 {
        world.run(HOUR);
        seen += shares(&shown(&mut world)[..1]).get(&30).copied().unwrap_or_default();
    }
    assert!((3..=9).contains(&seen), "the new backend was seen in {seen} of 10 rounds");
}

#[test]
fn a_change_between_turns_moves_few_points() {
    let mut world = with(Distinct::Auto, 0..60);
    let before: Vec<Keys> = shown(&mut world).iter().map(keys).collect();
    world.run(seconds(600));
    world.lose(3);
    world.run(seconds(5));
    let after = shown(&mut world);
    let new: usize = after.iter().zip(&before).map(|(after, before)| keys(after).difference(before).count()).sum();
    assert!(
        (2..=4).contains(&new) && spread(&shares(&after)) == 1,
        "{new} new points; the lost backend leaves 2 free slots"
    );
}
