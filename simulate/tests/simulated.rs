//! A simulated week with faults, and the behaviour in single situations.

use std::collections::BTreeMap;

use onionbalance_simulate::time::{DAY, HOUR, MINUTE};
use onionbalance_simulate::{Health, Plan, World};

/// Returns the plan of a network without faults.
fn quiet(seed: u64) -> Plan {
    Plan { seed, faults: false, visits_per_hour: 20, ..Plan::default() }
}

#[test]
fn a_week_with_faults_keeps_the_invariants() -> anyhow::Result<()> {
    let mut world = World::new(Plan { seed: 1, relays: 3000, backends: 12, ..Plan::default() })?;
    world.run_until(DAY * 7)?;
    let figures = &world.figures;
    assert!(figures.fresh.all > 10_000 && figures.faults > 100, "{:?} {}", figures.fresh, figures.faults);
    assert!(figures.success_percent() >= 99.99, "{:?} {:?}", figures.fresh, figures.failures);
    assert_eq!(figures.foreign, 0, "nobody else has the key");
    // The first day does not count, because the publishers start then.
    let most = |days: std::ops::Range<usize>| figures.entries[days].iter().max().copied().unwrap_or_default();
    assert!(most(4..7) <= most(1..4) + most(1..4) / 5, "the engines' memory grows: {:?}", figures.entries);
    Ok(())
}

/// At midnight, a new shared random value takes effect, and all backends replace their points when
/// they get the consensus, that is, within 111 minutes.
#[test]
fn sixty_backends_that_rotate_cause_at_most_twenty_rounds_in_each_period() -> anyhow::Result<()> {
    let mut world = World::new(Plan { start_hour: 22, ..quiet(2) })?;
    let midnight = HOUR * 2;
    world.run_until(midnight + MINUTE * 130)?;
    let mut rounds = world.figures.rounds.clone();
    rounds.retain(|(at, _, _)| (midnight..midnight + MINUTE * 111).contains(at));
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for (_, period, _) in &rounds {
        *counts.entry(*period).or_default() += 1;
    }
    assert!(counts.len() >= 2 && counts.values().all(|count| (1..=20).contains(count)), "{counts:?}");
    for pair in rounds.windows(2) {
        let [(first, one, _), (second, other, _)] = pair else { continue };
        assert!(one == other || second.abs_diff(*first) >= MINUTE, "{first:?} {second:?}");
    }
    Ok(())
}

#[test]
fn an_hsdir_that_rejects_and_then_accepts_causes_at_most_two_rounds_for_a_change() -> anyhow::Result<()> {
    let mut world = World::new(Plan { backends: 6, ..quiet(3) })?;
    world.run_until(HOUR * 4)?;
    let (rounds, rises) = (world.figures.rounds.len() as u64, world.counter_rises());
    let hsdir = world.asked().first().copied().ok_or_else(|| anyhow::anyhow!("no HSDir"))?;
    for turn in 0..24 {
        let health = if turn % 2 == 0 { Health::Rejects } else { Health::Answers };
        world.set_health(hsdir, health);
        world.run_until(HOUR * 4 + MINUTE * 15 * (turn + 1))?;
    }
    let rises = world.counter_rises() - rises;
    let changes = world.figures.rounds.len() as u64 - rounds - rises;
    assert!(rises > 0 && rises <= 2 * changes, "{rises} rises, {changes} changes");
    for (period, counter, latest) in world.counters() {
        assert!(counter < latest, "the counter {counter} of {period:?} exceeds {latest}");
    }
    Ok(())
}
