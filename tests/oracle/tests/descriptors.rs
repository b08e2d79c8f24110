//! Compares our descriptors with those of arti's `tor-netdoc`. Each implementation reads the
//! other's descriptors, and every field must match.

use std::time::{Duration, SystemTime};

use onionbalance_operator::onion::{
    ClientSecretKey, Descriptor, DescriptorKeys, FlowControl, IntroductionPoint, ServiceContent, UncheckedDescriptor,
};
use onionbalance_oracle::arti;
use onionbalance_oracle::config;
use onionbalance_oracle::sample::{Sample, content, now, point, sample};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tor_bytes::{Reader, Writer as _};
use tor_cell::chancell::msg::HandshakeType;
use tor_checkable::TimeBound as _;
use tor_hscrypto::pk::HsClientDescEncKeypair;
use tor_linkspec::EncodedLinkSpec;
use tor_llcrypto::pk::{curve25519, ed25519};
use tor_netdoc::NetdocBuilder as _;
use tor_netdoc::doc::hsdesc::{
    HsDesc, HsDescBuilder, HsDescError, IntroAuthType, IntroPointDesc, create_desc_sign_key_cert,
};
use tor_protover::Protocols;

const HOUR: Duration = Duration::from_hours(1);

/// Parses, checks and decrypts a descriptor with arti.
fn open_in_arti(
    sample: &Sample,
    text: &str,
    client: Option<&[u8; 32]>,
    now: SystemTime,
) -> Result<HsDesc, HsDescError> {
    let blinded = arti::blind(&sample.key(), sample.period);
    let client = client.map(client_keypair);
    let descriptor =
        HsDesc::parse_decrypt_validate(text, &blinded.public.id(), &blinded.subcredential, client.as_ref())?;
    // As in C tor, certificates are valid for 54 hours and expire on the hour. For the certificates
    // of introduction points, the 54 hours start at the last full hour.
    assert!(descriptor.check_valid_at(&(now + 53 * HOUR)).is_ok());
    assert!(descriptor.check_valid_at(&(now + 55 * HOUR)).is_err());
    Ok(descriptor.if_valid_at(&now).expect("the descriptor is not valid now"))
}

fn open_in_ours(sample: &Sample, text: &str, client: Option<&[u8; 32]>) -> Option<Descriptor> {
    let address = sample.address();
    let blinded = address.blind(sample.period);
    let client = client.map(|secret| ClientSecretKey::from_bytes(*secret));
    UncheckedDescriptor::parse(text).unwrap().check_as(client.as_ref(), &address, &blinded, now()).ok()
}

fn client_keypair(secret: &[u8; 32]) -> HsClientDescEncKeypair {
    let secret = curve25519::StaticSecret::from(*secret);
    HsClientDescEncKeypair::new(curve25519::PublicKey::from(&secret).into(), secret.into())
}

fn flow_control(content: &ServiceContent) -> Option<String> {
    content.flow_control.map(|flow_control| flow_control.to_string())
}

/// Asserts that our content equals the content that arti has read. `create2-formats` is not
/// compared, because arti does not expose it.
fn assert_same(ours: &ServiceContent, revision_counter: u64, theirs: &HsDesc) {
    assert_eq!(u64::from(theirs.revision()), revision_counter);
    assert_eq!(theirs.is_single_onion_service(), ours.single_onion_service);
    assert_eq!(theirs.requires_intro_authentication(), !ours.intro_auth_required.is_empty());
    let their_flow_control = theirs.flow_control().map(|(versions, increment)| {
        format!("{} {increment}", versions.to_string().strip_prefix("FlowCtrl=").unwrap())
    });
    assert_eq!(their_flow_control, flow_control(ours));
    assert!(theirs.pow_params().is_empty());
    let their_points: Vec<_> = theirs.intro_points().iter().map(to_ours).collect();
    assert_eq!(their_points, ours.introduction_points);
}

