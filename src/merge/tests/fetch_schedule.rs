//! External backends, in simulated time: stock tors that upload as C tor does, HSDirs that miss uploads or answer slowly, or that
//! repeat for ever what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::RELAYS;
use super::network::{HOUR, backend, network, start};
use crate::consensus::{Fingerprint, Network};
use crate::merge::fetch_schedule::{FETCHES_AT_A_TIME, RENEWAL, interval};
use crate::merge::{Answer, ExternalInput, ExternalOutput, ExternalState, Externals, Now, Sighting};
use crate::onion::{OnionAddress, ServiceContent};

const LIFETIME: Duration = Duration::from_hours(3);
const MINUTE: Duration = Duration::from_secs(60);

fn address(number: u8) -> OnionAddress {
    OnionAddress::from_public_key(SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes()).unwrap()
}

/// How the network behaves.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// Of a hundred uploads to single HSDirs; but never by all that clients ask: such a backend is in nobody's reach.
    missed: u32,
    /// Of a hundred fetches.
    failed: u32,
    /// The longest fetch, seconds.
    slowest: u64,
    /// HSDirs keep descriptors for ever.
    for_ever: bool,
}

const FAIR: Weather = Weather { missed: 0, failed: 0, slowest: 5, for_ever: false };

struct World {
    rng: StdRng,
    weather: Weather,
    now: Duration,
    externals: Externals,
    network: Arc<Network>,
    hour: u32,
    tors: BTreeMap<OnionAddress, Tor>,
    /// By HSDir, address and period number: what it holds, and since when.
    held: BTreeMap<(Fingerprint, OnionAddress, u64), (Sighting, Duration)>,
    /// Fetches under way, by their end.
    fetches: BTreeSet<(Duration, OnionAddress, Fingerprint)>,
    /// When each address was asked for.
    asked: BTreeMap<OnionAddress, Vec<Duration>>,
    /// What the scheduler says of each.
    counts: BTreeMap<OnionAddress, Arc<ServiceContent>>,
    /// What it said, and when.
    said: Vec<(Duration, OnionAddress, bool)>,
}

/// A stock tor: for each period a counter and the time of its next upload.
struct Tor {
    number: u8,
    generation: u16,
    descriptors: BTreeMap<u64, (u64, Duration)>,
}

