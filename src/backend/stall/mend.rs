//! Checks tor's onion service and carries out the decisions of the stalled-service rule.

use std::ops::{AddAssign, RangeInclusive};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::rule::{Observation, PointsState, Remedy, Stall, StallRule};
use crate::backend::points::Points;
use crate::backend::system::wall_clock;
use crate::backend::watchdog::{Unanswered, WatchedClient};
use crate::consensus::{NetworkKind, parse_time, service_period};
use crate::onion::{BlindedPublicKey, OnionAddress, TimePeriod};

/// The interval between two checks.
const INTERVAL: Duration = Duration::from_secs(5);
/// The ages, in time periods, at which a descriptor is considered old. The range ends at about a
/// month on the public network. Such descriptors occur because C tor advances by only one period
/// after an outage that spans several period changes. The range begins at two, because publishers
/// still accept introduction points that are one period late.
const BACK: RangeInclusive<u64> = 2..=32;

/// The number of relays in a full circuit. Directory circuits are shorter and do not make tor
/// report `circuit-established`.
const HOPS: usize = 3;

/// The number of repairs that the agent has attempted, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// The number of circuits requested from tor.
    pub circuits: u64,
    /// The number of tor processes that the agent ended.
    pub restarts: u64,
}

impl AddAssign for Mended {
    fn add_assign(&mut self, more: Self) {
        self.circuits += more.circuits;
        self.restarts += more.restarts;
    }
}

/// A mender, which repairs the onion service of one tor over one control connection.
#[derive(Debug)]
pub struct Mender {
    address: OnionAddress,
    kind: NetworkKind,
    rule: StallRule,
    last_check: Option<Instant>,
    /// The requested circuit that is still being built.
    circuit: Option<String>,
    /// The inputs and the result of the latest call of [`Self::is_old`]. They are cached because a
    /// comparison takes a few milliseconds.
    compared: Option<(BlindedPublicKey, TimePeriod, bool)>,
    /// The stall that was logged last.
    logged: Option<Stall>,
}

impl Mender {
    /// Creates a mender for the onion service `address` on a network of this kind.
    pub fn new(address: OnionAddress, kind: NetworkKind) -> Self {
        let rule = StallRule::default();
        Self { address, kind, rule, last_check: None, circuit: None, compared: None, logged: None }
    }

    /// Checks the onion service of a bootstrapped tor, and repairs the service if it has stalled.
    /// `points` are tor's current introduction points. Does nothing if less than the check interval
    /// has passed since the last check.
    pub async fn check(&mut self, tor: &mut WatchedClient<'_>, points: &Points) -> Result<Mended, Unanswered> {
        let now = Instant::now();
        if self.last_check.is_some_and(|last| now < last + INTERVAL) {
            return Ok(Mended::default());
        }
        self.last_check = Some(now);
        self.follow_circuit(tor).await?;
        let observation = self.observe(tor, points).await?;
        if observation.is_well() && self.logged.take().is_some() {
            tracing::info!("tor's onion service recovered");
        }
        let remedy = self.rule.decide(observation, now);
        self.carry_out(remedy, tor).await
    }

    async fn carry_out(&mut self, remedy: Remedy, tor: &mut WatchedClient<'_>) -> Result<Mended, Unanswered> {
        match remedy {
            Remedy::Nothing => Ok(Mended::default()),
            Remedy::BuildCircuit(stall) => {
                if self.logged != Some(stall) {
                    self.logged = Some(stall);
                    tracing::warn!("tor's onion service has stalled: {stall}; asking tor to build circuits");
                }
                self.give_up_circuit(tor).await?;
                let circuits = tor.get_info("circuit-status").await?.unwrap_or_default();
                match tor.answer(tor.client().build_circuit(&path_to_repeat(&circuits))).await? {
                    Some(id) => self.circuit = Some(id),
                    None => self.rule.circuit_ended(false),
                }
                Ok(Mended { circuits: 1, restarts: 0 })
            }
            Remedy::EndTor(stall) => {
                tracing::warn!(
                    "tor's onion service is still stalled even though circuits have been built: {stall}; terminating tor"
                );
                let ended = tor.answer(tor.client().signal("HALT")).await?.is_some();
                Ok(Mended { circuits: 0, restarts: ended.into() })
            }
        }
    }

    async fn observe(&mut self, tor: &mut WatchedClient<'_>, points: &Points) -> Result<Observation, Unanswered> {
        let directory = tor.get_info("status/enough-dir-info").await?.as_deref() == Some("1");
        let circuit = tor.get_info("status/circuit-established").await?.as_deref() != Some("0");
        let points = match points.blinded_key() {
            None => PointsState::None,
            Some(key) => match self.period(tor).await? {
                Some(period) if self.is_old(key, period) => PointsState::Old,
                _ => PointsState::Current,
            },
        };
        Ok(Observation { directory, circuit, points })
    }

    /// Returns the time period of tor's consensus, or None if the consensus is not currently valid.
    /// In that case, tor is waiting for the next consensus.
    async fn period(&self, tor: &mut WatchedClient<'_>) -> Result<Option<TimePeriod>, Unanswered> {
        let mut times = [SystemTime::UNIX_EPOCH; 3];
        for (time, keyword) in times.iter_mut().zip(["valid-after", "fresh-until", "valid-until"]) {
            let Some(text) = tor.get_info(&format!("consensus/{keyword}")).await? else { return Ok(None) };
            let Ok(parsed) = parse_time(keyword, &text) else { return Ok(None) };
            *time = parsed;
        }
        let [valid_after, fresh_until, valid_until] = times;
        let is_valid = (valid_after..=valid_until).contains(&wall_clock());
        Ok(service_period(valid_after, fresh_until, self.kind).ok().filter(|_| is_valid))
    }

