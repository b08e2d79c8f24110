//! The stalled-service rule. C tor does nothing for its onion service, neither renews points nor changes the time period,
//! until it has built a circuit since it last doubted that it can (`hs_service_callback` asks `have_completed_a_circuit`). It doubts
//! when its directory information is not enough for a moment: the consensus is too old, or names microdescriptors that it does not have
//! yet. A tor whose other circuits still stand then builds none by itself, so the agent asks it for one. A service that stands still
//! although circuits are built takes a new tor, and the old one is ended: after an outage over several changes of the time period C tor
//! goes but one on.
//!
//! A tor that waits for the network is left alone: without directory information nothing is asked of it, and where circuits
//! cannot be built it is never ended.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// Whatever is wrong may pass by itself: a tor that starts has no points yet.
const NOTICED: Duration = Duration::from_secs(30);
/// How often tor is asked for a circuit. One that is not built by then is taken for one that cannot be.
const AGAIN: Duration = Duration::from_secs(30);
/// After so many circuits in a row a new tor is tried: tor pauses for five minutes when its introduction circuits failed too often.
const PATIENCE: u32 = 20;
/// And where tor has nothing to wait for.
const PATIENCE_WITH_OLD_POINTS: u32 = 4;

/// What one look showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Tor says that its directory information is enough to build circuits.
    pub directory: bool,
    /// Tor has built a circuit since it last doubted that it can.
    pub circuit: bool,
    pub points: PointsSight,
}

/// Which points tor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointsSight {
    /// Of the time period that its consensus tells or one near it, or of one that cannot be told.
    Current,
    /// Of one that is long over, while the consensus is valid: publishers no longer take them.
    Old,
    None,
}

/// How an onion service stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    NoCircuit,
    NoPoints,
    OldPoints,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Ask tor for a circuit, and tell [`Housekeeping::circuit`] what became of it.
    BuildCircuit(Stall),
    /// End tor.
    End(Stall),
}

/// What the rule remembers of one tor.
#[derive(Debug, Default)]
pub struct Housekeeping(Option<Trouble>);

#[derive(Debug)]
struct Trouble {
    stall: Stall,
    since: Instant,
    asked: Option<Instant>,
    /// Circuits that were built since, without a failure among them.
    built: u32,
}

impl Housekeeping {
    /// Takes in a look.
    pub fn look(&mut self, sight: Sight, now: Instant) -> Step {
        let Some(stall) = sight.stall() else {
            self.0 = None;
            return Step::Nothing;
        };
        let trouble = self.0.get_or_insert(Trouble { stall, since: now, asked: None, built: 0 });
        if trouble.stall != stall {
            // Something moved.
            (trouble.stall, trouble.built) = (stall, 0);
        }
        if now < trouble.since + NOTICED || trouble.asked.is_some_and(|asked| now < asked + AGAIN) {
            return Step::Nothing;
        }
        if trouble.built >= stall.patience() {
            self.0 = None;
            return Step::End(stall);
        }
        trouble.asked = Some(now);
        Step::BuildCircuit(stall)
    }

    /// What became of the circuit that was asked for.
    pub fn circuit(&mut self, built: bool) {
        if let Some(trouble) = &mut self.0 {
            trouble.built = if built { trouble.built + 1 } else { 0 };
        }
    }
}

impl Sight {
    /// Tor has what it needs, and does what it should.
    pub fn is_well(self) -> bool {
        self.directory && self.stall().is_none()
    }

    fn stall(self) -> Option<Stall> {
        match self {
            Self { directory: false, .. } => None,
            Self { points: PointsSight::None, .. } => Some(Stall::NoPoints),
            Self { points: PointsSight::Old, .. } => Some(Stall::OldPoints),
            Self { circuit: false, .. } => Some(Stall::NoCircuit),
            Self { .. } => None,
        }
    }
}

