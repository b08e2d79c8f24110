//! The relays of the network, the consensuses that list them, and how tors fetch consensuses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use data_encoding::{BASE64, BASE64_NOPAD};
use onionbalance_operator::consensus::{Fingerprint, Network, NetworkKind};
use onionbalance_operator::onion::{OnionAddress, TimePeriod};
use rand::Rng as _;
use rand::rngs::StdRng;
use sha2::{Digest as _, Sha256};

use crate::time::{DAY, HOUR, MINUTE, between, chance};

/// The share of relays that have the flag `HSDir`, as in `testnet/`.
const HSDIRS: f64 = 0.75;
/// The share of relays that leave the network for good within an hour. As many join.
const CHURN: f64 = 0.004;
/// The time for which consensuses are kept. Tors use a consensus for less than three hours.
const KEPT_HOURS: u64 = 5;

/// A relay as the consensus lists it.
#[derive(Debug)]
struct Relay {
    entry: String,
    microdescriptor: String,
}

/// All running relays.
#[derive(Debug, Default)]
pub struct Relays {
    running: BTreeMap<Fingerprint, Relay>,
    /// The time of the first consensus, in seconds since the Unix epoch.
    start: u64,
    views: BTreeMap<u64, Arc<View>>,
}

/// A consensus, and the HSDirs of the simulated services by it.
#[derive(Debug)]
pub struct View {
    /// The hour of the consensus, counted from the start of the simulation.
    pub hour: u64,
    /// The parsed consensus.
    pub network: Arc<Network>,
    /// The time period that clients use.
    pub used: TimePeriod,
    /// The time periods for which services publish, with the HSDirs that are responsible for our
    /// service.
    pub responsible: Vec<(TimePeriod, Vec<Fingerprint>)>,
    /// The HSDirs from which clients fetch our service's descriptor.
    pub asked: Vec<Fingerprint>,
    /// The HSDirs that are responsible for the stock service, by time period.
    pub stock: Vec<(TimePeriod, Vec<Fingerprint>)>,
}

impl Relays {
    /// Starts a network with this many relays. `start` is the time of its first consensus, in
    /// seconds since the Unix epoch.
    pub fn new(count: usize, start: u64, rng: &mut StdRng) -> Self {
        let mut relays = Self { start, ..Self::default() };
        (0..count).for_each(|_| relays.join(rng));
        relays
    }

    fn join(&mut self, rng: &mut StdRng) {
        let (mut fingerprint, mut ed25519) = ([0; 20], [0; 32]);
        rng.fill_bytes(&mut fingerprint);
        rng.fill_bytes(&mut ed25519);
        let microdescriptor = format!("onion-key\nid ed25519 {}\n", BASE64_NOPAD.encode(&ed25519));
        let flags = if chance(HSDIRS, rng) { "Fast HSDir Running Valid" } else { "Fast Running Valid" };
        let entry = format!(
            "r relay {} 2038-01-01 00:00:00 192.0.2.1 9001 0\nm {}\ns {flags}\npr HSDir=2\n",
            BASE64_NOPAD.encode(&fingerprint),
            BASE64_NOPAD.encode(&Sha256::digest(&microdescriptor)),
        );
        self.running.insert(Fingerprint(fingerprint), Relay { entry, microdescriptor });
    }

    /// Lets relays leave and join, and publishes the consensus of this hour. Returns the relays
    /// that have left.
    pub fn vote(&mut self, hour: u64, services: [&OnionAddress; 2], rng: &mut StdRng) -> Result<Vec<Fingerprint>> {
        let left: Vec<Fingerprint> = self.running.keys().copied().filter(|_| hour > 0 && chance(CHURN, rng)).collect();
        for relay in &left {
            self.running.remove(relay);
            self.join(rng);
        }
        let view = self.view(hour, services)?;
        self.views.insert(hour, Arc::new(view));
        self.views.retain(|old, _| old.saturating_add(KEPT_HOURS) > hour);
        Ok(left)
    }

