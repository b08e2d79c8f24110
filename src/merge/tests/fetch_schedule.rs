//! Tests of the fetch schedule in simulated time. Simulated tors upload as C tor does; simulated
//! HSDirs miss uploads, answer slowly, or return the same descriptor forever.

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
use crate::merge::{ExternalState, FetchAnswer, FetchInput, FetchOutput, FetchSchedule, FetchedDescriptor, Now};
use crate::onion::{OnionAddress, ServiceContent};

pub(super) const LIFETIME: Duration = Duration::from_hours(3);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn address(number: u8) -> OnionAddress {
    OnionAddress::from_public_key(SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes()).unwrap()
}

/// The behaviour of the simulated network.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// The percentage of uploads that an HSDir misses. Each upload reaches at least one of the
    /// HSDirs from which clients fetch, because otherwise no client could reach the backend.
    missed: u32,
    /// The percentage of fetches that fail.
    failed: u32,
    /// The duration of the slowest fetch in seconds.
    slowest: u64,
    /// True if HSDirs keep descriptors forever.
    forever: bool,
}

const FAIR: Weather = Weather { missed: 0, failed: 0, slowest: 5, forever: false };

struct World {
    rng: StdRng,
    weather: Weather,
    now: Duration,
    schedule: FetchSchedule,
    network: Arc<Network>,
    hour: u32,
    tors: BTreeMap<OnionAddress, Tor>,
    /// The descriptors that the HSDirs hold, with the time of each upload, by HSDir, address and
    /// period number.
    held: BTreeMap<(Fingerprint, OnionAddress, u64), (FetchedDescriptor, Duration)>,
    /// The running fetches, ordered by the time at which they end.
    fetches: BTreeSet<(Duration, OnionAddress, Fingerprint)>,
    /// The times of all fetches of each address.
    asked: BTreeMap<OnionAddress, Vec<Duration>>,
    /// The backends that the schedule trusts, with the contents of their descriptors.
    counts: BTreeMap<OnionAddress, Arc<ServiceContent>>,
    /// The history of the schedule's reports. Each entry holds the time, the backend, and true if
    /// the backend is trusted from then on.
    reports: Vec<(Duration, OnionAddress, bool)>,
}