impl World {
    fn new(seed: u64, weather: Weather, backends: u8, hour: u32) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            weather,
            now: Duration::ZERO,
            externals: Externals::new([7; 32]),
            network: network(RELAYS, hour),
            hour,
            tors: BTreeMap::new(),
            held: BTreeMap::new(),
            fetches: BTreeSet::new(),
            asked: BTreeMap::new(),
            counts: BTreeMap::new(),
            said: Vec::new(),
        };
        for number in 0..backends {
            world.start_tor(number, 0);
        }
        world.tell(ExternalInput::Network(world.network.clone()));
        world.tell(ExternalInput::Backends((0..backends).map(address).collect()));
        world.tell(ExternalInput::Tor(true));
        world
    }

    fn start_tor(&mut self, number: u8, generation: u16) {
        self.tors.insert(address(number), Tor { number, generation, descriptors: BTreeMap::new() });
        self.upload();
    }

    fn tell(&mut self, input: ExternalInput) {
        let now = Now { wall: start() + self.now, elapsed: self.now };
        self.externals.handle(input, now);
        while let Some(output) = self.externals.poll_output() {
            match output {
                ExternalOutput::Fetch(address, hsdir) => {
                    let end = self.now + Duration::from_secs(self.rng.random_range(1..=self.weather.slowest));
                    let twice = self.fetches.iter().any(|(_, of, at)| (*of, *at) == (address, hsdir));
                    assert!(!twice, "a fetch beside the same one");
                    self.fetches.insert((end, address, hsdir));
                    self.asked.entry(address).or_default().push(self.now);
                    assert!(self.fetches.len() <= FETCHES_AT_A_TIME);
                }
                ExternalOutput::Backend(address, content) => {
                    let before = self.counts.insert(address, content.clone());
                    assert_ne!(before, Some(content), "no news");
                    self.said.push((self.now, address, true));
                }
                ExternalOutput::Lost(address) => {
                    assert!(self.counts.remove(&address).is_some(), "lost twice");
                    self.said.push((self.now, address, false));
                }
            }
        }
        assert!(self.externals.poll_timeout().is_none_or(|at| at > self.now), "all that is due is done");
    }

    /// What C tor does: each period's descriptor anew after 60 to 120 minutes.
    fn upload(&mut self) {
        let periods = self.network.service_periods();
        for (address, tor) in &mut self.tors {
            tor.descriptors.retain(|number, _| periods.iter().any(|service| service.period.number == *number));
            for service in &periods {
                let number = service.period.number;
                let (counter, due) = tor.descriptors.entry(number).or_insert((0, Duration::ZERO));
                if *due > self.now {
                    continue;
                }
                *due = self.now + MINUTE * self.rng.random_range(60..=120);
                // Counters rise with time, also over restarts.
                *counter = u64::try_from(self.now.as_millis()).unwrap() + 1;
                // Each period has points of its own.
                let generation = 2 * tor.generation + u16::from(number % 2 == 1);
                let content = backend(tor.number, generation).1;
                let sighting =
                    Sighting { period: service.period, revision_counter: *counter, lifetime: LIFETIME, content };
                let blinded = address.blind(service.period);
                let responsible = self.network.responsible_hsdirs(&blinded, service);
                let takes = |_: &Fingerprint| self.rng.random_range(0..100) >= self.weather.missed;
                let relays = responsible.into_iter().map(|placement| placement.relay);
                let mut took: BTreeSet<_> = relays.filter(takes).collect();
                let asked = self.network.fetch_hsdirs(&blinded, service);
                if !asked.iter().any(|placement| took.contains(&placement.relay)) {
                    took.extend(asked.first().map(|placement| placement.relay));
                }
                for hsdir in took {
                    self.held.insert((hsdir, *address, number), (sighting.clone(), self.now));
                }
            }
        }
    }

    fn answer(&mut self, address: OnionAddress, hsdir: Fingerprint) {
        let key = (hsdir, address, self.network.client_period().period.number);
        let held = self.held.get(&key).filter(|(_, since)| self.weather.for_ever || self.now < *since + LIFETIME);
        let answer = held.map_or(Answer::HasNone, |(sighting, _)| Answer::Has(sighting.clone()));
        let comes = self.rng.random_range(0..100) >= self.weather.failed;
        self.tell(ExternalInput::Fetched { address, hsdir, answer: if comes { answer } else { Answer::Useless } });
    }

    /// Goes on until `end`.
    fn run(&mut self, end: Duration) {
        while self.now < end {
            let uploads = self.tors.values().flat_map(|tor| tor.descriptors.values().map(|(_, due)| *due)).min();
            let consensus = HOUR * (self.hour_since_start() + 1);
            let fetch = self.fetches.first().map(|(end, ..)| *end);
            let next = [uploads, Some(consensus), fetch, self.externals.poll_timeout(), Some(end)];
            self.now = next.into_iter().flatten().min().unwrap_or(end).max(self.now);
            if self.now == consensus {
                self.hour += 1;
                self.network = network(RELAYS, self.hour);
                self.tell(ExternalInput::Network(self.network.clone()));
            }
            self.upload();
            while let Some((at, address, hsdir)) = self.fetches.first().copied().filter(|(at, ..)| *at <= self.now) {
                self.fetches.remove(&(at, address, hsdir));
                self.answer(address, hsdir);
            }
            self.tell(ExternalInput::Tick);
        }
    }

    fn hour_since_start(&self) -> u32 {
        u32::try_from(self.now.as_secs() / 3600).unwrap()
    }

    fn state(&self, number: u8) -> ExternalState {
        self.externals.states().find(|(of, _)| *of == address(number)).unwrap().1
    }

    /// When the last word on a backend was said, and whether it counts.
    fn last_word(&self, number: u8) -> (Duration, bool) {
        let (at, _, counts) = self.said.iter().rfind(|(_, of, _)| *of == address(number)).unwrap();
        (*at, *counts)
    }

    /// The longest time between two fetches of an address from `from` on.
    fn longest_gap(&self, number: u8, from: Duration) -> Duration {
        let asked: Vec<_> = self.asked[&address(number)].iter().filter(|at| **at >= from).chain([&self.now]).collect();
        asked.windows(2).map(|pair| pair[1].saturating_sub(*pair[0])).max().unwrap()
    }
}