    /// Returns true if a descriptor with this key belongs to a period long before `period`.
    fn is_old(&mut self, key: &BlindedPublicKey, period: TimePeriod) -> bool {
        match self.compared {
            Some((compared, to, is_old)) if (compared, to) == (*key, period) => is_old,
            _ => {
                let is_old = is_of_a_past_period(&self.address, key, period);
                self.compared = Some((*key, period, is_old));
                is_old
            }
        }
    }

    /// Reports to the rule whether the requested circuit has been built.
    async fn follow_circuit(&mut self, tor: &mut WatchedClient<'_>) -> Result<(), Unanswered> {
        let Some(id) = &self.circuit else { return Ok(()) };
        let circuits = tor.get_info("circuit-status").await?.unwrap_or_default();
        if let Some(built) = circuit_result(&circuits, id) {
            self.rule.circuit_ended(built);
            self.close_circuit(tor).await?;
        }
        Ok(())
    }

    /// Reports a circuit that is still being built as failed, and closes it.
    async fn give_up_circuit(&mut self, tor: &mut WatchedClient<'_>) -> Result<(), Unanswered> {
        if self.circuit.is_some() {
            self.rule.circuit_ended(false);
            self.close_circuit(tor).await?;
        }
        Ok(())
    }

    async fn close_circuit(&mut self, tor: &mut WatchedClient<'_>) -> Result<(), Unanswered> {
        if let Some(id) = self.circuit.take() {
            // Tor rejects the command if the circuit no longer exists.
            tor.answer(tor.client().close_circuit(&id)).await?;
        }
        Ok(())
    }
}

/// Parses `GETINFO circuit-status` into the id, state and path (comma-separated relays) of each
/// circuit.
fn circuits(status: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    status.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?, words.next()?, words.next().unwrap_or_default()))
    })
}

/// Returns true if a circuit is built, and false if it failed. Returns None while it is being
/// built.
fn circuit_result(status: &str, id: &str) -> Option<bool> {
    match circuits(status).find(|circuit| circuit.0 == id) {
        Some((_, "BUILT", _)) => Some(true),
        None | Some((_, "FAILED" | "CLOSED", _)) => Some(false),
        Some(_) => None,
    }
}

/// Returns the path of a built circuit, or an empty path if there is none.
///
/// Tor chose these relays itself, including its own guard, so a second circuit through them reveals
/// nothing new. An empty path makes tor choose the relays and an exit. This is acceptable, because
/// a tor that has no built circuit builds circuits by itself anyway.
fn path_to_repeat(status: &str) -> Vec<&str> {
    let paths = circuits(status).filter(|(_, state, _)| *state == "BUILT");
    let paths = paths.map(|(_, _, path)| path.split(',').filter_map(|relay| relay.split(['~', '=']).next()).collect());
    paths.into_iter().find(|path: &Vec<&str>| path.len() >= HOPS).unwrap_or_default()
}

/// Returns true if the key belongs to a time period whose age is in the range [`BACK`].
fn is_of_a_past_period(address: &OnionAddress, key: &BlindedPublicKey, period: TimePeriod) -> bool {
    let of = |number| address.blind(TimePeriod { number, ..period });
    of(period.number) != *key && BACK.into_iter().any(|back| of(period.number.saturating_sub(back)) == *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_circuit_follows_its_state() {
        let circuits =
            "3 BUILT $AA~a,$BB~b PURPOSE=GENERAL\n14 EXTENDED $AA~a PURPOSE=GENERAL\n4 LAUNCHED\n5 GUARD_WAIT $AA\n";
        assert_eq!(circuit_result(circuits, "3"), Some(true));
        assert_eq!(circuit_result(circuits, "1"), Some(false), "gone");
        assert_eq!(circuit_result(circuits, "BUILT"), Some(false));
        for id in ["14", "4", "5"] {
            assert_eq!(circuit_result(circuits, id), None, "{id}");
        }
        assert_eq!(circuit_result("", "3"), Some(false));
    }

    #[test]
    fn the_new_circuit_repeats_the_path_of_a_built_circuit() {
        let status = "7 BUILT $AA~a BUILD_FLAGS=ONEHOP_TUNNEL PURPOSE=GENERAL\n8 EXTENDED $BB~b,$CC~c PURPOSE=GENERAL\n\
                      9 LAUNCHED\n10 BUILT $DD~d,$EE=e,$FF PURPOSE=HS_VANGUARDS\n";
        assert_eq!(path_to_repeat(status), ["$DD", "$EE", "$FF"]);
        assert!(path_to_repeat("7 BUILT $AA~a PURPOSE=GENERAL\n12 BUILT PURPOSE=GENERAL\n").is_empty());
        assert!(path_to_repeat("").is_empty());
    }

    #[test]
    fn only_keys_of_periods_well_in_the_past_are_old() {
        let address: OnionAddress = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let period = |number| TimePeriod { number, length_minutes: 1440 };
        let is_old = |number| is_of_a_past_period(&address, &address.blind(period(number)), period(20_000));
        assert!([19_998, 19_997, 19_968].map(is_old).into_iter().all(|old| old));
        assert!([20_001, 20_000, 19_999, 19_967].map(is_old).into_iter().all(|old| !old));
        let other_length = address.blind(TimePeriod { number: 20_000, length_minutes: 8 });
        assert!(
            !is_of_a_past_period(&address, &other_length, period(20_000)),
            "a period of another length is not comparable"
        );
    }
}