    fn view(&self, hour: u64, [ours, stock]: [&OnionAddress; 2]) -> Result<View> {
        let mut consensus = header(self.start + hour * HOUR.as_secs());
        let mut microdescriptors = String::new();
        for relay in self.running.values() {
            consensus.push_str(&relay.entry);
            microdescriptors.push_str(&relay.microdescriptor);
        }
        consensus.push_str("directory-footer\n");
        let network = Arc::new(Network::parse(&consensus, &microdescriptors, NetworkKind::Public)?);
        let responsible = |address: &OnionAddress| {
            let of = |service: &onionbalance_operator::consensus::ServicePeriod| {
                let placements = network.responsible_hsdirs(&address.blind(service.period), service);
                (service.period, placements.iter().map(|placement| placement.relay).collect())
            };
            network.service_periods().iter().map(of).collect()
        };
        let client = network.client_period();
        let asked = network.fetch_hsdirs(&ours.blind(client.period), &client);
        Ok(View {
            hour,
            used: client.period,
            responsible: responsible(ours),
            asked: asked.iter().map(|placement| placement.relay).collect(),
            stock: responsible(stock),
            network,
        })
    }

    /// Returns true if the relay runs.
    pub fn runs(&self, relay: &Fingerprint) -> bool {
        self.running.contains_key(relay)
    }

    /// Returns a random relay.
    pub fn any(&self, rng: &mut StdRng) -> Fingerprint {
        let mut start = [0; 20];
        rng.fill_bytes(&mut start);
        let after = self.running.range(Fingerprint(start)..).next().or_else(|| self.running.iter().next());
        after.map_or(Fingerprint(start), |(relay, _)| *relay)
    }

    /// Returns the consensus of an hour, or None if it is too old or not published yet.
    pub fn at(&self, hour: u64) -> Option<&Arc<View>> {
        self.views.get(&hour)
    }

    /// Returns the newest consensus.
    pub fn newest(&self) -> Option<&Arc<View>> {
        self.views.values().next_back()
    }
}

/// The lines of a consensus before its first relay.
fn header(valid_after: u64) -> String {
    let at = |hours: u64| timestamp(valid_after + hours * HOUR.as_secs());
    let run = valid_after / DAY.as_secs();
    let value = |run: u64| BASE64.encode(&Sha256::digest(run.to_be_bytes()));
    let mut text = String::from("network-status-version 3 microdesc\nvote-status consensus\n");
    let _ = write!(
        text,
        "valid-after {}\nfresh-until {}\nvalid-until {}\n\
         params hsdir_interval=1440 hsdir_n_replicas=2 hsdir_spread_fetch=3 hsdir_spread_store=4\n\
         shared-rand-previous-value 9 {}\nshared-rand-current-value 9 {}\n",
        at(0),
        at(1),
        at(3),
        value(run - 1),
        value(run),
    );
    text
}

/// Formats a time in seconds since the Unix epoch as `YYYY-MM-DD HH:MM:SS`.
fn timestamp(seconds: u64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(seconds);
    let time = k8s_openapi::jiff::Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The consensus of one tor that is a client or a service, and the time of its next fetch
/// (`update_consensus_networkstatus_fetch_time_impl` in C tor's `networkstatus.c`).
#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// The hour of the consensus that this tor has.
    pub hour: u64,
    /// The time at which this tor fetches the next one.
    pub next: Duration,
}

impl Follower {
    /// Returns a tor that has the consensus of this hour.
    pub fn new(hour: u64, rng: &mut StdRng) -> Self {
        // A tor begins to fetch 3/4 of an interval after `fresh-until`, at a random time within 7/8
        // of the rest of the validity period.
        let first = HOUR * u32::try_from(hour).unwrap_or(u32::MAX) + MINUTE * 105;
        Self { hour, next: between(first, first + MINUTE * 75 * 7 / 8, rng) }
    }

    /// Fetches a consensus from a cache. A cache fetches it within half an hour, after two minutes.
    pub fn fetch(&mut self, now: Duration, rng: &mut StdRng) {
        let lag = between(MINUTE * 2, MINUTE * 32, rng);
        let hour = now.saturating_sub(lag).as_secs() / HOUR.as_secs();
        *self = Self::new(hour.max(self.hour + 1), rng);
    }
}
