//! A simulated world: publishers with their own clocks, and HSDirs that accept or reject uploads,
//! answer late, or never answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::network::start;
use crate::consensus::{Fingerprint, Network};
use crate::merge::{BackendId, Input, MergeEngine, Now, Output, PeriodStatus, UploadError, upload};
use crate::onion::{
    ClientSecretKey, Discovery, IntroductionPoint, MasterKey, ServiceContent, TimePeriod, UncheckedDescriptor,
};

/// The behaviour of a simulated HSDir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// The HSDir answers after this delay.
    Answers(Duration),
    /// The HSDir neither receives uploads nor answers.
    Dead,
    /// The HSDir receives uploads, but processes and answers them only after it has recovered.
    Frozen,
    /// The HSDir rejects all uploads.
    Rejects,
    /// The HSDir answers all uploads with an error other than a rejection.
    Fails,
}

pub(super) const HEALTHY: Health = Health::Answers(Duration::from_millis(800));

/// The descriptor that an HSDir holds for a time period.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) counter: u64,
    pub(super) content: Arc<ServiceContent>,
}

#[derive(Debug)]
struct Hsdir {
    health: Health,
    held: BTreeMap<TimePeriod, Held>,
}

/// An upload in transit. It arrives even if the publisher no longer waits for its result.
struct Delivery {
    at: Duration,
    publisher: usize,
    hsdir: Fingerprint,
    period: TimePeriod,
    held: Held,
    awaited: bool,
}

/// The newest descriptors of a time period.
struct Newest {
    counter: u64,
    texts: BTreeMap<Arc<str>, Held>,
    sent: BTreeMap<Fingerprint, Arc<str>>,
}

pub(super) struct Publisher {
    pub(super) engine: MergeEngine,
    pub(super) skew: Duration,
    /// The start time of the upload that is in flight to each HSDir.
    in_flight: BTreeMap<Fingerprint, Duration>,
    /// The publishing rounds so far. Each entry holds the time of the round's first upload, the
    /// time period, and the content of the first descriptor that was uploaded.
    pub(super) published: Vec<(Duration, TimePeriod, Held)>,
    newest: BTreeMap<TimePeriod, Newest>,
    pub(super) stored: BTreeMap<TimePeriod, u64>,
    pub(super) uploads: usize,
}

pub(super) struct World {
    key: Arc<MasterKey>,
    /// The authorized client if discovery is restricted. The world decrypts descriptors with its
    /// key.
    pub(super) client: ClientSecretKey,
    elapsed: Duration,
    pub(super) wall_jump: Duration,
    pub(super) publishers: Vec<Publisher>,
    hsdirs: BTreeMap<Fingerprint, Hsdir>,
    deliveries: Vec<Delivery>,
}

impl World {
    /// Creates a world with one publisher for each entry of `skews`. The entry is how far the
    /// publisher's clock is ahead.
    pub(super) fn new(skews: &[Duration]) -> Self {
        let key = Arc::new(MasterKey::generate(&mut StdRng::from_seed([9; 32])));
        let mut world = Self {
            key,
            client: ClientSecretKey::from_bytes([5; 32]),
            elapsed: Duration::ZERO,
            wall_jump: Duration::ZERO,
            publishers: Vec::new(),
            hsdirs: BTreeMap::new(),
            deliveries: Vec::new(),
        };
        for (index, skew) in skews.iter().enumerate() {
            let seed = [u8::try_from(index).unwrap(); 32];
            let now = Now { wall: start() + *skew, elapsed: Duration::ZERO };
            world.publishers.push(Publisher {
                engine: MergeEngine::new(Arc::clone(&world.key), Some(Discovery::Open), seed, now),
                skew: *skew,
                in_flight: BTreeMap::new(),
                published: Vec::new(),
                newest: BTreeMap::new(),
                stored: BTreeMap::new(),
                uploads: 0,
            });
        }
        world
    }