/// A simulated stock tor, with a revision counter and the time of the next upload for each time
/// period.
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
            schedule: FetchSchedule::new([7; 32]),
            network: network(RELAYS, hour),
            hour,
            tors: BTreeMap::new(),
            held: BTreeMap::new(),
            fetches: BTreeSet::new(),
            asked: BTreeMap::new(),
            counts: BTreeMap::new(),
            reports: Vec::new(),
        };
        for number in 0..backends {
            world.start_tor(number, 0);
        }
        world.handle(FetchInput::Network(world.network.clone()));
        world.handle(FetchInput::Backends((0..backends).map(address).collect()));
        world.handle(FetchInput::Tor(true));
        world
    }

    fn start_tor(&mut self, number: u8, generation: u16) {
        self.tors.insert(address(number), Tor { number, generation, descriptors: BTreeMap::new() });
        self.upload();
    }

    fn handle(&mut self, input: FetchInput) {
        let now = Now { wall: start() + self.now, elapsed: self.now };
        self.schedule.handle(input, now);
        while let Some(output) = self.schedule.poll_output() {
            match output {
                FetchOutput::Fetch(address, hsdir) => {
                    let end = self.now + Duration::from_secs(self.rng.random_range(1..=self.weather.slowest));
                    let twice = self.fetches.iter().any(|(_, of, at)| (*of, *at) == (address, hsdir));
                    assert!(!twice, "the same fetch is already running");
                    self.fetches.insert((end, address, hsdir));
                    self.asked.entry(address).or_default().push(self.now);
                    assert!(self.fetches.len() <= FETCHES_AT_A_TIME);
                }
                FetchOutput::Backend(address, content) => {
                    let before = self.counts.insert(address, content.clone());
                    assert_ne!(before, Some(content), "the same content was reported twice");
                    self.reports.push((self.now, address, true));
                }
                FetchOutput::Lost(address) => {
                    assert!(self.counts.remove(&address).is_some(), "a backend was reported as lost twice");
                    self.reports.push((self.now, address, false));
                }
            }
        }
        assert!(
            self.schedule.poll_timeout().is_none_or(|at| at > self.now),
            "the schedule did not do all work that was due"
        );
    }

    /// Uploads the descriptors that are due. Like C tor, a simulated tor uploads the descriptor of
    /// each time period again after 60 to 120 minutes.
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
                // Counters follow the clock, so they also rise across restarts.
                *counter = u64::try_from(self.now.as_millis()).unwrap() + 1;
                // Each time period has its own introduction points.
                let generation = 2 * tor.generation + u16::from(number % 2 == 1);
                let content = backend(tor.number, generation).1;
                let sighting = FetchedDescriptor {
                    period: service.period,
                    revision_counter: *counter,
                    lifetime: LIFETIME,
                    content,
                };
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
        let held = self.held.get(&key).filter(|(_, since)| self.weather.forever || self.now < *since + LIFETIME);
        let answer = held.map_or(FetchAnswer::HasNone, |(sighting, _)| FetchAnswer::Has(sighting.clone()));
        let comes = self.rng.random_range(0..100) >= self.weather.failed;
        self.handle(FetchInput::Fetched { address, hsdir, answer: if comes { answer } else { FetchAnswer::Useless } });
    }

    /// Lets time pass until `end`.
    fn run(&mut self, end: Duration) {
        while self.now < end {
            let uploads = self.tors.values().flat_map(|tor| tor.descriptors.values().map(|(_, due)| *due)).min();
            let consensus = HOUR * (self.hour_since_start() + 1);
            let fetch = self.fetches.first().map(|(end, ..)| *end);
            let next = [uploads, Some(consensus), fetch, self.schedule.poll_timeout(), Some(end)];
            self.now = next.into_iter().flatten().min().unwrap_or(end).max(self.now);
            if self.now == consensus {
                self.hour += 1;
                self.network = network(RELAYS, self.hour);
                self.handle(FetchInput::Network(self.network.clone()));
            }
            self.upload();
            while let Some((at, address, hsdir)) = self.fetches.first().copied().filter(|(at, ..)| *at <= self.now) {
                self.fetches.remove(&(at, address, hsdir));
                self.answer(address, hsdir);
            }
            self.handle(FetchInput::Tick);
        }
    }

    fn hour_since_start(&self) -> u32 {
        u32::try_from(self.now.as_secs() / 3600).unwrap()
    }

    fn state(&self, number: u8) -> ExternalState {
        self.schedule.states().find(|(of, _)| *of == address(number)).unwrap().1
    }

    /// Returns the time of the last report on a backend, and true if that report says that the
    /// backend is trusted.
    fn last_report(&self, number: u8) -> (Duration, bool) {
        let (at, _, counts) = self.reports.iter().rfind(|(_, of, _)| *of == address(number)).unwrap();
        (*at, *counts)
    }

    /// Returns the longest time between successive fetches of an address, from `from` until now.
    fn longest_gap(&self, number: u8, from: Duration) -> Duration {
        let asked: Vec<_> = self.asked[&address(number)].iter().filter(|at| **at >= from).chain([&self.now]).collect();
        asked.windows(2).map(|pair| pair[1].saturating_sub(*pair[0])).max().unwrap()
    }
}

