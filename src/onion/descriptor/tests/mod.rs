//! Tests of whole descriptors. They parse a descriptor that C tor created, and compare our own
//! descriptors with it.

use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::onion::document::Items;
use crate::onion::{MasterKey, OnionAddress, TimePeriod};

mod client_auth;
mod layers;

/// The reply of C tor 0.4.9.11 to `GETINFO hs/service/desc/id/…` on a private network with
/// `PublishHidServDescriptors 0`. The service key was discarded along with the network.
const TOR_TEXT: &str = include_str!("../testdata/c-tor-0.4.9.11.txt");
const TOR_ADDRESS: &str = "nhw5ynlrxjpmx2d7rq7naakduxzagtwb74xs42l3mevcgegyitfvojyd.onion";
const TOR_SECRET_KEY: &str = "f0f1981cd440a8406d580243592bfb4c097791ccd99ccd393e3e1d979968b351\
                              6c32f0431b7377370c350d9759fb07c2b4ded3782a08e87125803eb97f8f4dde";
const TOR_NOW: u64 = 1_795_378_362;
/// The time period of `TOR_TEXT`, according to tor's log: "Setting rev counter for TP #3740370: SRV
/// started at 1795377600, now 1795378347 (current)".
const TOR_PERIOD: TimePeriod = TimePeriod { number: 3_740_370, length_minutes: 8 };
/// The introduction points in layer 2 of `TOR_TEXT` as Python stem 1.8.2 decodes them: the link
/// specifiers, the onion key, the encryption key, and the keys that `auth-key` and `enc-key-cert`
/// certify.
const TOR_POINTS: [[&str; 5]; 3] = [
    [
        "AwAGfwAAAVIIAhRoeQBDCo5BkJk5MLS47VaeQAwgUwMgFSgVgMzPi5RWjKivdsrtEyQi9RaLU0NXgm8RCcJ3rhw=",
        "h3xnw1gOz13k9yvj0gUzolLGBHia+OedbDXU4yr7j0o=",
        "HJHxT35L8MWtAyiVgEry7bKS83ksdekSPlyS2vRQ8Wc=",
        "d4537796740346fef7beae204820b9129c456d82a03734b33b8417dcf97dbe91",
        "f6b745eef2c53ba42be6ec438b4e03d33a3a10aad3b4f8d28c6e6b5953581646",
    ],
    [
        "AwAGfwAAAVIJAhS3o9E7V/i7hfV/7Q8XEQvg8qupLwMg+I1K6fBlyMjhHABHP9z3RNgPv+tMUr2c9ISNIgU353I=",
        "JpMpBSF4DsxCZK9SXH7asnxLTRMo/CjRGb1t1vmyFyM=",
        "ngoZjv8K/EBNaONZbqC9PBFAztpRf4QN1U4Idx9KsyU=",
        "331f60571bfc6a86501599fdb9e60427c1fd47eeb15c1ee1f06dda483eae16a6",
        "fb2ba66f3a85cb764546f7f7b7c88fdb34a636db27f6544f87a8e06dc73b053d",
    ],
    [
        "AwAGfwAAAVITAhS+hp/5AN0NOsCno+if3ePuwpeZhQMgFiozjcqPtRw023YYNxwskQlBj/0MtA0xsgQkoDlT8xA=",
        "fZUEy9xZCLcPsssQkdpIIXdsyxMkCiS0U9FFtm1LSlY=",
        "8wlBgsxkozjVepuJy95QZBXrtIo4Aj7JGy0xj8x0Ing=",
        "255c8e4d6e48ab33e4fba621131f530489e815a24d590175c1cf6fed9d14ae77",
        "a7b3e78e2c5dcf54c83ac8cf9ecbdaa6d0d47f1688c3bfe6e15dc8f0cb974a50",
    ],
];
/// The plaintext lengths of layer 1 (without padding) and layer 2 of `TOR_TEXT`, according to stem.
const TOR_LAYER_LENGTHS: (usize, usize) = (4399, 2264);

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn rng(seed: u8) -> StdRng {
    StdRng::from_seed([seed; 32])
}

