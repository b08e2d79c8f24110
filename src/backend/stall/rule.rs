//! The stalled-service rule.
//!
//! C tor stops maintaining its onion service when it doubts that it can build circuits: it neither
//! renews introduction points nor changes the time period until it has built a circuit again
//! (`hs_service_callback` checks `have_completed_a_circuit`). This happens when the directory
//! information is temporarily insufficient because the consensus is too old, or lists
//! microdescriptors that tor has not fetched yet. A tor whose other circuits are still open then
//! builds no circuit by itself, so the agent asks it for one. If the service stays stalled although
//! circuits are built, the agent ends tor so that the kubelet starts a new one. This is necessary
//! after an outage that spans several period changes, because C tor advances by only one period.
//!
//! The agent leaves tor alone while tor is waiting for the network. It requests no circuit while
//! tor lacks directory information, and never ends tor while circuits cannot be built.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// The time that a stall must last before the agent acts. Most stalls end by themselves: for
/// example, a tor that has just started has no introduction points yet.
const NOTICED: Duration = Duration::from_secs(30);
/// The interval at which the agent asks tor for a circuit. A circuit that is not built within this
/// time counts as failed.
const AGAIN: Duration = Duration::from_secs(30);
/// The agent ends a stalled tor after tor has built this many circuits in a row. At one circuit
/// every 30 s, this takes ten minutes. That is longer than the five minutes for which tor itself
/// pauses after its introduction circuits have failed too often.
const PATIENCE: u32 = 20;
/// The same limit for a tor with old introduction points. It is lower, because waiting longer would
/// not help.
const PATIENCE_WITH_OLD_POINTS: u32 = 4;

/// The state of tor and its onion service at one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// True if tor reports enough directory information to build circuits.
    pub directory: bool,
    /// True unless tor reports `status/circuit-established=0`. Tor clears this flag when it doubts
    /// that it can build circuits, and sets it when it has built one.
    pub circuit: bool,
    /// The introduction points that tor holds.
    pub points: PointsState,
}

/// The time period of the introduction points that tor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointsState {
    /// The introduction points belong to the consensus's time period or one close to it, or their
    /// period is unknown.
    Current,
    /// The introduction points belong to a period that ended long ago, although the consensus is
    /// valid. Publishers no longer accept these points.
    Old,
    /// Tor has no introduction points.
    None,
}

/// How an onion service has stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Tor has not built a circuit since it recovered its directory information.
    NoCircuit,
    /// Tor has no introduction points.
    NoPoints,
    /// Tor's introduction points belong to a time period that is over.
    OldPoints,
}

/// The next action to take against a stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Do nothing.
    Nothing,
    /// Ask tor for a circuit, and report the result to [`StallRule::circuit_ended`].
    BuildCircuit(Stall),
    /// End tor, so that the kubelet starts a new one.
    EndTor(Stall),
}

/// The stalled-service rule for one tor, with the current stall if there is one.
#[derive(Debug, Default)]
pub struct StallRule(Option<StallEpisode>);

#[derive(Debug)]
struct StallEpisode {
    stall: Stall,
    since: Instant,
    asked: Option<Instant>,
    /// The number of circuits that tor has built in a row while the service was stalled in this
    /// way.
    built: u32,
}

impl StallRule {
    /// Returns the action that is due after this observation.
    pub fn decide(&mut self, observation: Observation, now: Instant) -> Remedy {
        let Some(stall) = observation.stall() else {
            self.0 = None;
            return Remedy::Nothing;
        };
        let episode = self.0.get_or_insert(StallEpisode { stall, since: now, asked: None, built: 0 });
        if episode.stall != stall {
            // The service has made progress, so it is given more time.
            (episode.stall, episode.built) = (stall, 0);
        }
        if now < episode.since + NOTICED || episode.asked.is_some_and(|asked| now < asked + AGAIN) {
            return Remedy::Nothing;
        }
        if episode.built >= stall.patience() {
            self.0 = None;
            return Remedy::EndTor(stall);
        }
        episode.asked = Some(now);
        Remedy::BuildCircuit(stall)
    }

    /// Records the result of a requested circuit.
    pub fn circuit_ended(&mut self, built: bool) {
        if let Some(episode) = &mut self.0 {
            episode.built = if built { episode.built + 1 } else { 0 };
        }
    }
}

impl Observation {
    /// Returns true if tor has enough directory information and the onion service has not stalled.
    pub fn is_well(self) -> bool {
        self.directory && self.stall().is_none()
    }

