//! Tests of restricted discovery: which clients can open a descriptor, and which of its parts
//! change only when the set of clients changes.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{at, content};
use crate::onion::cert::CertError;
use crate::onion::descriptor::layer1::Layer1;
use crate::onion::descriptor::*;
use crate::onion::{
    BlindedKeypair, BlindedPublicKey, ClientPublicKey, ClientSecretKey, Discovery, MasterKey, OnionAddress, TimePeriod,
};

const PERIOD: TimePeriod = TimePeriod { number: 20_500, length_minutes: 1440 };
const NOW: u64 = 1_771_200_000;

/// A test service in one time period.
struct TestService {
    address: OnionAddress,
    key: BlindedKeypair,
    keys: DescriptorKeys,
    counter: u64,
    rng: StdRng,
}

impl TestService {
    fn new(seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let master = MasterKey::generate(&mut rng);
        let keys = DescriptorKeys::generate(&mut rng);
        Self { address: master.address(), key: master.blind(PERIOD), keys, counter: 0, rng }
    }

    fn set(&mut self, discovery: &Discovery) {
        self.keys.set_discovery(&self.key, &self.address, discovery, &mut self.rng);
    }

    fn build(&mut self, content: &ServiceContent) -> Result<String, DescriptorError> {
        self.counter += 1;
        self.keys.build(&self.key, &self.address, content, self.counter, at(NOW), &mut self.rng)
    }

    fn open(&self, text: &str, client: Option<&ClientSecretKey>) -> Result<ServiceContent, DescriptorError> {
        let unchecked = UncheckedDescriptor::parse(text)?;
        Ok(unchecked.check_as(client, &self.address, &self.key.public(), at(NOW))?.content)
    }

    fn layer1(&self, text: &str) -> Layer1 {
        UncheckedDescriptor::parse(text).unwrap().open_layer1(&self.address).unwrap().1
    }
}

fn clients(seed: u8, count: usize) -> Vec<ClientSecretKey> {
    let mut rng = StdRng::from_seed([seed; 32]);
    (0..count).map(|_| ClientSecretKey::generate(&mut rng)).collect()
}

fn restricted(clients: &[ClientSecretKey]) -> Discovery {
    Discovery::Restricted(clients.iter().map(ClientSecretKey::public).collect::<BTreeSet<ClientPublicKey>>())
}

const CLOSED: Result<ServiceContent, DescriptorError> = Err(DescriptorError::Decryption("encrypted"));

#[test]
fn the_signed_counter_can_be_read_without_a_clients_key() {
    let mut service = TestService::new([1; 32]);
    service.set(&restricted(&clients(2, 1)));
    let text = service.build(&content(3)).unwrap();
    let counter = |text: &str, blinded: &BlindedPublicKey, now| {
        UncheckedDescriptor::parse(text).unwrap().signed_counter(blinded, at(now))
    };
    let blinded = service.key.public();
    assert_eq!(counter(&text, &blinded, NOW), Ok(1));
    let forged = text.replace("revision-counter 1\n", "revision-counter 2\n");
    assert_eq!(counter(&forged, &blinded, NOW), Err(DescriptorError::Signature));
    let other = TestService::new([2; 32]).key.public();
    assert_eq!(counter(&text, &other, NOW), Err(DescriptorError::BlindedKey));
    let expired = DescriptorError::Certificate("descriptor-signing-key-cert", CertError::Expired);
    assert_eq!(counter(&text, &blinded, NOW + 56 * 3600), Err(expired));
}

#[test]
fn discovery_restricted_to_no_client_admits_nobody() {
    let mut service = TestService::new([1; 32]);
    service.set(&Discovery::Restricted(BTreeSet::new()));
    let text = service.build(&content(3)).unwrap();
    assert_eq!(service.open(&text, None), CLOSED);
    assert_eq!(service.open(&text, clients(2, 1).first()), CLOSED);
    assert_eq!(service.layer1(&text).clients.len(), 16);
    // An observer cannot distinguish the descriptor from one with open discovery.
    service.set(&Discovery::Open);
    let open = service.build(&content(3)).unwrap();
    assert_eq!(open.len(), text.len());
    assert_eq!(service.open(&open, None), Ok(content(3)));
}

#[test]
fn a_client_with_an_unneeded_key_reads_an_open_descriptor() {
    let mut service = TestService::new([1; 32]);
    let text = service.build(&content(3)).unwrap();
    assert_eq!(service.open(&text, clients(2, 1).first()), Ok(content(3)));
}

#[test]
fn keeps_the_auth_client_items_within_a_period() {
    let mut service = TestService::new([1; 32]);
    let all = clients(2, 20);
    service.set(&restricted(&all));
    let first = service.build(&content(3)).unwrap();
    service.set(&restricted(&all));
    let second = service.build(&content(3)).unwrap();
    let [first, second] = [first, second].map(|text| service.layer1(&text));
    assert_eq!((first.ephemeral_key, &first.clients), (second.ephemeral_key, &second.clients));
    assert_ne!(first.encrypted, second.encrypted);
}