    pub(super) fn now(&self, publisher: usize) -> Now {
        let wall = start() + self.elapsed + self.publishers[publisher].skew + self.wall_jump;
        Now { wall, elapsed: self.elapsed }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Sends an input to one publisher.
    pub(super) fn input(&mut self, publisher: usize, input: Input) {
        let now = self.now(publisher);
        match &input {
            Input::TorRestarted | Input::Leading(false) => {
                self.publishers[publisher].in_flight.clear();
                let of_publisher = self.deliveries.iter_mut().filter(|delivery| delivery.publisher == publisher);
                of_publisher.for_each(|delivery| delivery.awaited = false);
            }
            _ => {}
        }
        self.publishers[publisher].engine.handle(input, now);
        self.take_outputs(publisher);
    }

    /// Sends an input to all publishers.
    pub(super) fn all(&mut self, input: &Input) {
        (0..self.publishers.len()).for_each(|publisher| self.input(publisher, input.clone()));
    }

    pub(super) fn backend(&mut self, (id, content): (BackendId, Arc<ServiceContent>)) {
        self.all(&Input::Backend(id, content));
    }

    pub(super) fn network(&mut self, network: &Arc<Network>) {
        self.all(&Input::Network(Arc::clone(network)));
    }

    pub(super) fn set_health(&mut self, hsdir: Fingerprint, health: Health) {
        self.hsdir(hsdir).health = health;
        if let Health::Answers(after) = health {
            // When a frozen HSDir recovers, it processes all received uploads at the same time.
            let at = self.elapsed + after;
            let taken = self.deliveries.iter_mut().filter(|delivery| delivery.hsdir == hsdir);
            taken.for_each(|delivery| delivery.at = at.min(delivery.at));
        }
    }

    pub(super) fn heal_all(&mut self) {
        let all: Vec<Fingerprint> = self.hsdirs.keys().copied().collect();
        for hsdir in all {
            self.set_health(hsdir, HEALTHY);
        }
    }

    /// Returns the descriptor that each responsible HSDir of the network holds, for each time
    /// period.
    pub(super) fn held(&mut self, network: &Network) -> Vec<(TimePeriod, Fingerprint, Option<Held>)> {
        let mut held = Vec::new();
        for service in network.service_periods() {
            let blinded = self.key.blind(service.period).public();
            for placement in network.responsible_hsdirs(&blinded, &service) {
                let hsdir = self.hsdir(placement.relay);
                held.push((service.period, placement.relay, hsdir.held.get(&service.period).cloned()));
            }
        }
        held
    }

    /// Returns one value for each time period: true if a client with this key (or no key) can
    /// decrypt the first publisher's newest descriptor.
    pub(super) fn open_newest(&self, client: Option<&ClientSecretKey>) -> Vec<bool> {
        let address = self.key.address();
        let now = self.now(0).wall;
        let periods = self.publishers[0].engine.status().periods;
        let newest = |status: &PeriodStatus| self.publishers[0].newest[&status.period].texts.keys().next().unwrap();
        let newest = periods.iter().map(|status| (status.period, newest(status)));
        let opens = |(period, text): (TimePeriod, &Arc<str>)| {
            let unchecked = UncheckedDescriptor::parse(text).unwrap();
            unchecked.check_as(client, &address, &address.blind(period), now).is_ok()
        };
        newest.map(opens).collect()
    }

    /// Returns the descriptors held by the HSDirs from which clients fetch in a time period.
    pub(super) fn shown(&mut self, network: &Network, period: TimePeriod) -> Vec<Held> {
        let service = network.service_periods().into_iter().find(|service| service.period == period).unwrap();
        let asked = network.fetch_hsdirs(&self.key.blind(period).public(), &service);
        asked.iter().map(|placement| self.hsdir(placement.relay).held[&period].clone()).collect()
    }

    /// Returns the revision counter that a publisher would use if its clock were ahead by this
    /// time.
    pub(super) fn counter_ahead(&self, network: &Network, period: TimePeriod, ahead: Duration) -> u64 {
        let service = network.service_periods().into_iter().find(|service| service.period == period).unwrap();
        let since_srv = (self.now(0).wall + ahead).duration_since(service.srv_start).unwrap();
        self.key.blind(period).revision_counter(since_srv.as_secs())
    }

    /// Raises the revision counter on all HSDirs that hold a descriptor of the period, as an upload
    /// by another publisher would.
    pub(super) fn plant(&mut self, period: TimePeriod, counter: u64) {
        for held in self.hsdirs.values_mut().filter_map(|hsdir| hsdir.held.get_mut(&period)) {
            held.counter = counter.max(held.counter);
        }
    }

    /// Lets this much simulated time pass.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.elapsed + duration;
        loop {
            let timeouts = self.publishers.iter().filter_map(|publisher| publisher.engine.poll_timeout());
            let frozen = |hsdir| self.hsdirs.get(hsdir).is_some_and(|hsdir| hsdir.health == Health::Frozen);
            let deliveries =
                self.deliveries.iter().filter(|delivery| !frozen(&delivery.hsdir)).map(|delivery| delivery.at);
            let next = timeouts.chain(deliveries).min().map(|next| next.max(self.elapsed));
            let Some(next) = next.filter(|next| *next <= end) else {
                self.elapsed = end;
                return;
            };
            assert!(next > self.elapsed || self.has_work(), "the timeout is in the past: {next:?}");
            self.elapsed = next;
            self.deliver();
            self.all(&Input::Tick);
        }
    }

    fn has_work(&self) -> bool {
        self.deliveries.iter().any(|delivery| delivery.at <= self.elapsed)
    }

