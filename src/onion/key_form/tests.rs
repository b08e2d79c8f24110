use data_encoding::{BASE32, BASE64, BASE64_NOPAD, HEXLOWER, HEXUPPER};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::onion::{KeyFile, MasterKey, Seed};

const SEED: [u8; 32] = [0x9c; 32];

fn seed() -> Seed {
    Seed::generate(&mut StdRng::from_seed([3; 32]))
}

fn key() -> MasterKey {
    seed().expand().unwrap()
}

fn file() -> Vec<u8> {
    key().to_tor_secret_key_file().to_vec()
}

/// Breaks a text into lines of 40 characters.
fn wrapped(text: &str) -> String {
    text.as_bytes().chunks(40).flat_map(|line| [str::from_utf8(line).unwrap(), "\r\n"]).collect()
}

#[test]
fn keys_in_text_are_decoded() {
    let pem = seed().to_pem().unwrap();
    let add_onion = format!("ED25519-V3:{}", BASE64.encode(&file()[32..]));
    for (text, form) in [
        (BASE64.encode(&file()), KeyForm::Text(Encoding::Base64)),
        (format!("\n {}\n", BASE64_NOPAD.encode(&file())), KeyForm::Text(Encoding::Base64)),
        (wrapped(&BASE64.encode(&file())), KeyForm::Text(Encoding::Base64)),
        (BASE64.encode(BASE64.encode(&file()).as_bytes()), KeyForm::Text(Encoding::Base64)),
        (BASE64.encode(pem.as_bytes()), KeyForm::Text(Encoding::Base64)),
        (HEXLOWER.encode(&file()), KeyForm::Text(Encoding::Hex)),
        (wrapped(&HEXUPPER.encode(&file())), KeyForm::Text(Encoding::Hex)),
        (BASE32.encode(&file()), KeyForm::Text(Encoding::Base32)),
        (BASE32.encode(&file()).to_ascii_lowercase(), KeyForm::Text(Encoding::Base32)),
        (format!("{add_onion}\n"), KeyForm::AddOnion),
        (format!("\u{feff}{add_onion}\r\n"), KeyForm::AddOnion),
        (format!("\u{feff}{}\r\n", BASE64.encode(&file())), KeyForm::Text(Encoding::Base64)),
        (format!("250-PrivateKey={add_onion}\r\n"), KeyForm::AddOnion),
    ] {
        assert_eq!(KeyForm::of(text.as_bytes()), Some(form), "{text}");
        let decoded = KeyForm::decode(text.as_bytes()).unwrap();
        assert_eq!(KeyFile::read(&decoded).unwrap().address(), key().address(), "{text}");
    }
}

#[test]
fn bare_keys_are_named_but_never_decoded() {
    let public = SigningKey::from_bytes(&SEED).verifying_key().to_bytes();
    let expanded = file()[32..].to_vec();
    for (bytes, form) in [
        (SEED.to_vec(), KeyForm::Seed),
        ([SEED, public].concat(), KeyForm::SeedAndPublicKey),
        (expanded.clone(), KeyForm::Expanded),
        (BASE64.encode(&SEED).into_bytes(), KeyForm::BareText(Encoding::Base64)),
        (HEXLOWER.encode(&SEED).into_bytes(), KeyForm::BareText(Encoding::Hex)),
        (BASE32.encode(&SEED).into_bytes(), KeyForm::BareText(Encoding::Base32)),
        (BASE64.encode(&expanded).into_bytes(), KeyForm::BareText(Encoding::Base64)),
    ] {
        assert_eq!(KeyForm::of(&bytes), Some(form));
        assert_eq!(KeyForm::decode(&bytes), None, "{form}");
    }
}

#[test]
fn manifests_are_recognised_by_the_names_of_their_entries() {
    for text in
        ["data:\n  hs_ed25519_secret_key: AAAA\n", r#"{"data": {"privateKeyFile": "AAAA"}}"#, "privateKey: AAAA\n"]
    {
        assert_eq!(KeyForm::of(text.as_bytes()), Some(KeyForm::Manifest), "{text}");
    }
}

#[test]
fn other_content_is_no_key() {
    let (address, public_key) = (key().address().to_string(), key().to_tor_public_key_file());
    for bytes in [
        b"".as_slice(),
        &public_key,
        b"a password of thirty-two letters",
        address.as_bytes(),
        b"ED25519-V3:AAAA",
        b"RSA1024:AAAA",
        &[0xff; 64],
        &[0x80; 31],
        &[0x80; 96],
    ] {
        assert_eq!(KeyForm::of(bytes), None, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn each_form_has_a_remedy_that_names_the_file() {
    let encodings = Encoding::ALL.into_iter();
    let forms = encodings.clone().map(KeyForm::Text).chain(encodings.map(KeyForm::BareText)).chain([
        KeyForm::AddOnion,
        KeyForm::Manifest,
        KeyForm::Expanded,
        KeyForm::SeedAndPublicKey,
        KeyForm::Seed,
    ]);
    for form in forms {
        assert!(form.remedy().contains("FILE") && !form.to_string().is_empty(), "{form}");
    }
}

#[test]
fn a_scalar_is_secret_if_it_is_clamped_or_reduced() {
    let clamped: [u8; 32] = file()[32..64].try_into().unwrap();
    let reduced = Scalar::from_bytes_mod_order(clamped).to_bytes();
    for (scalar, expected) in [(clamped, true), (reduced, true), ([0; 32], false), ([0xff; 32], false)] {
        assert_eq!(is_secret_scalar(&scalar), expected, "{scalar:?}");
    }
}

proptest! {
    #[test]
    fn recognising_never_panics(bytes: Vec<u8>, text in "(ED25519-V3:)?[A-Za-z0-9+/= \n]{0,200}") {
        let _ = (KeyForm::of(&bytes), KeyForm::decode(&bytes));
        let _ = (KeyForm::of(text.as_bytes()), KeyForm::decode(text.as_bytes()));
    }
}