#[test]
fn a_revoked_client_cannot_use_the_cookie_it_knew() {
    let mut service = TestService::new([1; 32]);
    let all = clients(2, 3);
    service.set(&restricted(&all));
    let before = service.build(&content(3)).unwrap();
    let cookie = |service: &TestService, text: &str, client: &ClientSecretKey| {
        let layer1 = service.layer1(text);
        let subcredential = service.address.subcredential(&service.key.public());
        client_auth::find_cookie(&subcredential, client, &layer1.ephemeral_key, &layer1.clients)
    };
    let known = cookie(&service, &before, &all[0]).unwrap();
    assert_eq!(cookie(&service, &before, &all[1]), Some(known.clone()));

    service.set(&restricted(&all[1..]));
    let after = service.build(&content(3)).unwrap();
    assert_eq!(service.open(&after, Some(&all[0])), CLOSED);
    assert_eq!(cookie(&service, &after, &all[0]), None);
    assert!(cookie(&service, &after, &all[1]).is_some_and(|cookie| cookie != known));
    for client in &all[1..] {
        assert_eq!(service.open(&after, Some(client)), Ok(content(3)));
    }
    // As in C tor, the ephemeral key is kept, and with it the ids of the remaining clients.
    // Everything else is regenerated.
    let [before, after] = [before, after].map(|text| service.layer1(&text));
    assert_eq!(before.ephemeral_key, after.ephemeral_key);
    let ids = |layer1: &Layer1| layer1.clients.iter().map(|item| item.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&before).intersection(&ids(&after)).count(), 2);
    let ivs = |layer1: &Layer1| layer1.clients.iter().map(|item| item.iv).collect::<BTreeSet<_>>();
    assert_eq!(ivs(&before).intersection(&ivs(&after)).count(), 0);
}

/// Returns service content whose introduction points have the longest permitted link specifiers.
fn longest_points(count: usize) -> ServiceContent {
    let mut content = content(20);
    content.introduction_points.truncate(count);
    for point in &mut content.introduction_points {
        let more = 96 - point.link_specifiers.len() - 2;
        point.link_specifiers[0] = 3;
        point.link_specifiers.extend([99, u8::try_from(more).unwrap()]);
        point.link_specifiers.resize(96, 7);
    }
    content
}

#[test]
fn the_promised_number_of_points_fits_next_to_the_clients() {
    let mut service = TestService::new([1; 32]);
    let all = clients(2, MAX_AUTHORIZED_CLIENTS + 1);
    for count in [0, 16, 112, 113, MAX_AUTHORIZED_CLIENTS] {
        service.set(&restricted(&all[..count]));
        let content =
            ServiceContent { intro_auth_required: vec!["x".repeat(380)], ..longest_points(max_points_beside(count)) };
        let text = service.build(&content).unwrap();
        for client in &all[..count] {
            assert_eq!(service.open(&text, Some(client)), Ok(content.clone()));
        }
    }
    assert_eq!(service.build(&longest_points(20)), Err(DescriptorError::TooLong));
    service.set(&restricted(&all));
    assert_eq!(service.build(&longest_points(19)), Err(DescriptorError::TooLong));
    // Without IPv6, tor's link specifiers are 65 bytes long.
    service.set(&restricted(&all[1..]));
    let mut usual = content(20);
    usual.introduction_points.iter_mut().for_each(|point| {
        point.link_specifiers[0] = 3;
        point.link_specifiers.extend([&[3, 32][..], &[7; 32]].concat());
        assert_eq!(point.link_specifiers.len(), 65);
    });
    let text = service.build(&usual).unwrap();
    assert_eq!(service.open(&text, all.last()), Ok(usual));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn only_authorized_clients_open_the_descriptor(
        points in 0_u8..=20, count in 0_usize..=MAX_AUTHORIZED_CLIENTS, seed: [u8; 32],
    ) {
        let mut service = TestService::new(seed);
        let all = clients(seed[0], count + 1);
        let (stranger, authorized) = all.split_last().unwrap();
        service.set(&restricted(authorized));
        let text = service.build(&content(points)).unwrap();
        prop_assert_eq!(service.layer1(&text).clients.len(), count.max(1).next_multiple_of(16));
        for client in authorized.first().into_iter().chain(authorized.last()) {
            prop_assert_eq!(service.open(&text, Some(client)), Ok(content(points)));
        }
        prop_assert_eq!(service.open(&text, Some(stranger)), CLOSED);
        prop_assert_eq!(service.open(&text, None), CLOSED);
    }
}
