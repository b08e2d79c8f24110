//! Generators for sample keys, time periods and descriptor contents.

use std::time::{Duration, SystemTime};

use onionbalance_operator::onion::{
    ClientSecretKey, DescriptorKeys, Discovery, IntroductionPoint, Kit, Kits, MasterKey, OnionAddress, PeriodCalendar,
    PeriodKey, ServiceContent, TimePeriod,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tor_llcrypto::pk::{curve25519, ed25519};

use crate::arti;

/// The input for building a descriptor: a service, a time period and the descriptor's content.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The seed that all keys are derived from.
    pub seed: u64,
    /// The time period of the descriptor.
    pub period: TimePeriod,
    /// The revision counter of the descriptor.
    pub revision_counter: u64,
    /// The content of the descriptor's layer 2.
    pub content: ServiceContent,
    /// The number of authorized clients, or `None` for a service without client authorization.
    pub clients: Option<usize>,
}

/// Generates a master key from a seed.
pub fn master_key(seed: u64) -> MasterKey {
    MasterKey::generate(&mut StdRng::seed_from_u64(seed))
}

/// Generates time periods of every length that a consensus can specify, and of the length that the
/// private network uses.
pub fn period() -> impl Strategy<Value = TimePeriod> {
    (1..60_000_u64, prop_oneof![Just(1440_u64), Just(8), 30..14_401_u64])
        .prop_map(|(number, length_minutes)| TimePeriod { number, length_minutes })
}

/// Generates descriptors with 1 to 20 introduction points. The link specifiers are short enough for
/// 20 introduction points to fit.
pub fn sample() -> impl Strategy<Value = Sample> {
    (any::<u64>(), period(), any::<u64>(), content(), option::weighted(0.3, 0..40_usize)).prop_map(
        |(seed, period, revision_counter, content, clients)| Sample {
            seed,
            period,
            revision_counter,
            content,
            clients,
        },
    )
}

/// Generates the content of a descriptor's layer 2.
pub fn content() -> impl Strategy<Value = ServiceContent> {
    let flow_control = prop_oneof![Just("1-2 31"), Just("2 31"), Just("1 255"), Just("2,5-9,63 1")];
    let formats = prop_oneof![3 => Just(vec![2]), 1 => Just(vec![1, 2]), 1 => Just(vec![2, 3])];
    (formats, option::weighted(0.7, flow_control), any::<bool>(), any::<bool>(), vec(point(), 1..=20)).prop_map(
        |(create2_formats, flow_control, single_onion_service, auth, introduction_points)| ServiceContent {
            create2_formats,
            flow_control: flow_control.map(|text| text.parse().expect("could not parse the flow control")),
            single_onion_service,
            intro_auth_required: if auth { vec!["ed25519".to_owned()] } else { Vec::new() },
            pow_params: false,
            introduction_points,
        },
    )
}

/// Generates valid introduction points.
pub fn point() -> impl Strategy<Value = IntroductionPoint> {
    let unknown = vec((4..=255_u8, vec(any::<u8>(), 0..120)), 0..3);
    let known = (option::of(any::<[u8; 6]>()), option::of(any::<[u8; 32]>()), option::of(any::<[u8; 18]>()));
    (any::<u64>(), known, unknown).prop_map(|(seed, (ipv4, ed25519, ipv6), unknown)| {
        let known = [(0, ipv4.map(Vec::from)), (3, ed25519.map(Vec::from)), (1, ipv6.map(Vec::from))];
        let others: Vec<_> = known.into_iter().filter_map(|(kind, data)| Some((kind, data?))).chain(unknown).collect();
        make_point(seed, &others)
    })
}

/// Creates an introduction point with a relay's RSA identity and the given additional link
/// specifiers.
pub fn make_point(seed: u64, others: &[(u8, Vec<u8>)]) -> IntroductionPoint {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut specifiers = others.to_vec();
    specifiers.insert(others.len() / 2, (2, rng.random::<[u8; 20]>().to_vec()));
    let enc_key = x25519(&mut rng);
    IntroductionPoint {
        link_specifiers: link_specifiers(&specifiers),
        onion_key: x25519(&mut rng).to_bytes(),
        auth_key: ed25519::Keypair::from_bytes(&rng.random()).verifying_key().to_bytes(),
        enc_key: enc_key.to_bytes(),
        enc_key_ed25519: arti::ed25519_equivalent(&enc_key),
        legacy: false,
    }
}

/// Encodes link specifiers as `NSPEC[1] { LSTYPE[1] LSLEN[1] LSPEC[LSLEN] }`.
pub fn link_specifiers(list: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let length = |length: usize| u8::try_from(length).expect("the length exceeds one byte");
    let mut encoded = vec![length(list.len())];
    for (kind, data) in list {
        encoded.extend([*kind, length(data.len())]);
        encoded.extend(data);
    }
    encoded
}

fn x25519(rng: &mut StdRng) -> curve25519::PublicKey {
    curve25519::PublicKey::from(&curve25519::StaticSecret::from(rng.random::<[u8; 32]>()))
}

impl Sample {
    /// Returns the service's master key.
    pub fn key(&self) -> MasterKey {
        master_key(self.seed)
    }

    /// Returns the service's onion address.
    pub fn address(&self) -> OnionAddress {
        self.key().address()
    }

    /// Returns the secret keys of the authorized clients.
    pub fn client_secrets(&self) -> Vec<[u8; 32]> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 1);
        (0..self.clients.unwrap_or_default()).map(|_| rng.random()).collect()
    }

    /// Returns the secret key of a client that is not authorized.
    pub fn stranger(&self) -> [u8; 32] {
        StdRng::seed_from_u64(self.seed ^ 2).random()
    }

    /// Builds the descriptor with our implementation.
    pub fn build(&self, now: SystemTime) -> String {
        self.build_with(&self.key().blind(self.period), now)
    }

    /// Builds the descriptor with our implementation, for the time period in which `now` is and
    /// with a signing kit instead of the master key. Returns the sample with this period, too.
    pub fn build_delegated(&self, now: SystemTime) -> (Self, String) {
        let period = PeriodCalendar::PUBLIC.period_at(now).expect("the time is before the first period");
        let kit = Kit::issue(&self.key(), PeriodCalendar::PUBLIC, period.number, 1).expect("could not make the kit");
        let kits = Kits::from(Kit::parse(&kit.to_bytes()).expect("could not read the kit"));
        let sample = Self { period, ..self.clone() };
        let text = sample.build_with(&kits.period_key(period).expect("the kit does not cover the period"), now);
        (sample, text)
    }

    fn build_with(&self, key: &dyn PeriodKey, now: SystemTime) -> String {
        let address = self.address();
        let mut rng = StdRng::seed_from_u64(self.seed ^ 3);
        let mut keys = DescriptorKeys::for_key(key, &mut rng);
        if self.clients.is_some() {
            let clients = self.client_secrets().into_iter().map(|secret| ClientSecretKey::from_bytes(secret).public());
            let clients = clients.collect();
            keys.set_discovery(key, &address, &Discovery::Restricted(clients), &mut rng);
        }
        keys.build(key, &address, &self.content, self.revision_counter, now, &mut rng)
            .expect("could not build the descriptor")
    }
}

/// Returns the fixed time at which descriptors are built and checked.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_502_345)
}
