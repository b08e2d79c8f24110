//! Fuzzes signing kits. A kit that is accepted must be written with the same bytes, and must cover
//! its time periods with keys of its own address.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::onion::{Kit, Kits, MasterKey, PeriodCalendar, PeriodKey};
use rand::SeedableRng;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256};

const CALENDAR: PeriodCalendar = PeriodCalendar { length_minutes: 8, offset_minutes: 4 };
const FIRST: u64 = 3_740_370;

/// A well-formed kit, into which the inputs are written.
static KIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = MasterKey::generate(&mut StdRng::seed_from_u64(1));
    Kit::issue(&key, CALENDAR, FIRST, 2).unwrap().to_bytes().to_vec()
});

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The first two bytes choose where the rest of the input replaces a part of a well-formed kit.
    let Some((position, new)) = bytes.split_first_chunk::<2>() else { return };
    let mut kit = KIT.clone();
    let content = kit.len() - 32;
    let from = usize::from(u16::from_be_bytes(*position)) % content;
    let until = content.min(from + new.len());
    kit[from..until].copy_from_slice(&new[..until - from]);
    let checksum: [u8; 32] = Sha256::digest(&kit[..content]).into();
    kit[content..].copy_from_slice(&checksum);
    check(&kit);
});

fn check(bytes: &[u8]) {
    let Ok(kit) = Kit::parse(bytes) else { return };
    assert_eq!(kit.to_bytes().as_slice(), bytes);
    let _ = kit.check_all();
    let (address, periods) = (kit.address(), kit.periods());
    assert!(periods > 0);
    let [from, _] = kit.validity();
    let kits = Kits::from(kit);
    for period in kits.wanted(from).into_iter().flatten() {
        if let Some(key) = kits.period_key(period) {
            assert_eq!(key.public(), address.blind(period));
        }
    }
    let _ = (kits.covered_until(from), kits.missing(from));
}