fn to_ours(point: &IntroPointDesc) -> IntroductionPoint {
    let mut link_specifiers = Vec::new();
    link_specifiers.write_u8(u8::try_from(point.link_specifiers().len()).unwrap());
    for specifier in point.link_specifiers() {
        link_specifiers.write(specifier).unwrap();
    }
    let enc_key: &curve25519::PublicKey = point.svc_ntor_key().as_ref();
    let auth_key: &ed25519::PublicKey = point.ipt_sid_key().as_ref();
    IntroductionPoint {
        link_specifiers,
        onion_key: point.ipt_ntor_key().to_bytes(),
        auth_key: auth_key.to_bytes(),
        enc_key: enc_key.to_bytes(),
        enc_key_ed25519: arti::ed25519_equivalent(enc_key),
        legacy: false,
    }
}

fn to_theirs(point: &IntroductionPoint) -> IntroPointDesc {
    let mut reader = Reader::from_slice(&point.link_specifiers);
    let count = reader.take_u8().unwrap();
    let link_specifiers: Vec<EncodedLinkSpec> = reader.extract_n(count.into()).unwrap();
    IntroPointDesc::builder()
        .link_specifiers(link_specifiers)
        .ipt_kp_ntor(point.onion_key.into())
        .kp_hs_ipt_sid(ed25519::PublicKey::from_bytes(&point.auth_key).unwrap().into())
        .kp_hss_ntor(curve25519::PublicKey::from(point.enc_key).into())
        .build()
        .unwrap()
}

/// Returns the given content as arti writes it. arti only writes flow control versions 1 and 2.
fn written_by_arti(content: &ServiceContent) -> ServiceContent {
    let both = |flow_control: FlowControl| {
        let text = flow_control.to_string();
        let (_, increment) = text.split_once(' ').unwrap();
        flow_control.agreed(format!("1-2 {increment}").parse().unwrap())
    };
    ServiceContent { flow_control: content.flow_control.and_then(both), ..content.clone() }
}

fn in_order(content: &ServiceContent) -> ServiceContent {
    let mut content = content.clone();
    content.introduction_points.sort_by_key(|point| point.auth_key);
    content
}

