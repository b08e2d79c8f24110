//! Tests that give malformed texts to the parsers of the encrypted layers. Anyone who knows the
//! address can encrypt these layers.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::{at, content, layers};
use crate::onion::cert::CertError;
use crate::onion::descriptor::{DescriptorError, MAX_INTRODUCTION_POINTS, ServiceContent, layer1, layer2};
use crate::onion::document::DocumentError;

const TOR_TEXT: &str = include_str!("../testdata/c-tor-0.4.9.11.txt");
const HOUR: u64 = 3600;

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[4; 32])
}

fn layer2_text(points: u8) -> String {
    layer2::write(&content(points), &signing_key(), (at(0), Duration::from_secs(HOUR))).unwrap()
}

fn parse_layer2(text: &str, now: SystemTime) -> Result<ServiceContent, DescriptorError> {
    layer2::parse(text, signing_key().verifying_key().as_bytes(), now)
}

/// Replaces the first occurrence of `from`, which must exist.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[test]
fn layer1_rejects_malformed_texts() {
    let text = layers(TOR_TEXT).0;
    let parse = |from, to| layer1::parse(&swap(&text, from, to)).map(|_| ());
    assert_eq!(parse("desc-auth-type", "desc-auth-type"), Ok(()));
    assert_eq!(parse("x25519", "x25519 more"), Ok(()));
    assert_eq!(parse("auth-client ", "unknown\nauth-client "), Ok(()));
    assert_eq!(parse("x25519", "x448"), Err(DescriptorError::Malformed("desc-auth-type")));
    assert_eq!(parse("desc-auth-type x25519\n", ""), Err(DescriptorError::Missing("desc-auth-type")));
    assert_eq!(parse("ephemeral-key ", "ephemeral-key AA"), Err(DescriptorError::Malformed("desc-auth-ephemeral-key")));
    assert_eq!(parse("desc-auth-ephemeral-key", "other"), Err(DescriptorError::Missing("desc-auth-ephemeral-key")));
    assert_eq!(parse("auth-client ", "auth-client AAAA "), Err(DescriptorError::Malformed("auth-client")));
    assert_eq!(parse("-----END MESSAGE-----", "-----END MESSAGE-----\nx"), Err(DescriptorError::Trailing("encrypted")));
    assert_eq!(layer1::parse(&text.replace("MESSAGE", "OTHER")), Err(DescriptorError::Malformed("encrypted")));
    assert_eq!(layer1::parse(&text.replace("auth-client", "other")), Err(DescriptorError::Missing("auth-client")));
    let cut = text.find("encrypted").unwrap();
    assert_eq!(layer1::parse(&text[..cut]), Err(DescriptorError::Missing("encrypted")));
}

#[test]
fn layer2_accepts_optional_and_unknown_items() {
    let text = layer2_text(1);
    let parse = |from, to| parse_layer2(&swap(&text, from, to), at(0));
    assert_eq!(parse("formats 2", "formats 2"), Ok(content(1)));
    assert_eq!(parse("formats 2", "formats 1 2").unwrap().create2_formats, [1, 2]);
    let more = parse("flow-control 1-2 31", "unknown\npow-params v1 x\nflow-control 1-2 31 more").unwrap();
    assert_eq!(more, ServiceContent { pow_params: true, ..content(1) });
    assert_eq!(parse("flow-control 1-2 31\n", "").unwrap().flow_control, None);
    let single = parse("flow-control", "single-onion-service\nintro-auth-required a b\nflow-control").unwrap();
    assert!(single.single_onion_service);
    assert_eq!(single.intro_auth_required, ["a", "b"]);
    assert_eq!(parse("onion-key ntor", "onion-key other AA\nonion-key ntor"), Ok(content(1)));
    assert!(parse("enc-key ntor", "legacy-key \nenc-key ntor").unwrap().introduction_points[0].legacy);
}