fn tor_key() -> MasterKey {
    let expanded = HEXLOWER.decode(TOR_SECRET_KEY.as_bytes()).unwrap();
    MasterKey::from_tor_secret_key_file(&[b"== ed25519v1-secret: type0 ==\0\0\0", expanded.as_slice()].concat())
        .unwrap()
}

fn tor_content() -> ServiceContent {
    let introduction_points = TOR_POINTS
        .iter()
        .map(|[link_specifiers, onion_key, enc_key, auth_key, enc_key_ed25519]| {
            let base64 = |text: &str| BASE64.decode(text.as_bytes()).unwrap();
            let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap();
            IntroductionPoint {
                link_specifiers: base64(link_specifiers),
                onion_key: base64(onion_key).try_into().unwrap(),
                enc_key: base64(enc_key).try_into().unwrap(),
                auth_key: hex(auth_key),
                enc_key_ed25519: hex(enc_key_ed25519),
                legacy: false,
            }
        })
        .collect();
    ServiceContent { flow_control: "1-2 31".parse().ok(), ..ServiceContent::plain(introduction_points) }
}

/// Returns the content of a descriptor with the given number of distinct introduction points.
pub(super) fn content(points: u8) -> ServiceContent {
    let point = |index: u8| {
        let key = SigningKey::from_bytes(&[index; 32]).verifying_key();
        let mut enc_key_ed25519 = key.to_bytes();
        enc_key_ed25519[31] &= 0x7f;
        let link_specifiers = [&[2, 0, 6, 127, 0, 0, 1, 0, index, 2, 20][..], &[index; 20]].concat();
        IntroductionPoint {
            link_specifiers,
            onion_key: [index; 32],
            auth_key: SigningKey::from_bytes(&[0x80 | index; 32]).verifying_key().to_bytes(),
            enc_key: key.to_montgomery().to_bytes(),
            enc_key_ed25519,
            legacy: false,
        }
    };
    ServiceContent { introduction_points: (0..points).map(point).collect(), ..tor_content() }
}

fn build_tor(content: &ServiceContent) -> Result<String, DescriptorError> {
    let key = tor_key();
    let mut rng = rng(1);
    let keys = DescriptorKeys::generate(&mut rng);
    keys.build(&key.blind(TOR_PERIOD), &key.address(), content, 24_530_761, at(TOR_NOW), &mut rng)
}

fn check(text: &str) -> Result<Descriptor, DescriptorError> {
    let key = tor_key();
    UncheckedDescriptor::parse(text)?.check(&key.address(), &key.blind(TOR_PERIOD).public(), at(TOR_NOW))
}

pub(super) fn layers(text: &str) -> (String, String) {
    UncheckedDescriptor::parse(text).unwrap().open_layers(None, &tor_key().address()).unwrap()
}

#[test]
fn parses_a_descriptor_of_c_tor() {
    let address: OnionAddress = TOR_ADDRESS.parse().unwrap();
    let blinded = address.blind(TOR_PERIOD);
    let unchecked = UncheckedDescriptor::parse(TOR_TEXT).unwrap();
    assert_eq!(unchecked.blinded_key(), blinded);
    let descriptor = unchecked.check(&address, &blinded, at(TOR_NOW)).unwrap();
    assert_eq!(descriptor.blinded_key, blinded);
    assert_eq!(descriptor.lifetime_minutes, 180);
    // Stem decodes this time as 2026-11-25 03:00:00.
    assert_eq!(descriptor.expires, at(1_795_575_600));
    assert_eq!(descriptor.content, tor_content());
    assert_eq!(
        HEXLOWER.encode(&descriptor.content.introduction_points[0].relay().0),
        "687900430a8e4190993930b4b8ed569e400c2053"
    );
}

