use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::merge::tests::network::backend;

/// Returns this many backends with three introduction points each.
fn backends(count: u8) -> Backends {
    let mut backends = Backends::default();
    for number in 0..count {
        let (id, content) = backend(number, 0);
        backends.set(id, &content);
    }
    backends
}

#[test]
fn a_turn_lasts_an_hour_from_the_moment_at_which_there_are_too_many_points() {
    let policy = Policy { distinct: Distinct::Never, discovery: Arc::new(Discovery::Open), subsets: 6 };
    let (mut subsets, mut rng) = (Subsets::default(), StdRng::from_seed([1; 32]));
    let mut merge = |count, minutes: u64| {
        subsets.merge(&backends(count), &policy, Duration::from_secs(60 * minutes), &mut rng).unwrap();
        subsets.turns.backends.values().sum::<u64>()
    };
    // A descriptor has room for 20 points. Nobody waits while there are six backends.
    assert_eq!([merge(6, 0), merge(6, 180), merge(7, 190), merge(7, 239)], [0; 4]);
    assert_eq!([merge(7, 240), merge(7, 299), merge(7, 300)], [20, 20, 40]);
}
