//! Fuzzes certificates, both as they are and with a valid signature appended.

#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use onionbalance_fuzz::{certificate_signer, now, sign_certificate};
use onionbalance_operator::onion::cert::{CertType, UncheckedCert};

fuzz_target!(|bytes: &[u8]| {
    let signer = certificate_signer();
    let key = signer.verifying_key().to_bytes();
    for cert in [bytes.to_vec(), sign_certificate(&signer, bytes)] {
        let Ok(parsed) = UncheckedCert::parse(&cert) else { continue };
        for kind in [CertType::DescriptorSigningKey, CertType::IntroAuthKey, CertType::IntroEncKey] {
            let Ok(certified) = parsed.check(kind, &key, now()) else { continue };
            assert_eq!((cert[0], cert[1], cert[6]), (1, kind as u8, 1));
            assert_eq!(certified.key, cert[7..39]);
            let hours = u32::from_be_bytes(cert[2..6].try_into().unwrap());
            assert_eq!(certified.expires, SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(hours) * 3600));
            assert!(certified.expires >= now());
            assert_eq!(parsed.signed_with(), Some(&key));
        }
    }
});