#[test]
fn derives_the_same_keys_and_revision_counters_as_c_tor() {
    let key = tor_key();
    assert_eq!(key.address().to_string(), TOR_ADDRESS);
    assert_eq!(key.blind(TOR_PERIOD).public(), key.address().blind(TOR_PERIOD));
    // The log says "Encrypted revision counter 748 to 24530761", and the descriptor has this
    // counter.
    assert_eq!(key.blind(TOR_PERIOD).revision_counter(1_795_378_347 - 1_795_377_600), 24_530_761);
    assert_eq!(check(TOR_TEXT).unwrap().revision_counter, 24_530_761);
    // From the log: "Setting rev counter for TP #3740371: SRV started at 1795378080, now 1795378347
    // (next)", "Encrypted revision counter 268 to 8962435".
    let next = TimePeriod { number: TOR_PERIOD.number + 1, ..TOR_PERIOD };
    assert_eq!(key.blind(next).revision_counter(1_795_378_347 - 1_795_378_080), 8_962_435);
}

/// Only certificates, salts and encrypted data may differ from C tor's descriptor. Every other line
/// and every length must match.
#[test]
fn builds_descriptors_with_the_layout_of_c_tor() {
    let built = build_tor(&tor_content()).unwrap();
    assert_eq!(built.len(), TOR_TEXT.len());
    assert_eq!(without_random_parts(&built), without_random_parts(TOR_TEXT));

    let (tor_layer1, tor_layer2) = layers(TOR_TEXT);
    assert_eq!((tor_layer1.len(), tor_layer2.len()), TOR_LAYER_LENGTHS);
    let (layer1, layer2) = layers(&built);
    assert_eq!((layer1.len(), layer2.len()), TOR_LAYER_LENGTHS);
    assert_eq!(without_random_parts(&layer1), without_random_parts(&tor_layer1));
    assert_eq!(without_random_parts(&layer2), without_random_parts(&tor_layer2));

    let descriptor = check(&built).unwrap();
    assert_eq!(descriptor.content, tor_content());
    assert_eq!(descriptor.expires, check(TOR_TEXT).unwrap().expires);
    assert_eq!(certificate_heads(&layer2), certificate_heads(&tor_layer2));
    assert_eq!(certificate_heads(&built), certificate_heads(TOR_TEXT));
}

/// Masks the base64 that must differ between two descriptors. Each character is replaced with a
/// single character, so that the lengths are still compared.
fn without_random_parts(text: &str) -> String {
    let mut in_object = false;
    let mut masked = String::new();
    for line in text.split_inclusive('\n') {
        let keep = match line.split([' ', '\n']).next() {
            Some("desc-auth-ephemeral-key" | "auth-client" | "signature") => line.find(' ').unwrap(),
            Some("-----BEGIN") => line.len(),
            Some("-----END") => {
                in_object = false;
                line.len()
            }
            _ if in_object => 0,
            _ => line.len(),
        };
        in_object |= line.starts_with("-----BEGIN");
        let (kept, random) = line.split_at(keep);
        masked.push_str(kept);
        masked.extend(random.chars().map(|c| if c.is_ascii_alphanumeric() || "+/".contains(c) { '#' } else { c }));
    }
    masked
}

/// Returns the version, type, expiration and key type of each certificate.
fn certificate_heads(text: &str) -> Vec<Vec<u8>> {
    let objects = Items::new(text).filter_map(|item| item.unwrap().object_bytes("ED25519 CERT"));
    objects.map(|bytes| bytes[..7].to_vec()).collect()
}

#[test]
fn keeps_the_keys_within_a_period() {
    let key = tor_key();
    let keys = DescriptorKeys::generate(&mut rng(1));
    let mut rng = rng(2);
    let mut build = |counter| {
        keys.build(&key.blind(TOR_PERIOD), &key.address(), &content(1), counter, at(TOR_NOW), &mut rng).unwrap()
    };
    let (first, second) = (build(1), build(2));
    let certificate = |text: &str| Items::new(text).nth(2).unwrap().unwrap().object_bytes("ED25519 CERT");
    assert_eq!(certificate(&first), certificate(&second));
    assert_eq!(layers(&first).1, layers(&second).1);
    let head = |text: &str| layers(text).0.split_once("encrypted\n").unwrap().0.to_owned();
    assert_eq!(head(&first), head(&second));
    assert_ne!(first, second);
    assert_eq!(format!("{keys:?}"), "DescriptorKeys { .. }");
}

