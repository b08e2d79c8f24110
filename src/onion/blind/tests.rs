//! Tests of key blinding against the test vectors of C tor.

use data_encoding::HEXLOWER_PERMISSIVE;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::onion::MasterKey;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

fn secret_bytes(pair: &BlindedKeypair) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(pair.secret.scalar.as_bytes());
    bytes[32..].copy_from_slice(&pair.secret.hash_prefix);
    bytes
}

/// The test vectors of `test_blinding_basics` in C tor's `src/test/test_hs_common.c`.
mod tor_blinding_basics {
    use super::*;

    const PERIOD: TimePeriod = TimePeriod { number: 1234, length_minutes: 1440 };
    const PUBLIC: &str = "833990B085C1A688C1D4C8B1F6B56AFAF5A2ECA674449E1D704F83765CCB7BC6";
    const SCALAR: &str = "D8C7FF0E31295B66540D789AF3E3DF992038A9592EEA01D8B7CBA06D6E66D159";
    const PREFIX: &str = "4D6167696320576F7264733A20737065697373636F62616C742062697669756D";
    const FACTOR: &str = "379E50DB31FEE6775ABD0AF6FB7C371E060308F4F847DB09FE4CFE13AF602287";
    const BLINDED: &str = "3A50BF210E8F9EE955AE0014F7A6917FB65EBF098A86305ABB508D1A7291B6D5";
    const SUBCREDENTIAL: &str = "635D55907816E8D76398A675A50B1C2F3E36B42A5CA77BA3A0441285161AE07D";
    const BLINDED_SECRET: &str = "A958DC83AC885F6814C67035DE817A2C604D5D2F715282079448F789B656350B\
                                  4540FE1F80AA3F7E91306B7BF7A8E367293352B14A29FDCC8C19F3558075524B";

    #[test]
    fn matches_the_blinded_keys_of_c_tor() {
        let address = OnionAddress::from_public_key(hex(PUBLIC)).unwrap();
        assert_eq!(blinding_factor(&address, PERIOD), clamped(hex(FACTOR)));
        assert_eq!(address.blind(PERIOD), BlindedPublicKey(hex(BLINDED)));
        assert_eq!(address.subcredential(&address.blind(PERIOD)), Subcredential(hex(SUBCREDENTIAL)));
        let pair = BlindedKeypair::derive(&address, &hex(SCALAR), &hex(PREFIX), PERIOD);
        assert_eq!(pair.public(), BlindedPublicKey(hex(BLINDED)));
        assert_eq!(secret_bytes(&pair), hex::<64>(BLINDED_SECRET));
    }
}

/// Test vectors from C tor's `src/test/ed25519_vectors.inc`. Each consists of an expanded secret
/// key, a blinding parameter, a blinded secret key and a blinded public key. Of the ten vectors in
/// the file, these are the first, one from the middle, and the two whose parameters need clamping.
const TOR_VECTORS: [[&str; 4]; 4] = [
    [
        "c0a4de23cc64392d85aa1da82b3defddbea946d13bb053bf8489fa9296281f495022f1f7ec0dcf52f07d4c7965c4eaed121d5d88d0a8ff546b06116a20e97755",
        "54a513898b471d1d448a2f3c55c1de2c0ef718c447b04497eeb999ed32027823",
        "293c3acff4e902f6f63ddc5d5caa2a57e771db4f24de65d4c28df3232f47fa01171d43f24e3f53e70ec7ac280044ac77d4942dee5d6807118a59bdf3ee647e89",
        "1fc1fa4465bd9d4956fdbdc9d3acb3c7019bb8d5606b951c2e1dfe0b42eaeb41",
    ],
    [
        "8883c1387a6c86fc0bd7b9f157b4e4cd83f6885bf55e2706d2235d4527a2f05311a3595953282e436df0349e1bb313a19b3ddbf7a7b91ecce8a2c34abadb38b3",
        "81f1512b63ab5fb5c1711a4ec83d379c420574aedffa8c3368e1c3989a3a0084",
        "c23588c23ee76093419d07b27c6df5922a03ac58f96c53671456a7d1bdbf560ec492fc87d5ec2a1b185ca5a40541fdef0b1e128fd5c2380c888bfa924711bcab",
        "2b946a484344eb1c17c89dd8b04196a84f3b7222c876a07a4cece85f676f87d9",
    ],
    [
        "b003077c1e52a62308eef7950b2d532e1d4a7eea50ad22d8ac11b892851f1c40ffb9c9ff8dcd0c6c233f665a2e176324d92416bfcfcd1f787424c0c667452d86",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "e5cd03eb4cc456e11bc36724b558873df0045729b22d8b748360067a7770ac02053d9c00c81e1331c06ab50087be8cfc7dc11691b132614474f1aa9c2503cccd",
        "312404d06a0a9de489904b18d5233e83a50b225977fa8734f2c897a73c067952",
    ],
    [
        "b003077c1e52a62308eef7950b2d532e1d4a7eea50ad22d8ac11b892851f1c40ffb9c9ff8dcd0c6c233f665a2e176324d92416bfcfcd1f787424c0c667452d86",
        "1111111111111111111111111111111111111111111111111111111111111111",
        "2cf7ed8b163f5af960d2fc62e1883aa422a6090736b4f18a5456ddcaf78ede0c053d9c00c81e1331c06ab50087be8cfc7dc11691b132614474f1aa9c2503cccd",
        "952a908a4a9e0e5176a2549f8f328955aca6817a9fdc59e3acec5dec50838108",
    ],
];

#[test]
fn matches_c_tor_for_given_blinding_factors() {
    for [expanded, factor, secret, public] in TOR_VECTORS {
        let expanded: [u8; 64] = hex(expanded);
        let (scalar, prefix) = expanded.split_at(32);
        let pair =
            BlindedKeypair::with_factor(scalar.try_into().unwrap(), prefix.try_into().unwrap(), clamped(hex(factor)));
        assert_eq!(secret_bytes(&pair), hex::<64>(secret));
        assert_eq!(pair.public(), BlindedPublicKey(hex(public)));
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let key = MasterKey::generate(&mut StdRng::from_seed([7; 32]));
    let shown = format!("{:?}", key.blind(TimePeriod { number: 1, length_minutes: 1440 }));
    assert!(shown.starts_with("BlindedKeypair { public: "), "{shown}");
    assert!(shown.ends_with(", .. }"), "{shown}");
}

proptest! {
    #[test]
    fn both_halves_of_a_blinded_key_match_and_its_signatures_verify(
        seed: [u8; 32], number: u64, length_minutes: u64, message: Vec<u8>,
    ) {
        let expanded = ExpandedSecretKey::from(&seed);
        let scalar = clamp_integer(sha512_head(&seed));
        let address = OnionAddress::from_public_key(VerifyingKey::from(&expanded).to_bytes()).unwrap();
        let period = TimePeriod { number, length_minutes };
        let pair = BlindedKeypair::derive(&address, &scalar, &expanded.hash_prefix, period);
        prop_assert_eq!(pair.public(), address.blind(period));
        let signature = pair.sign(&message);
        prop_assert!(pair.public.verify_strict(&message, &signature).is_ok());
    }
}

fn sha512_head(seed: &[u8; 32]) -> [u8; 32] {
    *Sha512::digest(seed).first_chunk().unwrap()
}
