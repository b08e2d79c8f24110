use proptest::prelude::*;

use super::*;

use TargetState::{Failing, Passing, Unknown};

fn id(number: usize) -> BackendId {
    BackendId(number.to_string())
}

fn target(port: u16, state: TargetState, fresh: Option<bool>) -> TargetHealth {
    let problem = (state == Failing).then(|| "cannot connect".to_owned());
    TargetHealth { port, state, fresh, problem }
}

/// The position of a leader that knows the reports of all backends.
const LEADER: Position = Position { leads: true, is_complete: true };

/// Backends whose agents check each target once in every round.
struct World {
    comparison: Comparison,
    /// The states of each backend's targets.
    states: Vec<BTreeMap<u16, TargetState>>,
}

impl World {
    fn new(states: &[&[(u16, TargetState)]]) -> Self {
        let states = states.iter().map(|ports| ports.iter().copied().collect()).collect();
        Self { comparison: Comparison::default(), states }
    }

    /// Lets one agent report. It has checked its targets since the newest round.
    fn report(&mut self, number: usize) {
        let round = self.comparison.round();
        let fresh = |state: TargetState| (round > 0 && state != Unknown).then_some(state == Passing);
        let ports = self.states[number].iter().map(|(port, state)| target(*port, *state, fresh(*state))).collect();
        self.comparison.report(id(number), TargetReport { round, ports });
        self.comparison.judge(LEADER, |_| true);
    }

    /// Lets all agents report until nothing changes any more. Returns the withdrawn backends.
    fn settle(&mut self) -> Vec<usize> {
        for _ in 0..6 {
            for number in 0..self.states.len() {
                self.report(number);
            }
        }
        (0..self.states.len()).filter(|number| self.comparison.has_withdrawn(&id(*number))).collect()
    }
}

/// The list of the withdrawn backends if none is withdrawn.
const NOBODY: [usize; 0] = [];

#[test]
fn the_backend_that_fails_while_another_one_passes_is_withdrawn_and_returns() {
    let mut world = World::new(&[&[(80, Passing)], &[(80, Failing)], &[(80, Passing)]]);
    assert_eq!(world.settle(), [1]);
    assert_eq!(world.comparison.failing(&id(1)), BTreeMap::from([(80, "cannot connect".to_owned())]));
    world.states[1].insert(80, Passing);
    assert_eq!(world.settle(), NOBODY);
}

#[test]
fn if_all_backends_fail_all_stay() {
    let mut world = World::new(&[&[(80, Failing)], &[(80, Failing)], &[(80, Failing)]]);
    assert_eq!(world.settle(), NOBODY);
    assert_eq!(world.comparison.round(), 0, "nothing is checked more often than usual");
    world.states[0].insert(80, Passing);
    assert_eq!(world.settle(), [1, 2]);
    world.states[0].insert(80, Failing);
    assert_eq!(world.settle(), NOBODY, "the last backend fails too");
}

#[test]
fn ports_are_compared_one_by_one() {
    let mut world = World::new(&[&[(80, Failing), (443, Passing)], &[(80, Passing), (443, Failing)]]);
    assert_eq!(world.settle(), NOBODY, "each backend serves a port that the other one does not");
    let mut world = World::new(&[&[(80, Failing), (443, Failing)], &[(80, Passing), (443, Failing)]]);
    assert_eq!(world.settle(), [0]);
}

#[test]
fn a_backend_without_a_report_or_without_points_replaces_nobody() {
    let mut world = World::new(&[&[(80, Failing)], &[], &[(80, Unknown)]]);
    assert_eq!(world.settle(), NOBODY);
    let mut world = World::new(&[&[(80, Failing)], &[(80, Passing)]]);
    for number in [0, 1, 0, 1, 0, 1] {
        world.report(number);
        assert!(world.comparison.judge(LEADER, |other| *other == id(0)).len() <= 1);
    }
    world.comparison.judge(LEADER, |other| *other == id(0));
    assert!(!world.comparison.has_withdrawn(&id(0)), "the other backend has no introduction points");
}

/// While the app is replaced, the agents notice its end and its return at different times.
#[test]
fn old_results_do_not_show_that_a_backend_is_worse() {
    let mut comparison = Comparison::default();
    let report = |comparison: &mut Comparison, number, state, fresh| {
        let round = comparison.round();
        comparison.report(id(number), TargetReport { round, ports: vec![target(80, state, fresh)] });
        comparison.judge(LEADER, |_| true);
        comparison.withdrawn().len()
    };
    // Backend 1 has not noticed yet that the app has stopped.
    assert_eq!(report(&mut comparison, 1, Passing, None), 0);
    assert_eq!(report(&mut comparison, 0, Failing, None), 0);
    assert_eq!(comparison.round(), 1);
    assert_eq!(report(&mut comparison, 0, Failing, Some(false)), 0);
    assert_eq!(report(&mut comparison, 1, Passing, Some(false)), 0, "backend 1 notices");
    // The app is back. Backend 1 notices first.
    assert_eq!(report(&mut comparison, 1, Passing, Some(true)), 0);
    assert_eq!(comparison.round(), 2);
    assert_eq!(report(&mut comparison, 0, Failing, None), 0);
    assert_eq!(report(&mut comparison, 0, Failing, Some(true)), 0, "one success is not enough to pass");
    assert_eq!(report(&mut comparison, 0, Passing, Some(true)), 0);
    // Only backend 0 loses its way to the app.
    assert_eq!(report(&mut comparison, 0, Failing, Some(false)), 0);
    assert_eq!(report(&mut comparison, 1, Passing, Some(true)), 0);
    assert_eq!(report(&mut comparison, 0, Failing, Some(false)), 1);
}