#[test]
fn a_dead_one_counts_for_its_descriptors_lifetime_and_no_longer_whatever_hsdirs_repeat() {
    for for_ever in [false, true] {
        let mut world = World::new(1, Weather { for_ever, ..FAIR }, 2, 1);
        world.run(MINUTE);
        assert_eq!(world.counts.len(), 2);
        world.tors.remove(&address(0));
        world.run(HOUR * 8);
        let (at, counts) = world.last_word(0);
        assert!(!counts && at <= MINUTE + LIFETIME && at + MINUTE > LIFETIME, "{at:?}");
        assert_eq!((world.state(0), world.state(1)), (ExternalState::Lost, ExternalState::Counts));
        // It is still being looked for.
        let gap = world.longest_gap(0, HOUR * 4);
        assert!(gap <= interval(None).mul_f64(1.2) + MINUTE, "{gap:?}");
    }
}

#[test]
fn one_that_comes_back_counts_at_once_with_its_new_points() {
    let mut world = World::new(2, FAIR, 1, 1);
    world.run(MINUTE);
    let before = world.counts[&address(0)].clone();
    world.tors.remove(&address(0));
    world.run(HOUR * 4);
    assert_eq!(world.state(0), ExternalState::Lost);
    world.start_tor(0, 1);
    world.run(HOUR * 4 + interval(None) * 2);
    assert_eq!(world.state(0), ExternalState::Counts);
    assert_ne!(world.counts[&address(0)], before);
}

#[test]
fn a_new_time_period_is_looked_at_at_once() {
    // An hour before the periods change.
    let mut world = World::new(3, FAIR, 3, 11);
    world.run(MINUTE * 59);
    let before = world.counts.clone();
    world.run(HOUR + MINUTE / 2);
    assert!(before.iter().all(|(address, content)| world.counts[address] != *content), "the other period's points");
}

#[test]
fn the_first_descriptor_of_a_period_proves_little() {
    // It dies just before the periods change; its next period's descriptor is repeated for ever.
    let mut world = World::new(4, Weather { for_ever: true, ..FAIR }, 1, 10);
    world.run(MINUTE * 119);
    world.tors.clear();
    world.run(HOUR * 12);
    let (at, counts) = world.last_word(0);
    let changed = HOUR * 2;
    assert!(!counts && at <= changed + RENEWAL.max(LIFETIME) + MINUTE, "{at:?}");
}

#[test]
fn one_that_aged_out_comes_back_in_a_new_period_by_what_was_uploaded_since() {
    // Its descriptor of the next period is on the HSDirs, for ever; it dies, and ages out before clients move on.
    let mut world = World::new(10, Weather { for_ever: true, ..FAIR }, 1, 7);
    world.run(MINUTE);
    world.tors.clear();
    // In the first hour of the new period nothing comes from any HSDir, then what they have had all the time.
    world.run(HOUR * 5);
    world.weather.failed = 100;
    world.run(HOUR * 6);
    world.weather.failed = 0;
    world.run(HOUR * 10);
    assert_eq!(world.state(0), ExternalState::Lost);
    assert_eq!(world.said.len(), 2, "{:?}", world.said);

    // Those of the period after that have none, and say so: then one that was uploaded since is a sign of life.
    world.run(HOUR * 30);
    assert_eq!(world.state(0), ExternalState::Lost);
    world.start_tor(0, 1);
    world.run(HOUR * 30 + interval(None) * 2);
    assert_eq!(world.state(0), ExternalState::Counts);
}

#[test]
fn a_period_that_is_over_for_services_counts_no_more() {
    let mut world = World::new(5, FAIR, 1, 11);
    world.run(MINUTE);
    assert_eq!(world.state(0), ExternalState::Counts);
    // Its tor makes nothing more, as one that is frozen; we see no HSDir, but the consensuses of two days later.
    world.tell(ExternalInput::Tor(false));
    world.fetches.clear();
    for hour in 12..=24 {
        assert_eq!(world.state(0), ExternalState::Counts, "{hour}");
        world.tell(ExternalInput::Network(network(RELAYS, hour)));
    }
    world.tell(ExternalInput::Network(network(RELAYS, 36)));
    assert_eq!(world.state(0), ExternalState::Lost);
}

#[test]
fn what_is_repeated_or_older_changes_nothing() {
    let mut world = World::new(6, FAIR, 1, 1);
    world.run(MINUTE);
    let known = world.counts[&address(0)].clone();
    let period = world.network.client_period().period;
    let sighting = world.held.values().find(|(held, _)| held.period == period).unwrap().0.clone();
    let older = Sighting { revision_counter: 0, content: backend(9, 9).1, ..sighting.clone() };
    let other_day = Sighting {
        period: crate::onion::TimePeriod { number: sighting.period.number - 1, ..sighting.period },
        revision_counter: u64::MAX,
        content: backend(8, 8).1,
        ..sighting.clone()
    };
    world.now += HOUR;
    for found in [sighting, older, other_day] {
        let hsdir = Fingerprint([9; 20]);
        world.tell(ExternalInput::Fetched { address: address(0), hsdir, answer: Answer::Has(found) });
    }
    assert_eq!(world.counts[&address(0)], known);
    world.tors.clear();
    world.tell(ExternalInput::Tor(false));
    world.fetches.clear();
    world.run(LIFETIME + MINUTE);
    assert_eq!(world.state(0), ExternalState::Lost, "nor did it count as a sign of life");
}

