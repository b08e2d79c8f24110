//! Looks after tor's onion service, and does what the stalled-service rule says.

use std::ops::{AddAssign, RangeInclusive};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::rule::{Housekeeping, PointsSight, Sight, Stall, Step};
use crate::backend::points::Points;
use crate::backend::system::wall_clock;
use crate::backend::watchdog::{Lost, Watchdog};
use crate::consensus::{NetworkKind, parse_time, service_period};
use crate::control::{Client, ControlError};
use crate::onion::{BlindedPublicKey, OnionAddress, TimePeriod};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// How many periods back an old descriptor's is looked for: from the second, to a month on the public network. After an outage over
/// several changes C tor goes but one period on, and its points are taken as long as they are one period late.
const BACK: RangeInclusive<u64> = 2..=32;

/// Relays of a circuit: one that only fetches from a directory has fewer, and does not count to tor.
const HOPS: usize = 3;

/// How often it had to do something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// Circuits asked for.
    pub circuits: u64,
    /// Tors ended.
    pub restarts: u64,
}

impl AddAssign for Mended {
    fn add_assign(&mut self, more: Self) {
        self.circuits += more.circuits;
        self.restarts += more.restarts;
    }
}

/// For one connection to tor.
#[derive(Debug)]
pub struct Mender {
    address: OnionAddress,
    kind: NetworkKind,
    rule: Housekeeping,
    looked: Option<Instant>,
    /// A circuit whose fate is not known yet.
    circuit: Option<String>,
    /// The last comparison of a descriptor's key with a period: it costs some milliseconds.
    compared: Option<(BlindedPublicKey, TimePeriod, bool)>,
    /// What was logged last.
    told: Option<Stall>,
}

impl Mender {
    pub fn new(address: OnionAddress, kind: NetworkKind) -> Self {
        let rule = Housekeeping::default();
        Self { address, kind, rule, looked: None, circuit: None, compared: None, told: None }
    }

    /// When it is time, looks at a bootstrapped tor that holds these points, and helps it.
    pub async fn look(&mut self, client: &Client, watchdog: &mut Watchdog, points: &Points) -> Result<Mended, Lost> {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now < looked + INTERVAL) {
            return Ok(Mended::default());
        }
        self.looked = Some(now);
        let mut tor = Asked { client, watchdog };
        self.follow_circuit(&mut tor).await?;
        let sight = self.sight(&mut tor, points).await?;
        if sight.is_well() && self.told.take().is_some() {
            tracing::info!("tor's onion service goes on");
        }
        let step = self.rule.look(sight, now);
        self.carry_out(step, &mut tor).await
    }

    async fn carry_out(&mut self, step: Step, tor: &mut Asked<'_>) -> Result<Mended, Lost> {
        match step {
            Step::Nothing => Ok(Mended::default()),
            Step::BuildCircuit(stall) => {
                if self.told != Some(stall) {
                    self.told = Some(stall);
                    tracing::warn!("tor's onion service stands still: {stall}; tor is asked for a circuit");
                }
                self.give_up_circuit(tor).await?;
                let circuits = tor.get_info("circuit-status").await?.unwrap_or_default();
                match tor.answer(tor.client.build_circuit(&path_to_repeat(&circuits))).await? {
                    Some(id) => self.circuit = Some(id),
                    None => self.rule.circuit(false),
                }
                Ok(Mended { circuits: 1, restarts: 0 })
            }
            Step::End(stall) => {
                tracing::warn!("tor's onion service stands still, and circuits do not help: {stall}; tor is ended");
                let ended = tor.answer(tor.client.signal("HALT")).await?.is_some();
                Ok(Mended { circuits: 0, restarts: ended.into() })
            }
        }
    }

    async fn sight(&mut self, tor: &mut Asked<'_>, points: &Points) -> Result<Sight, Lost> {
        let directory = tor.get_info("status/enough-dir-info").await?.as_deref() == Some("1");
        let circuit = tor.get_info("status/circuit-established").await?.as_deref() != Some("0");
        let points = match points.blinded_key() {
            None => PointsSight::None,
            Some(key) => match self.period(tor).await? {
                Some(period) if self.is_old(key, period) => PointsSight::Old,
                _ => PointsSight::Current,
            },
        };
        Ok(Sight { directory, circuit, points })
    }

    /// The period that tor's consensus tells; None when it is not valid now: tor waits for the next one then.
    async fn period(&self, tor: &mut Asked<'_>) -> Result<Option<TimePeriod>, Lost> {
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

    /// Whether a descriptor with this key is of a period long before this one.
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

    /// Learns what became of the circuit.
    async fn follow_circuit(&mut self, tor: &mut Asked<'_>) -> Result<(), Lost> {
        let Some(id) = &self.circuit else { return Ok(()) };
        let circuits = tor.get_info("circuit-status").await?.unwrap_or_default();
        if let Some(built) = fate(&circuits, id) {
            self.rule.circuit(built);
            self.close_circuit(tor).await?;
        }
        Ok(())
    }

    /// One that still is not built, is not going to be.
    async fn give_up_circuit(&mut self, tor: &mut Asked<'_>) -> Result<(), Lost> {
        if self.circuit.is_some() {
            self.rule.circuit(false);
            self.close_circuit(tor).await?;
        }
        Ok(())
    }

    async fn close_circuit(&mut self, tor: &mut Asked<'_>) -> Result<(), Lost> {
        if let Some(id) = self.circuit.take() {
            // Refused when it is gone by itself.
            tor.answer(tor.client.close_circuit(&id)).await?;
        }
        Ok(())
    }
}