    fn stall(self) -> Option<Stall> {
        match self {
            Self { directory: false, .. } => None,
            Self { points: PointsState::None, .. } => Some(Stall::NoPoints),
            Self { points: PointsState::Old, .. } => Some(Stall::OldPoints),
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
            Self::NoCircuit => "tor has built no circuit since it recovered its directory information",
            Self::NoPoints => "tor has no introduction points",
            Self::OldPoints => "tor's introduction points belong to a time period that is over",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Observation = Observation { directory: true, circuit: true, points: PointsState::Current };
    const NO_CIRCUIT: Observation = Observation { circuit: false, ..WELL };
    const NO_POINTS: Observation = Observation { points: PointsState::None, ..WELL };
    const OLD_POINTS: Observation = Observation { points: PointsState::Old, ..WELL };

    /// A test bench that gives the rule an observation every five seconds and collects the remedies
    /// with their times in seconds. Either all requested circuits are built, or none.
    struct Bench {
        rule: StallRule,
        start: Instant,
        seconds: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { rule: StallRule::default(), start: Instant::now(), seconds: 0 }
        }

        fn see(&mut self, observation: Observation, for_seconds: u64, built: bool) -> Vec<(u64, Remedy)> {
            let mut steps = Vec::new();
            let end = self.seconds + for_seconds;
            while self.seconds < end {
                let step = self.rule.decide(observation, self.start + Duration::from_secs(self.seconds));
                if let Remedy::BuildCircuit(_) = step {
                    self.rule.circuit_ended(built);
                }
                if step != Remedy::Nothing {
                    steps.push((self.seconds, step));
                }
                self.seconds += 5;
            }
            steps
        }
    }

    #[test]
    fn a_healthy_tor_is_left_alone() {
        assert_eq!(Bench::new().see(WELL, 3600, true), []);
    }

    #[test]
    fn a_tor_that_is_waiting_for_the_network_is_left_alone() {
        for points in [PointsState::None, PointsState::Old, PointsState::Current] {
            let waiting = Observation { directory: false, circuit: false, points };
            assert_eq!(Bench::new().see(waiting, 86400, true), []);
        }
    }

    #[test]
    fn a_starting_tor_gets_time() {
        let mut bench = Bench::new();
        assert_eq!(bench.see(NO_POINTS, 30, true), []);
        assert_eq!(bench.see(WELL, 5, true), []);
        assert_eq!(bench.see(NO_POINTS, 30, true), [], "a new stall");
    }

    #[test]
    fn circuits_are_requested_until_the_stall_is_over() {
        let mut bench = Bench::new();
        let asked = |at| (at, Remedy::BuildCircuit(Stall::NoCircuit));
        assert_eq!(bench.see(NO_CIRCUIT, 100, true), [asked(30), asked(60), asked(90)]);
        assert_eq!(bench.see(WELL, 3600, true), []);
    }

    #[test]
    fn tor_is_ended_if_the_stall_outlasts_the_built_circuits() {
        for (observation, stall, end) in [
            (OLD_POINTS, Stall::OldPoints, 150),
            (NO_CIRCUIT, Stall::NoCircuit, 630),
            (NO_POINTS, Stall::NoPoints, 630),
        ] {
            let mut steps = Bench::new().see(observation, end + 5, true);
            assert_eq!(steps.pop(), Some((end, Remedy::EndTor(stall))));
            let circuits: Vec<_> = (30..end).step_by(30).map(|at| (at, Remedy::BuildCircuit(stall))).collect();
            assert_eq!(steps, circuits);
        }
    }

    #[test]
    fn tor_is_never_ended_while_circuits_fail() {
        let mut bench = Bench::new();
        for observation in [NO_POINTS, OLD_POINTS, NO_CIRCUIT] {
            let steps = bench.see(observation, 86400, false);
            assert!(steps.iter().all(|(_, step)| matches!(step, Remedy::BuildCircuit(_))));
        }
        // A failure resets the count of circuits built in a row.
        bench.see(OLD_POINTS, 30, false);
        bench.see(OLD_POINTS, 90, true);
        bench.see(OLD_POINTS, 30, false);
        let steps = bench.see(OLD_POINTS, 120, true);
        assert!(steps.iter().all(|(_, step)| matches!(step, Remedy::BuildCircuit(_))), "{steps:?}");
        assert_eq!(bench.see(OLD_POINTS, 5, true), [(bench.seconds - 5, Remedy::EndTor(Stall::OldPoints))]);
    }

    #[test]
    fn a_stall_that_changes_its_kind_gets_more_time() {
        let mut bench = Bench::new();
        bench.see(OLD_POINTS, 150, true);
        let steps = bench.see(NO_POINTS, 300, true);
        assert!(steps.iter().all(|(_, step)| *step == Remedy::BuildCircuit(Stall::NoPoints)), "{steps:?}");
    }

    #[test]
    fn losing_the_directory_information_ends_the_episode() {
        let mut bench = Bench::new();
        bench.see(OLD_POINTS, 150, true);
        assert_eq!(bench.see(Observation { directory: false, ..OLD_POINTS }, 5, true), []);
        assert_eq!(bench.see(OLD_POINTS, 30, true), []);
    }
}