#[test]
fn backends_come_and_go_and_a_suspended_service_asks_nobody() {
    let mut world = World::new(7, FAIR, 2, 1);
    world.run(MINUTE);
    world.tell(ExternalInput::Backends([address(1), address(2)].into()));
    assert_eq!(world.counts.keys().collect::<Vec<_>>(), [&address(1)]);
    assert_eq!(world.state(2), ExternalState::Unseen);
    world.tell(ExternalInput::Active(false));
    world.run(MINUTE * 5);
    let asked = world.asked[&address(1)].len();
    world.start_tor(2, 0);
    world.run(HOUR);
    assert_eq!(world.asked[&address(1)].len(), asked);
    world.tell(ExternalInput::Active(true));
    world.run(HOUR + MINUTE);
    assert_eq!(world.state(2), ExternalState::Counts);
}

#[test]
fn every_hsdir_that_clients_ask_is_asked_within_three_rounds() {
    let mut world = World::new(8, FAIR, 1, 1);
    let service = world.network.client_period();
    let all = world.network.fetch_hsdirs(&address(0).blind(service.period), &service);
    let mut left: BTreeSet<_> = all.into_iter().map(|placement| placement.relay).collect();
    while world.asked[&address(0)].len() <= 6 {
        left.retain(|hsdir| !world.fetches.iter().any(|(_, _, at)| at == hsdir));
        world.run(world.now + Duration::from_secs(1));
    }
    assert_eq!(left, BTreeSet::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A day and a half, in which two time periods begin. Living backends count throughout, are asked for often enough and not
    /// too often; a dead one ages out in time, also where HSDirs repeat it for ever.
    #[test]
    fn living_ones_count_and_dead_ones_age_out(
        seed: u64,
        backends in 1..5_u8,
        missed in 0..30_u32,
        failed in 0..20_u32,
        slowest in 1..45_u64,
        for_ever: bool,
        first_hour in 0..24_u32,
        death in 1..30_u32,
    ) {
        let mut world = World::new(seed, Weather { missed, failed, slowest, for_ever }, backends, first_hour);
        let settled = HOUR / 2;
        world.run(settled);
        prop_assert_eq!(world.counts.len(), usize::from(backends));
        let death = settled + HOUR * death + MINUTE * 7;
        world.run(death);
        prop_assert!(world.said.iter().all(|(_, _, counts)| *counts), "a living one was lost: {:?}", world.said);
        world.tors.remove(&address(0));
        world.run(HOUR * 40);
        let (at, counts) = world.last_word(0);
        prop_assert!(!counts, "it still counts");
        prop_assert!(at <= death + LIFETIME + RENEWAL + MINUTE, "{at:?}, dead since {death:?}");
        for number in 1..backends {
            prop_assert_eq!(world.state(number), ExternalState::Counts);
            let gap = world.longest_gap(number, settled);
            prop_assert!(gap <= interval(None).mul_f64(1.2) + Duration::from_secs(slowest) * 12, "{gap:?}");
            // Six rounds an hour of at most six fetches, and more only where there is a reason to hurry.
            let often = world.asked[&address(number)].len() / 40;
            prop_assert!(often <= 60, "{often} an hour");
        }
    }
}

#[test]
fn the_interval_follows_the_network() {
    assert_eq!(interval(None), Duration::from_secs(600));
    assert_eq!(interval(Some(&network(RELAYS, 0))), Duration::from_secs(600));
}

#[test]
fn many_are_asked_for_in_turn() {
    let mut world = World::new(9, Weather { slowest: 20, ..FAIR }, 60, 1);
    world.run(MINUTE * 10);
    assert_eq!(world.counts.len(), 60, "within ten minutes all are known");
    world.run(HOUR * 2);
    for number in 0..60 {
        let gap = world.longest_gap(number, MINUTE * 10);
        assert!(gap <= interval(None) * 2, "{number}: {gap:?}");
    }
}
