//! Compares our descriptors with those of stem's `HiddenServiceDescriptorV3.create`. Each
//! implementation reads the other's descriptors, and every field must match.

use std::time::{Duration, SystemTime};

use onionbalance_operator::onion::{
    Descriptor, IntroductionPoint, MasterKey, ServiceContent, TimePeriod, UncheckedDescriptor,
};
use onionbalance_oracle::config;
use onionbalance_oracle::sample::{Sample, make_point, now, period, point, sample};
use onionbalance_oracle::stem::{CreateRequest, Hex, Stem, StemPoint};
use proptest::prelude::*;
use sha2::{Digest as _, Sha512};

const HOUR: Duration = Duration::from_hours(1);

#[expect(clippy::disallowed_methods, reason = "stem reads the clock too")]
fn clock() -> SystemTime {
    SystemTime::now()
}

/// Returns the master key that belongs to a seed, with the seed expanded as in tor. stem receives
/// the seed itself.
fn from_seed(seed: &[u8; 32]) -> MasterKey {
    let mut expanded: [u8; 64] = Sha512::digest(seed).into();
    expanded[0] &= 0xf8;
    expanded[31] = expanded[31] & 0x7f | 0x40;
    let file = [&b"== ed25519v1-secret: type0 ==\0\0\0"[..], &expanded].concat();
    MasterKey::from_tor_secret_key_file(&file).unwrap()
}

fn open(text: &str, key: &MasterKey, period: TimePeriod) -> Result<Descriptor, String> {
    let address = key.address();
    let descriptor = UncheckedDescriptor::parse(text).unwrap();
    descriptor.check(&address, &address.blind(period), clock()).map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn stem_reads_our_descriptors(sample in sample()) {
        let sample = Sample { clients: None, ..sample };
        let theirs = Stem::shared().decode(&sample.address().to_string(), &sample.build(now()));
        prop_assert_eq!(theirs.blinded_key.0, sample.key().blind(sample.period).public().0);
        prop_assert_eq!(theirs.revision_counter, sample.revision_counter);
        prop_assert_eq!(theirs.lifetime_minutes, 180);
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(theirs.expires);
        let rest = expires.duration_since(now()).unwrap();
        prop_assert!((54 * HOUR..55 * HOUR).contains(&rest), "{:?}", rest);
        prop_assert_eq!(theirs.auth_clients, 16);
        let content = &sample.content;
        prop_assert_eq!(&theirs.create2_formats, &content.create2_formats);
        prop_assert_eq!(&theirs.intro_auth_required, &content.intro_auth_required);
        prop_assert_eq!(theirs.single_onion_service, content.single_onion_service);
        let points: Vec<StemPoint> = content.introduction_points.iter().map(StemPoint::from).collect();
        prop_assert_eq!(theirs.points, points);
    }

    #[test]
    fn stem_reads_the_descriptors_of_a_delegated_service(sample in sample()) {
        let (sample, text) = Sample { clients: None, ..sample }.build_delegated(now());
        let theirs = Stem::shared().decode(&sample.address().to_string(), &text);
        prop_assert_eq!(theirs.blinded_key.0, sample.key().blind(sample.period).public().0);
        prop_assert_eq!(theirs.revision_counter, sample.revision_counter);
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(theirs.expires);
        let rest = expires.duration_since(now()).unwrap();
        prop_assert!((54 * HOUR..55 * HOUR).contains(&rest), "{:?}", rest);
        let points: Vec<StemPoint> = sample.content.introduction_points.iter().map(StemPoint::from).collect();
        prop_assert_eq!(theirs.points, points);
    }

    #[test]
    fn we_read_descriptors_from_stem(
        seed: [u8; 32], period in period(), revision_counter in 1..u64::MAX, single: bool, auth: bool, flow_control: bool,
        points in prop::collection::vec(point(), 1..=20),
    ) {
        let mut header = serde_json::Map::new();
        for (keyword, arguments, present) in
            [("single-onion-service", "", single), ("intro-auth-required", "ed25519", auth), ("flow-control", "1-2 31", flow_control)]
        {
            if present {
                header.insert(keyword.to_owned(), arguments.into());
            }
        }
        let create = CreateRequest {
            seed: Hex(seed), revision_counter, header, points: points.iter().map(StemPoint::from).collect(), stem_certifies: false,
        };
        let text = Stem::shared().create(&create, period);
        let key = from_seed(&seed);
        let descriptor = open(&text, &key, period).unwrap();
        prop_assert_eq!(descriptor.blinded_key, key.blind(period).public());
        prop_assert_eq!(descriptor.revision_counter, revision_counter);
        prop_assert_eq!(descriptor.lifetime_minutes, 180);
        let rest = descriptor.expires.duration_since(clock()).unwrap();
        prop_assert!((52 * HOUR..55 * HOUR).contains(&rest), "{:?}", rest);
        prop_assert_eq!(descriptor.content, ServiceContent {
            create2_formats: vec![2],
            flow_control: flow_control.then(|| "1-2 31".parse().unwrap()),
            single_onion_service: single,
            intro_auth_required: if auth { vec!["ed25519".to_owned()] } else { Vec::new() },
            pow_params: false,
            introduction_points: points,
        });
    }
}

/// stem's constructor for introduction points certifies the wrong key in `enc-key-cert`. Both arti
/// and our code reject such a certificate, while C tor does not check the key. This is a bug in
/// stem; tor never creates such descriptors.
#[test]
fn we_and_arti_reject_introduction_points_that_stem_certifies() {
    let period = TimePeriod { number: 20_000, length_minutes: 1440 };
    let points: Vec<IntroductionPoint> = (0..3).map(|seed| make_point(seed, &[])).collect();
    let create = CreateRequest {
        seed: Hex([1; 32]),
        revision_counter: 1,
        header: serde_json::Map::new(),
        points: points.iter().map(StemPoint::from).collect(),
        stem_certifies: true,
    };
    let text = Stem::shared().create(&create, period);
    let key = from_seed(&[1; 32]);
    let error = open(&text, &key, period).unwrap_err();
    assert_eq!(error, "enc-key-cert is malformed");
    let blinded = onionbalance_oracle::arti::blind(&key, period);
    // stem omits the final line feed, which arti requires.
    let text = text + "\n";
    let error = tor_netdoc::doc::hsdesc::HsDesc::parse_decrypt_validate(
        &text,
        &blinded.public.id(),
        &blinded.subcredential,
        None,
    );
    let error = format!("{:?}", error.unwrap_err());
    assert!(error.contains("Mismatched subject key"), "{error}");
}