/// A predecessor has probably withdrawn the backend.
#[test]
fn a_new_leader_holds_a_failing_backend_back_until_the_comparison_has_ended() {
    let early = Position { is_complete: false, ..LEADER };
    let report = |comparison: &mut Comparison, position, number, state, fresh| {
        let round = comparison.round();
        comparison.report(id(number), TargetReport { round, ports: vec![target(80, state, fresh)] });
        comparison.judge(position, |_| true);
        comparison.holds_back(&id(0))
    };
    let mut comparison = Comparison::default();
    assert!(report(&mut comparison, early, 0, Failing, None), "the others are not known yet");
    assert!(report(&mut comparison, LEADER, 1, Passing, None), "another one seems to be better");
    assert!(!comparison.holds_back(&id(1)) && !comparison.holds_back(&id(2)), "only the failing one");
    assert!(report(&mut comparison, LEADER, 1, Passing, Some(true)));
    assert!(report(&mut comparison, LEADER, 0, Failing, Some(false)));
    assert!(comparison.has_withdrawn(&id(0)));
    assert!(!report(&mut comparison, early, 1, Failing, Some(false)), "the other one fails, too");
    assert!(!report(&mut comparison, LEADER, 1, Passing, Some(true)), "what has been published stays meanwhile");

    let mut comparison = Comparison::default();
    assert!(report(&mut comparison, early, 0, Failing, None));
    assert_eq!(comparison.judge(LEADER, |_| true), BTreeSet::from([id(0)]), "no other one is better");
    assert!(!comparison.holds_back(&id(0)));
}

#[test]
fn a_standby_does_not_keep_a_failing_backend_for_the_time_when_it_leads() {
    let standby = Position { leads: false, ..LEADER };
    let mut comparison = Comparison::default();
    let mut report = |position, number, state| {
        let round = comparison.round();
        comparison.report(id(number), TargetReport { round, ports: vec![target(80, state, None)] });
        comparison.judge(position, |_| true);
        comparison.holds_back(&id(0))
    };
    assert!(!report(standby, 0, Passing));
    assert!(!report(standby, 1, Passing));
    assert!(report(standby, 0, Failing));
    assert!(report(LEADER, 1, Passing));
    assert!(!report(LEADER, 0, Passing));
    assert!(!report(LEADER, 0, Failing), "the leader has published this backend");
}

#[test]
fn a_silent_backend_is_forgotten() {
    let mut world = World::new(&[&[(80, Failing)], &[(80, Passing)]]);
    assert_eq!(world.settle(), [0]);
    world.comparison.forget(&id(1));
    assert_eq!(world.comparison.judge(LEADER, |_| true), BTreeSet::from([id(0)]));
    assert!(world.comparison.withdrawn().is_empty());
}

#[test]
fn the_length_of_a_report_is_limited() {
    let mut comparison = Comparison::default();
    let problem = Some("x\n".repeat(10_000));
    let ports = (1..=1000).map(|port| TargetHealth { problem: problem.clone(), ..target(port, Failing, None) });
    comparison.report(id(0), TargetReport { round: 0, ports: ports.collect() });
    let failing = comparison.failing(&id(0));
    assert_eq!(failing.len(), MAX_PORTS);
    assert!(failing.values().all(|problem| problem.len() <= 200 && !problem.contains('\n')));
}

fn states() -> impl Strategy<Value = Vec<BTreeMap<u16, TargetState>>> {
    let state = prop::sample::select([Passing, Failing, Unknown].as_slice());
    prop::collection::vec(prop::collection::btree_map(1_u16..4, state, 0..4), 1..6)
}

proptest! {
    /// Every withdrawn backend has a replacement that stays, and that serves all of its ports and
    /// one more.
    #[test]
    fn a_withdrawn_backend_is_always_surpassed_by_one_that_stays(history in prop::collection::vec(states(), 1..4)) {
        let mut comparison = Comparison::default();
        for states in history {
            let count = states.len();
            comparison.retain(|known| (0..count).any(|number| *known == id(number)));
            let mut world = World { comparison, states };
            let withdrawn = world.settle();
            let passing = |number: usize| numbers(&world.comparison.seen[&id(number)], |state| state == Passing);
            for number in &withdrawn {
                let own = passing(*number);
                let mut others = (0..count).filter(|other| !withdrawn.contains(other)).map(passing);
                prop_assert!(others.any(|other| other.is_superset(&own) && other.len() > own.len()));
            }
            comparison = world.comparison;
        }
    }

    #[test]
    fn any_reports_are_survived(
        reports in prop::collection::vec((0_usize..3, 0_u64..5, 1_u16..3, any::<Option<bool>>(), 0_usize..3), 0..40),
    ) {
        let mut comparison = Comparison::default();
        for (number, round, port, fresh, state) in reports {
            let state = [Passing, Failing, Unknown][state];
            comparison.report(id(number), TargetReport { round, ports: vec![target(port, state, fresh)] });
            comparison.judge(LEADER, |_| true);
            prop_assert!(comparison.withdrawn().len() < 3, "not all backends");
        }
    }
}
