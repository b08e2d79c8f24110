//! Compares certificate requests with Python's package cryptography, which parses them and verifies
//! their signatures.

use onionbalance_operator::onion::CertificateRequest;
use onionbalance_oracle::config;
use onionbalance_oracle::sample::master_key;
use onionbalance_oracle::stem::Stem;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn python_reads_each_certificate_request(seed: u64, ca_nonce in prop::collection::vec(any::<u8>(), 8..=128)) {
        let key = master_key(seed);
        let address = key.address();
        let request = CertificateRequest::sign(&key, &ca_nonce, &mut StdRng::seed_from_u64(seed)).unwrap();
        let theirs = Stem::shared().certificate_request(&request.to_der().unwrap());
        prop_assert!(theirs.is_signature_valid);
        prop_assert_eq!(&theirs.public_key.0, address.public_key());
        prop_assert_eq!(theirs.ca_nonce.0, ca_nonce);
        prop_assert_eq!(theirs.applicant_nonce.0.len(), 16);
        prop_assert_eq!(theirs.names, [address.to_string()]);
        prop_assert_eq!(theirs.subject, "");
    }
}