/// Builds the sample's descriptor with arti.
fn build_in_arti(sample: &Sample, lifetime: u16, protocols: &Protocols) -> String {
    let mut rng = StdRng::seed_from_u64(sample.seed ^ 4);
    let blinded = arti::blind(&sample.key(), sample.period);
    let signing_key = ed25519::Keypair::from_bytes(&rng.random());
    let expiry = now() + 54 * HOUR;
    let content = &sample.content;
    let formats: Vec<HandshakeType> = content.create2_formats.iter().map(|format| (*format).into()).collect();
    let points: Vec<_> = content.introduction_points.iter().map(to_theirs).collect();
    let clients = sample.client_secrets().into_iter().map(curve25519::StaticSecret::from);
    let clients: Vec<_> = clients.map(|secret| curve25519::PublicKey::from(&secret)).collect();
    let auth_required =
        (!content.intro_auth_required.is_empty()).then(|| [IntroAuthType::Ed25519].into_iter().collect());
    let flow_control = flow_control(content).map(|text| {
        let (versions, increment) = text.split_once(' ').unwrap();
        (format!("FlowCtrl={versions}").parse().unwrap(), increment.parse().unwrap())
    });
    let builder = HsDescBuilder::default()
        .blinded_id(&blinded.public)
        .hs_desc_sign(&signing_key)
        .hs_desc_sign_cert(create_desc_sign_key_cert(&signing_key.verifying_key(), &blinded.keypair, expiry).unwrap())
        .create2_formats(&formats)
        .auth_required(auth_required)
        .is_single_onion_service(content.single_onion_service)
        .intro_points(&points)
        .intro_auth_key_cert_expiry(expiry)
        .intro_enc_key_cert_expiry(expiry)
        .flow_control(flow_control)
        .supported_protocols(protocols.clone())
        .auth_clients(sample.clients.map(|_| clients.as_slice()))
        .lifetime(lifetime.into())
        .revision_counter(sample.revision_counter.into())
        .subcredential(blinded.subcredential);
    builder.build_sign(&mut rng).unwrap()
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn arti_reads_our_descriptors(sample in sample()) {
        let text = sample.build(now());
        if sample.clients.is_none() {
            let descriptor = open_in_arti(&sample, &text, None, now()).unwrap();
            assert_same(&sample.content, sample.revision_counter, &descriptor);
            // An unnecessary client key is ignored.
            open_in_arti(&sample, &text, Some(&sample.stranger()), now()).unwrap();
        } else {
            for client in sample.client_secrets() {
                let descriptor = open_in_arti(&sample, &text, Some(&client), now()).unwrap();
                assert_same(&sample.content, sample.revision_counter, &descriptor);
            }
            let without = open_in_arti(&sample, &text, None, now());
            prop_assert!(matches!(without, Err(HsDescError::MissingDecryptionKey)), "{:?}", without);
            let stranger = open_in_arti(&sample, &text, Some(&sample.stranger()), now());
            prop_assert!(matches!(stranger, Err(HsDescError::WrongDecryptionKey)), "{:?}", stranger);
        }
    }

    #[test]
    fn arti_reads_the_descriptors_of_a_delegated_service(sample in sample()) {
        let (sample, text) = Sample { clients: None, ..sample }.build_delegated(now());
        let descriptor = open_in_arti(&sample, &text, None, now()).unwrap();
        assert_same(&sample.content, sample.revision_counter, &descriptor);
    }

    /// arti may add a `proto` line to its descriptors. Our code ignores it.
    #[test]
    fn we_read_descriptors_from_arti(sample in sample(), lifetime in 30..=720_u16, protocols in prop_oneof![Just(""), Just("Conflux=1 HSIntro=4-5")]) {
        // arti refuses to build a descriptor with client authorization but no clients.
        prop_assume!(sample.clients != Some(0));
        let text = build_in_arti(&sample, lifetime, &protocols.parse().unwrap());
        let clients = sample.client_secrets();
        let keys = if sample.clients.is_none() { vec![None] } else { clients.iter().map(Some).collect() };
        for key in keys {
            let descriptor = open_in_ours(&sample, &text, key).unwrap();
            // arti reorders the introduction points.
            prop_assert_eq!(in_order(&descriptor.content), in_order(&written_by_arti(&sample.content)));
            prop_assert_eq!(descriptor.revision_counter, sample.revision_counter);
            prop_assert_eq!(descriptor.lifetime_minutes, u32::from(lifetime));
            prop_assert_eq!(descriptor.blinded_key, sample.key().blind(sample.period).public());
            let rest = descriptor.expires.duration_since(now()).unwrap();
            prop_assert!((54 * HOUR..55 * HOUR).contains(&rest), "{:?}", rest);
        }
        if sample.clients.is_some() {
            prop_assert!(open_in_ours(&sample, &text, None).is_none());
            prop_assert!(open_in_ours(&sample, &text, Some(&sample.stranger())).is_none());
        }
    }

    /// arti must accept every descriptor that we build from backend content that our code accepts.
    #[test]
    fn arti_reads_what_we_accept(
        seed: u64, content in content(), odd in point(), auth_key: Option<[u8; 32]>, onion_key: [u8; 32], negative: bool,
        link_specifiers in prop::option::of(prop::collection::vec(0..40_u8, 0..80)),
    ) {
        let mut odd = IntroductionPoint { onion_key, ..odd };
        odd.auth_key = auth_key.unwrap_or(odd.auth_key);
        odd.enc_key_ed25519[31] |= if negative { 0x80 } else { 0 };
        odd.link_specifiers = link_specifiers.unwrap_or(odd.link_specifiers);
        let mut content = content;
        content.introduction_points[0] = odd;
        let period = onionbalance_operator::onion::TimePeriod { number: 20_000, length_minutes: 1440 };
        let sample = Sample { seed, period, revision_counter: 1, content, clients: None };

        let (key, address) = (sample.key().blind(period), sample.address());
        let mut rng = StdRng::seed_from_u64(seed);
        let keys = DescriptorKeys::generate(&mut rng);
        let Ok(backends) = keys.build(&key, &address, &sample.content, 1, now(), &mut rng) else { return Ok(()) };
        let Some(accepted) = open_in_ours(&sample, &backends, None) else { return Ok(()) };
        let merged = keys.build(&key, &address, &accepted.content, 2, now(), &mut rng).unwrap();
        let read = open_in_arti(&sample, &merged, None, now());
        prop_assert!(read.is_ok(), "{:?}: {:?}", read.err(), accepted.content.introduction_points[0]);
    }
}