impl Stall {
    fn patience(self) -> u32 {
        match self {
            Self::NoCircuit | Self::NoPoints => PATIENCE,
            Self::OldPoints => PATIENCE_WITH_OLD_POINTS,
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCircuit => "it has built no circuit since it got its directory information back",
            Self::NoPoints => "it has no introduction points",
            Self::OldPoints => "its introduction points are of a time period that is over",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Sight = Sight { directory: true, circuit: true, points: PointsSight::Current };
    const NO_CIRCUIT: Sight = Sight { circuit: false, ..WELL };
    const NO_POINTS: Sight = Sight { points: PointsSight::None, ..WELL };
    const OLD_POINTS: Sight = Sight { points: PointsSight::Old, ..WELL };

    /// Looks every five seconds, and tells the steps with their times in seconds. Each circuit that is asked for is built, or none is.
    struct Bench {
        rule: Housekeeping,
        start: Instant,
        seconds: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { rule: Housekeeping::default(), start: Instant::now(), seconds: 0 }
        }

        fn see(&mut self, sight: Sight, for_seconds: u64, built: bool) -> Vec<(u64, Step)> {
            let mut steps = Vec::new();
            let end = self.seconds + for_seconds;
            while self.seconds < end {
                let step = self.rule.look(sight, self.start + Duration::from_secs(self.seconds));
                if let Step::BuildCircuit(_) = step {
                    self.rule.circuit(built);
                }
                if step != Step::Nothing {
                    steps.push((self.seconds, step));
                }
                self.seconds += 5;
            }
            steps
        }
    }

    #[test]
    fn a_tor_that_is_well_is_left_alone() {
        assert_eq!(Bench::new().see(WELL, 3600, true), []);
    }

    #[test]
    fn a_tor_that_waits_for_the_network_is_left_alone() {
        for points in [PointsSight::None, PointsSight::Old, PointsSight::Current] {
            let waiting = Sight { directory: false, circuit: false, points };
            assert_eq!(Bench::new().see(waiting, 86400, true), []);
        }
    }

    #[test]
    fn a_tor_that_starts_is_given_time() {
        let mut bench = Bench::new();
        assert_eq!(bench.see(NO_POINTS, 30, true), []);
        assert_eq!(bench.see(WELL, 5, true), []);
        assert_eq!(bench.see(NO_POINTS, 30, true), [], "another trouble");
    }

    #[test]
    fn a_circuit_is_asked_for_until_the_trouble_is_over() {
        let mut bench = Bench::new();
        let asked = |at| (at, Step::BuildCircuit(Stall::NoCircuit));
        assert_eq!(bench.see(NO_CIRCUIT, 100, true), [asked(30), asked(60), asked(90)]);
        assert_eq!(bench.see(WELL, 3600, true), []);
    }

    #[test]
    fn a_service_that_stands_still_although_circuits_are_built_takes_a_new_tor() {
        for (sight, stall, end) in [
            (OLD_POINTS, Stall::OldPoints, 150),
            (NO_CIRCUIT, Stall::NoCircuit, 630),
            (NO_POINTS, Stall::NoPoints, 630),
        ] {
            let mut steps = Bench::new().see(sight, end + 5, true);
            assert_eq!(steps.pop(), Some((end, Step::End(stall))));
            let circuits: Vec<_> = (30..end).step_by(30).map(|at| (at, Step::BuildCircuit(stall))).collect();
            assert_eq!(steps, circuits);
        }
    }

    #[test]
    fn where_no_circuit_can_be_built_tor_is_never_ended() {
        let mut bench = Bench::new();
        for sight in [NO_POINTS, OLD_POINTS, NO_CIRCUIT] {
            let steps = bench.see(sight, 86400, false);
            assert!(steps.iter().all(|(_, step)| matches!(step, Step::BuildCircuit(_))));
        }
        // One failure among many: those before it do not count.
        bench.see(OLD_POINTS, 30, false);
        bench.see(OLD_POINTS, 90, true);
        bench.see(OLD_POINTS, 30, false);
        let steps = bench.see(OLD_POINTS, 120, true);
        assert!(steps.iter().all(|(_, step)| matches!(step, Step::BuildCircuit(_))), "{steps:?}");
        assert_eq!(bench.see(OLD_POINTS, 5, true), [(bench.seconds - 5, Step::End(Stall::OldPoints))]);
    }

    #[test]
    fn what_moves_is_given_more_time() {
        let mut bench = Bench::new();
        bench.see(OLD_POINTS, 150, true);
        let steps = bench.see(NO_POINTS, 300, true);
        assert!(steps.iter().all(|(_, step)| *step == Step::BuildCircuit(Stall::NoPoints)), "{steps:?}");
    }

    #[test]
    fn the_directory_lost_again_begins_anew() {
        let mut bench = Bench::new();
        bench.see(OLD_POINTS, 150, true);
        assert_eq!(bench.see(Sight { directory: false, ..OLD_POINTS }, 5, true), []);
        assert_eq!(bench.see(OLD_POINTS, 30, true), []);
    }
}