#[test]
fn a_descriptor_holds_up_to_twenty_points() {
    for points in [0, 1, 20] {
        let built = build_tor(&content(points)).unwrap();
        assert_eq!(check(&built).unwrap().content, content(points));
    }
    assert_eq!(build_tor(&content(21)), Err(DescriptorError::TooManyPoints));
}

#[test]
fn refuses_to_build_a_descriptor_that_it_would_not_parse() {
    let with = |change: fn(&mut ServiceContent)| {
        let mut content = content(1);
        change(&mut content);
        build_tor(&content).map(|_| ())
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|c| c.create2_formats.clear()), Err(DescriptorError::Malformed("create2-formats")));
    assert_eq!(
        with(|c| c.intro_auth_required = vec!["a\nb".into()]),
        Err(DescriptorError::Malformed("intro-auth-required"))
    );
    assert_eq!(with(|c| c.introduction_points[0].legacy = true), Err(DescriptorError::LegacyPoint));
    assert_eq!(
        with(|c| c.introduction_points[0].link_specifiers.push(0)),
        Err(DescriptorError::Malformed("introduction-point"))
    );
}

/// arti rejects a whole descriptor if the sign bit of one point's ed25519 encryption key is set, or
/// if a point's authentication key is not on the curve.
#[test]
fn rejects_or_repairs_points_that_would_invalidate_the_descriptor() {
    let mut negative = content(3);
    negative.introduction_points[1].enc_key_ed25519[31] |= 0x80;
    assert_eq!(check(&build_tor(&negative).unwrap()).unwrap().content, content(3));

    let mut off_the_curve = content(3);
    off_the_curve.introduction_points[1].auth_key = [2; 32];
    assert_eq!(check(&build_tor(&off_the_curve).unwrap()).unwrap_err(), DescriptorError::Malformed("auth-key"));
}

#[test]
fn rejects_an_unexpected_address_blinded_key_or_time() {
    let text = build_tor(&content(1)).unwrap();
    let key = tor_key();
    let blinded = key.blind(TOR_PERIOD).public();
    let check_as = |address: &OnionAddress, blinded, now| {
        UncheckedDescriptor::parse(&text).unwrap().check(address, blinded, now).map(|_| ())
    };
    assert_eq!(check_as(&key.address(), &blinded, at(TOR_NOW)), Ok(()));
    let later = at(TOR_NOW + 56 * 3600);
    let expired = DescriptorError::Certificate("descriptor-signing-key-cert", CertError::Expired);
    assert_eq!(check_as(&key.address(), &blinded, later), Err(expired));
    let other = MasterKey::generate(&mut rng(3)).address();
    let unopened = DescriptorError::Decryption("superencrypted");
    assert_eq!(check_as(&other, &blinded, at(TOR_NOW)), Err(unopened));
    let other = other.blind(TOR_PERIOD);
    assert_eq!(check_as(&key.address(), &other, at(TOR_NOW)), Err(DescriptorError::BlindedKey));
}

/// The encryption covers only a part of the descriptor. The signature covers the rest, too.
#[test]
fn rejects_a_descriptor_that_its_key_did_not_sign() {
    let text = build_tor(&content(1)).unwrap();
    assert!(check(&text).is_ok());
    let changed = text.replacen("descriptor-lifetime 180", "descriptor-lifetime 181", 1);
    assert_eq!(check(&changed).unwrap_err(), DescriptorError::Signature);
}