    fn deliver(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deliveries)
            .into_iter()
            .partition(|delivery| delivery.at <= self.elapsed && self.hsdirs[&delivery.hsdir].health != Health::Frozen);
        self.deliveries = later;
        for delivery in due {
            let hsdir = self.hsdir(delivery.hsdir);
            let held = hsdir.held.get(&delivery.period);
            let result = match hsdir.health {
                Health::Dead | Health::Frozen => continue,
                Health::Fails => Err(UploadError::Unexpected),
                Health::Answers(_) if held.is_none_or(|held| held.counter < delivery.held.counter) => {
                    hsdir.held.insert(delivery.period, delivery.held);
                    Ok(())
                }
                Health::Answers(_) | Health::Rejects => Err(UploadError::Rejected),
            };
            if delivery.awaited {
                self.publishers[delivery.publisher].in_flight.remove(&delivery.hsdir);
                self.input(delivery.publisher, Input::Uploaded { hsdir: delivery.hsdir, result });
            }
        }
    }

    fn take_outputs(&mut self, index: usize) {
        let now = self.now(index);
        while let Some(output) = self.publishers[index].engine.poll_output() {
            match output {
                Output::StoreCounter(period, counter) => {
                    let stored = self.publishers[index].stored.insert(period, counter);
                    assert!(
                        stored.is_none_or(|stored| stored < counter),
                        "the counter {counter} was stored after {stored:?}"
                    );
                }
                Output::Look(hsdir) => {
                    let held: Vec<(TimePeriod, u64)> =
                        self.hsdir(hsdir).held.iter().map(|(period, held)| (*period, held.counter)).collect();
                    for (period, counter) in held {
                        self.publishers[index].engine.handle(Input::Found(period, counter), now);
                    }
                }
                Output::Upload { hsdir, period, descriptor } => {
                    let held = self.read(index, hsdir, period, &descriptor);
                    let publisher = &mut self.publishers[index];
                    publisher.uploads += 1;
                    let in_flight = publisher.in_flight.insert(hsdir, now.elapsed);
                    let over = in_flight.is_none_or(|sent| sent + upload::DEADLINE <= now.elapsed);
                    assert!(over, "two uploads to the same HSDir are in flight");
                    let health = self.hsdir(hsdir).health;
                    let after = if let Health::Answers(after) = health { after } else { Duration::from_secs(1) };
                    if health != Health::Dead {
                        let at = now.elapsed + after;
                        self.deliveries.push(Delivery { at, publisher: index, hsdir, period, held, awaited: true });
                    }
                }
            }
        }
    }

    /// Decrypts and checks a descriptor as a client would. Also checks that it is consistent with
    /// earlier uploads.
    fn read(&mut self, index: usize, hsdir: Fingerprint, period: TimePeriod, text: &Arc<str>) -> Held {
        let now = self.now(index);
        let publisher = &mut self.publishers[index];
        let newest = publisher.newest.get(&period);
        let known = newest.and_then(|newest| newest.texts.get(text)).cloned();
        let held = known.unwrap_or_else(|| {
            let address = self.key.address();
            let blinded = address.blind(period);
            let descriptor = UncheckedDescriptor::parse(text)
                .unwrap()
                .check_as(Some(&self.client), &address, &blinded, now.wall)
                .unwrap();
            let points = &descriptor.content.introduction_points;
            assert!((1..=20).contains(&points.len()), "{} points", points.len());
            let relays: BTreeSet<_> = points.iter().map(IntroductionPoint::relay).collect();
            assert_eq!(relays.len(), points.len(), "two introduction points are at the same relay");
            Held { counter: descriptor.revision_counter, content: Arc::new(descriptor.content) }
        });
        let counter = held.counter;
        assert_eq!(publisher.stored.get(&period), Some(&counter), "the counter is stored before it is used");
        if newest.is_none_or(|newest| newest.counter != counter) {
            assert!(newest.is_none_or(|newest| newest.counter < counter), "the counter must rise");
            let newest = Newest { counter, texts: BTreeMap::new(), sent: BTreeMap::new() };
            publisher.newest.insert(period, newest);
            publisher.published.push((now.elapsed, period, held.clone()));
        }
        let newest = publisher.newest.get_mut(&period).unwrap();
        newest.texts.insert(Arc::clone(text), held.clone());
        let sent = newest.sent.insert(hsdir, Arc::clone(text));
        assert!(
            sent.is_none_or(|sent| sent == *text),
            "an HSDir received two different descriptors with the same counter"
        );
        held
    }

    fn hsdir(&mut self, hsdir: Fingerprint) -> &mut Hsdir {
        self.hsdirs.entry(hsdir).or_insert(Hsdir { health: HEALTHY, held: BTreeMap::new() })
    }
}