/// Questions that the watchdog watches.
struct Asked<'a> {
    client: &'a Client,
    watchdog: &'a mut Watchdog,
}

impl Asked<'_> {
    /// None when tor refuses.
    async fn answer<T>(&mut self, question: impl Future<Output = Result<T, ControlError>>) -> Result<Option<T>, Lost> {
        match self.watchdog.answer(question).await {
            Ok(value) => Ok(Some(value)),
            Err(Lost::Broken(ControlError::Refused { .. })) => Ok(None),
            Err(lost) => Err(lost),
        }
    }

    async fn get_info(&mut self, key: &str) -> Result<Option<String>, Lost> {
        self.answer(self.client.get_info(key)).await
    }
}

/// A line of `GETINFO circuit-status`: id, state, path (relays, comma-separated) and more.
fn circuits(status: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    status.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?, words.next()?, words.next().unwrap_or_default()))
    })
}

/// Whether a circuit is built. None while it is being built.
fn fate(status: &str, id: &str) -> Option<bool> {
    match circuits(status).find(|circuit| circuit.0 == id) {
        Some((_, "BUILT", _)) => Some(true),
        None | Some((_, "FAILED" | "CLOSED", _)) => Some(false),
        Some(_) => None,
    }
}

/// The path of a circuit that stands: tor chose these relays, its own guard among them, and a second circuit there shows nobody
/// anything new. A tor without one builds circuits by itself, and may be asked for one through an exit.
fn path_to_repeat(status: &str) -> Vec<&str> {
    let paths = circuits(status).filter(|(_, state, _)| *state == "BUILT");
    let paths = paths.map(|(_, _, path)| path.split(',').filter_map(|relay| relay.split(['~', '=']).next()).collect());
    paths.into_iter().find(|path: &Vec<&str>| path.len() >= HOPS).unwrap_or_default()
}

fn is_of_a_past_period(address: &OnionAddress, key: &BlindedPublicKey, period: TimePeriod) -> bool {
    let of = |number| address.blind(TimePeriod { number, ..period });
    of(period.number) != *key && BACK.into_iter().any(|back| of(period.number.saturating_sub(back)) == *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fate_of_a_circuit() {
        let circuits =
            "3 BUILT $AA~a,$BB~b PURPOSE=GENERAL\n14 EXTENDED $AA~a PURPOSE=GENERAL\n4 LAUNCHED\n5 GUARD_WAIT $AA\n";
        assert_eq!(fate(circuits, "3"), Some(true));
        assert_eq!(fate(circuits, "1"), Some(false), "gone");
        assert_eq!(fate(circuits, "BUILT"), Some(false));
        for id in ["14", "4", "5"] {
            assert_eq!(fate(circuits, id), None, "{id}");
        }
        assert_eq!(fate("", "3"), Some(false));
    }

    #[test]
    fn a_path_that_stands_is_repeated() {
        let status = "7 BUILT $AA~a BUILD_FLAGS=ONEHOP_TUNNEL PURPOSE=GENERAL\n8 EXTENDED $BB~b,$CC~c PURPOSE=GENERAL\n\
                      9 LAUNCHED\n10 BUILT $DD~d,$EE=e,$FF PURPOSE=HS_VANGUARDS\n";
        assert_eq!(path_to_repeat(status), ["$DD", "$EE", "$FF"]);
        assert!(path_to_repeat("7 BUILT $AA~a PURPOSE=GENERAL\n12 BUILT PURPOSE=GENERAL\n").is_empty());
        assert!(path_to_repeat("").is_empty());
    }

    #[test]
    fn keys_of_earlier_periods_are_old_and_no_others() {
        let address: OnionAddress = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let period = |number| TimePeriod { number, length_minutes: 1440 };
        let is_old = |number| is_of_a_past_period(&address, &address.blind(period(number)), period(20_000));
        assert!([19_998, 19_997, 19_968].map(is_old).into_iter().all(|old| old));
        assert!([20_001, 20_000, 19_999, 19_967].map(is_old).into_iter().all(|old| !old));
        let other_length = address.blind(TimePeriod { number: 20_000, length_minutes: 8 });
        assert!(!is_of_a_past_period(&address, &other_length, period(20_000)), "nothing is known of it");
    }
}