#[test]
fn a_dead_backend_is_trusted_for_the_lifetime_of_its_descriptor_even_if_hsdirs_keep_it_forever() {
    for forever in [false, true] {
        let mut world = World::new(1, Weather { forever, ..FAIR }, 2, 1);
        world.run(MINUTE);
        assert_eq!(world.counts.len(), 2);
        world.tors.remove(&address(0));
        world.run(HOUR * 8);
        let (at, counts) = world.last_report(0);
        assert!(!counts && at <= MINUTE + LIFETIME && at + MINUTE > LIFETIME, "{at:?}");
        assert_eq!((world.state(0), world.state(1)), (ExternalState::Lost, ExternalState::Counts));
        // The schedule keeps fetching the dead backend's descriptor.
        let gap = world.longest_gap(0, HOUR * 4);
        assert!(gap <= interval(None).mul_f64(1.2) + MINUTE, "{gap:?}");
    }
}

#[test]
fn a_backend_that_comes_back_is_trusted_at_once_with_its_new_points() {
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
fn the_descriptors_of_a_new_time_period_are_fetched_at_once() {
    // The time periods change after an hour.
    let mut world = World::new(3, FAIR, 3, 11);
    world.run(MINUTE * 59);
    let before = world.counts.clone();
    world.run(HOUR + MINUTE / 2);
    assert!(
        before.iter().all(|(address, content)| world.counts[address] != *content),
        "the points are those of the new period"
    );
}

#[test]
fn the_first_descriptor_of_a_period_extends_the_trust_by_the_renewal_time_only() {
    // The backend dies just before the periods change. HSDirs return its next descriptor forever.
    let mut world = World::new(4, Weather { forever: true, ..FAIR }, 1, 10);
    world.run(MINUTE * 119);
    world.tors.clear();
    world.run(HOUR * 12);
    let (at, counts) = world.last_report(0);
    let changed = HOUR * 2;
    assert!(!counts && at <= changed + RENEWAL.max(LIFETIME) + MINUTE, "{at:?}");
}

#[test]
fn in_a_new_period_only_an_upload_brings_back_a_backend_that_aged_out() {
    // The backend dies and ages out before clients move to the next period. HSDirs return its next
    // descriptor forever.
    let mut world = World::new(10, Weather { forever: true, ..FAIR }, 1, 7);
    world.run(MINUTE);
    world.tors.clear();
    // In the first hour of the new period, all fetches fail. Then the HSDirs return the descriptor
    // that they have held all along.
    world.run(HOUR * 5);
    world.weather.failed = 100;
    world.run(HOUR * 6);
    world.weather.failed = 0;
    world.run(HOUR * 10);
    assert_eq!(world.state(0), ExternalState::Lost);
    assert_eq!(world.reports.len(), 2, "{:?}", world.reports);

    // In the period after that, the HSDirs report that they have no descriptor, so an upload proves
    // that the backend is alive.
    world.run(HOUR * 30);
    assert_eq!(world.state(0), ExternalState::Lost);
    world.start_tor(0, 1);
    world.run(HOUR * 30 + interval(None) * 2);
    assert_eq!(world.state(0), ExternalState::Counts);
}

#[test]
fn a_descriptor_is_not_trusted_after_its_period_has_ended_for_services() {
    let mut world = World::new(5, FAIR, 1, 11);
    world.run(MINUTE);
    assert_eq!(world.state(0), ExternalState::Counts);
    // From now on nothing is fetched; only new consensuses arrive.
    world.handle(FetchInput::Tor(false));
    world.fetches.clear();
    for hour in 12..=24 {
        assert_eq!(world.state(0), ExternalState::Counts, "{hour}");
        world.handle(FetchInput::Network(network(RELAYS, hour)));
    }
    world.handle(FetchInput::Network(network(RELAYS, 36)));
    assert_eq!(world.state(0), ExternalState::Lost);
}

#[test]
fn a_repeated_or_older_descriptor_changes_nothing() {
    let mut world = World::new(6, FAIR, 1, 1);
    world.run(MINUTE);
    let known = world.counts[&address(0)].clone();
    let period = world.network.client_period().period;
    let sighting = world.held.values().find(|(held, _)| held.period == period).unwrap().0.clone();
    let older = FetchedDescriptor { revision_counter: 0, content: backend(9, 9).1, ..sighting.clone() };
    let other_day = FetchedDescriptor {
        period: crate::onion::TimePeriod { number: sighting.period.number - 1, ..sighting.period },
        revision_counter: u64::MAX,
        content: backend(8, 8).1,
        ..sighting.clone()
    };
    world.now += HOUR;
    for found in [sighting, older, other_day] {
        let hsdir = Fingerprint([9; 20]);
        world.handle(FetchInput::Fetched { address: address(0), hsdir, answer: FetchAnswer::Has(found) });
    }
    assert_eq!(world.counts[&address(0)], known);
    world.tors.clear();
    world.handle(FetchInput::Tor(false));
    world.fetches.clear();
    world.run(LIFETIME + MINUTE);
    assert_eq!(world.state(0), ExternalState::Lost, "the descriptors were not accepted as proof of life");
}

#[test]
fn backends_can_be_added_and_removed_and_a_suspended_service_fetches_nothing() {
    let mut world = World::new(7, FAIR, 2, 1);
    world.run(MINUTE);
    world.handle(FetchInput::Backends([address(1), address(2)].into()));
    assert_eq!(world.counts.keys().collect::<Vec<_>>(), [&address(1)]);
    assert_eq!(world.state(2), ExternalState::Unseen);
    world.handle(FetchInput::Active(false));
    world.run(MINUTE * 5);
    let asked = world.asked[&address(1)].len();
    world.start_tor(2, 0);
    world.run(HOUR);
    assert_eq!(world.asked[&address(1)].len(), asked);
    world.handle(FetchInput::Active(true));
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

    /// Simulates a day and a half, in which two time periods begin. Living backends are always
    /// trusted, and their descriptors are fetched often enough but not too often. A dead backend
    /// loses this trust within the time limit, even if HSDirs return its descriptor forever.
    #[test]
    fn living_backends_stay_trusted_and_dead_backends_age_out(
        seed: u64,
        backends in 1..5_u8,
        missed in 0..30_u32,
        failed in 0..20_u32,
        slowest in 1..45_u64,
        forever: bool,
        first_hour in 0..24_u32,
        death in 1..30_u32,
    ) {
        let mut world = World::new(seed, Weather { missed, failed, slowest, forever }, backends, first_hour);
        let settled = HOUR / 2;
        world.run(settled);
        prop_assert_eq!(world.counts.len(), usize::from(backends));
        let death = settled + HOUR * death + MINUTE * 7;
        world.run(death);
        prop_assert!(world.reports.iter().all(|(_, _, counts)| *counts), "a living backend was lost: {:?}", world.reports);
        world.tors.remove(&address(0));
        world.run(HOUR * 40);
        let (at, counts) = world.last_report(0);
        prop_assert!(!counts, "the dead backend is still trusted");
        prop_assert!(at <= death + LIFETIME + RENEWAL + MINUTE, "lost at {at:?}, dead since {death:?}");
        for number in 1..backends {
            prop_assert_eq!(world.state(number), ExternalState::Counts);
            let gap = world.longest_gap(number, settled);
            prop_assert!(gap <= interval(None).mul_f64(1.2) + Duration::from_secs(slowest) * 12, "{gap:?}");
            // Each of the six rounds per hour queries at most six HSDirs. The faster rounds before
            // an expiry add a few.
            let often = world.asked[&address(number)].len() / 40;
            prop_assert!(often <= 60, "{often} fetches an hour");
        }
    }
}

#[test]
fn many_backends_are_fetched_in_turn() {
    let mut world = World::new(9, Weather { slowest: 20, ..FAIR }, 60, 1);
    world.run(MINUTE * 10);
    assert_eq!(world.counts.len(), 60, "all backends are known within ten minutes");
    world.run(HOUR * 2);
    for number in 0..60 {
        let gap = world.longest_gap(number, MINUTE * 10);
        assert!(gap <= interval(None) * 2, "{number}: {gap:?}");
    }
}
