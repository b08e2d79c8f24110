//! Fuzzes key files, keys in other forms, and addresses. Writing and reading a key again must
//! preserve the key and its address.

#![no_main]

use data_encoding::BASE64;
use libfuzzer_sys::fuzz_target;
use onionbalance_operator::onion::key_file::{KeyFile, Seed};
use onionbalance_operator::onion::{KeyForm, MasterKey, OnionAddress, TimePeriod};

const TAG: &[u8] = b"== ed25519v1-secret: type0 ==\0\0\0";

fuzz_target!(|bytes: &[u8]| {
    let mut clamped = [TAG, bytes].concat();
    if clamped.len() > 64 {
        clamped[32] &= 248;
        clamped[63] = clamped[63] & 127 | 64;
    }
    for file in [bytes, &clamped] {
        let Ok(key) = MasterKey::from_tor_secret_key_file(file) else { continue };
        assert_eq!(key.to_tor_secret_key_file().as_slice(), file);
        key.check_tor_public_key_file(&key.to_tor_public_key_file()).unwrap();
        key.check_tor_hostname_file(key.to_tor_hostname_file().as_bytes()).unwrap();
        let period = TimePeriod { number: 20_000, length_minutes: 1440 };
        assert_eq!(key.blind(period).public(), key.address().blind(period));
        let _ = (key.check_tor_public_key_file(bytes), key.check_tor_hostname_file(bytes));
    }
    // Try the input both as a file and as the DER inside a PEM block.
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(bytes));
    for file in [bytes, pem.as_bytes()] {
        let Ok(read) = KeyFile::read(file) else { continue };
        let address = read.address();
        if let KeyFile::Pem(seed) = &read {
            assert_eq!(Seed::from_pem(&seed.to_pem().unwrap()).unwrap().address(), address);
        }
        assert_eq!(read.into_key().unwrap().address(), address);
    }
    if let Some(file) = KeyForm::decode(bytes) {
        assert!(KeyForm::of(bytes).is_some());
        let _ = KeyFile::read(&file);
    }
    let Some(address) = str::from_utf8(bytes).ok().and_then(|text| text.parse::<OnionAddress>().ok()) else { return };
    assert_eq!(address.to_string().parse(), Ok(address));
});