#[test]
fn layer2_rejects_malformed_texts() {
    let text = layer2_text(1);
    let parse = |from, to| parse_layer2(&swap(&text, from, to), at(0)).map(|_| ());
    let malformed = |name| Err(DescriptorError::Malformed(name));
    assert_eq!(parse("create2-formats", "x\ncreate2-formats"), Err(DescriptorError::Missing("create2-formats")));
    assert_eq!(parse("flow", "create2-formats 2\nflow"), Err(DescriptorError::Repeated("create2-formats")));
    for formats in ["formats 1", "formats 2 65536", "formats"] {
        assert_eq!(parse("formats 2", formats), malformed("create2-formats"), "{formats}");
    }
    for flow_control in ["1-2", "x 31", "1-2 256", "1-2 +1"] {
        assert_eq!(parse("1-2 31", flow_control), malformed("flow-control"), "{flow_control}");
    }
    assert_eq!(parse("flow", "intro-auth-required\nflow"), malformed("intro-auth-required"));
    // Found by fuzzing: this argument could be parsed but not encoded again.
    assert_eq!(parse("flow", "intro-auth-required ed25519\u{13}\nflow"), malformed("intro-auth-required"));
    assert_eq!(parse("introduction-point ", "introduction-point AQ"), malformed("introduction-point"));
    assert_eq!(parse("onion-key ntor ", "onion-key ntor AA"), malformed("onion-key"));
    assert_eq!(parse("onion-key", "other"), Err(DescriptorError::Missing("onion-key")));
    assert_eq!(parse("enc-key ntor", "enc-key other"), Err(DescriptorError::Missing("enc-key")));
    assert_eq!(parse("\nauth-key\n", "\nother\n"), Err(DescriptorError::Missing("auth-key")));
    assert_eq!(parse("\nauth-key\n", "\nauth-key\nauth-key\n"), malformed("auth-key"));
    assert_eq!(parse("\nenc-key-cert\n", "\nother\n"), Err(DescriptorError::Missing("enc-key-cert")));
    assert_eq!(parse("flow", "\nflow"), Err(DescriptorError::Document(DocumentError::Keyword(18))));
}

#[test]
fn layer2_checks_every_certificate() {
    let text = layer2_text(1);
    // Certificates for another point's keys, and certificates signed by another signing key.
    let certificate = |text: &str, keyword: &str| {
        let (_, after) = text.split_once(&format!("\n{keyword}\n")).unwrap();
        after[..=after.find("-----END").unwrap()].to_owned()
    };
    let [own_auth, own_enc] = ["auth-key", "enc-key-cert"].map(|keyword| certificate(&text, keyword));
    let parse = |from: &str, to: &str| parse_layer2(&swap(&text, from, to), at(0)).map(|_| ());
    assert_eq!(parse(&own_auth, &own_enc), Err(DescriptorError::Certificate("auth-key", CertError::Type(0x0b))));
    assert_eq!(parse(&own_enc, &own_auth), Err(DescriptorError::Certificate("enc-key-cert", CertError::Type(0x09))));
    let other_point = layer2_text(2).split_off(text.len());
    let other_enc = certificate(&other_point, "enc-key-cert");
    assert_eq!(parse(&own_enc, &other_enc), Err(DescriptorError::Malformed("enc-key-cert")));
    let other_signer = SigningKey::from_bytes(&[5; 32]).verifying_key();
    let by_other = layer2::parse(&text, other_signer.as_bytes(), at(0));
    assert_eq!(by_other, Err(DescriptorError::Certificate("auth-key", CertError::SigningKey)));
    let expired = parse_layer2(&text, at(HOUR + 1));
    assert_eq!(expired, Err(DescriptorError::Certificate("auth-key", CertError::Expired)));
}

#[test]
fn layer2_limits_the_number_of_points() {
    let text = layer2_text(1);
    let point = &text[text.find("introduction-point").unwrap()..];
    let repeated = |times: usize| parse_layer2(&format!("create2-formats 2\n{}", point.repeat(times)), at(0));
    assert_eq!(repeated(MAX_INTRODUCTION_POINTS).unwrap().introduction_points.len(), MAX_INTRODUCTION_POINTS);
    assert_eq!(repeated(MAX_INTRODUCTION_POINTS + 1), Err(DescriptorError::TooManyPoints));
}

static LAYER1: LazyLock<String> = LazyLock::new(|| layers(TOR_TEXT).0);
static LAYER2: LazyLock<String> = LazyLock::new(|| layer2_text(2));

proptest! {
    #[test]
    fn parsing_a_layer_never_panics(start in 0_usize..2000, length in 0_usize..40, insert in "(\\PC|\n|-----BEGIN |-----|introduction-point ){0,6}") {
        for (mut text, is_layer1) in [(LAYER1.clone(), true), (LAYER2.clone(), false)] {
            let start = start % text.len();
            let end = (start + length).min(text.len());
            text.replace_range(start..end, &insert);
            if is_layer1 {
                let _ = layer1::parse(&text);
            } else {
                let _ = parse_layer2(&text, at(0));
            }
        }
    }
}