#[test]
fn rejects_malformed_outer_layers() {
    let text = build_tor(&content(1)).unwrap();
    let parse = |text: &str| UncheckedDescriptor::parse(text).map(|_| ());
    assert_eq!(parse(&text), Ok(()));
    let swap = |from: &str, to: &str| parse(&text.replacen(from, to, 1));
    assert_eq!(swap("hs-descriptor 3", "hs-descriptor 4"), Err(DescriptorError::Malformed("hs-descriptor")));
    assert_eq!(swap("hs-descriptor 3\n", ""), Err(DescriptorError::Missing("hs-descriptor")));
    for minutes in ["-1", "+1", "721", "4294967296", "1 2", ""] {
        let lifetime = format!("lifetime {minutes}");
        assert_eq!(swap("lifetime 180", &lifetime), Err(DescriptorError::Malformed("descriptor-lifetime")));
    }
    let counter = "revision-counter 24530761\n";
    assert_eq!(swap(counter, ""), Err(DescriptorError::Missing("revision-counter")));
    assert_eq!(swap(counter, &counter.repeat(2)), Err(DescriptorError::Repeated("revision-counter")));
    assert_eq!(swap("24530761", "99999999999999999999"), Err(DescriptorError::Malformed("revision-counter")));
    assert_eq!(swap(counter, "unknown x\nrevision-counter 24530761\n"), Ok(()));
    assert_eq!(swap("BEGIN ED25519", "BEGIN X25519"), Err(DescriptorError::Document(DocumentError::Object(68))));

    let trailing = Err(DescriptorError::Trailing("signature"));
    for end in ["x\n", "\n", "-----BEGIN X-----\n-----END X-----\n"] {
        assert_eq!(parse(&format!("{text}{end}")), trailing, "{end}");
    }
    let signature_at = text.find("signature").unwrap();
    assert_eq!(parse(&text[..signature_at]), Err(DescriptorError::Missing("signature")));
    assert_eq!(parse(&text.replace("\nsignature ", "\nsignature =")), Err(DescriptorError::Malformed("signature")));
    assert_eq!(parse(&"a".repeat(MAX_LEN)), Err(DescriptorError::TooLong));
    assert_eq!(parse(""), Err(DescriptorError::Missing("hs-descriptor")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parses_every_descriptor_that_it_builds(
        points in 0_u8..=20,
        flow_control in proptest::option::of("[0-4]-[5-9] [1-9]"),
        single_onion_service: bool,
        intro_auth_required in proptest::collection::vec("[a-z0-9]{1,10}", 0..3),
        revision_counter: u64,
        seconds in 0_u64..4_000_000_000,
        seed: [u8; 32],
    ) {
        let flow_control = flow_control.map(|text| text.parse().unwrap());
        let content = ServiceContent { flow_control, single_onion_service, intro_auth_required, ..content(points) };
        let mut rng = StdRng::from_seed(seed);
        let key = MasterKey::generate(&mut rng);
        let pair = key.blind(TOR_PERIOD);
        let keys = DescriptorKeys::generate(&mut rng);
        let text = keys.build(&pair, &key.address(), &content, revision_counter, at(seconds), &mut rng).unwrap();
        let unchecked = UncheckedDescriptor::parse(&text).unwrap();
        let descriptor = unchecked.check(&key.address(), &pair.public(), at(seconds)).unwrap();
        prop_assert_eq!(descriptor.content, content);
        prop_assert_eq!(descriptor.revision_counter, revision_counter);
        prop_assert_eq!(descriptor.lifetime_minutes, 180);
        let lifetime = descriptor.expires.duration_since(at(seconds)).unwrap();
        prop_assert!((54 * 3600..55 * 3600).contains(&lifetime.as_secs()));
    }

    #[test]
    fn any_changed_byte_is_detected(index in 0..TOR_TEXT.len() - 1, byte in 0_u8..128) {
        let mut bytes = TOR_TEXT.as_bytes().to_vec();
        prop_assume!(bytes[index] != byte);
        bytes[index] = byte;
        prop_assert!(check(str::from_utf8(&bytes).unwrap()).is_err());
    }
}
