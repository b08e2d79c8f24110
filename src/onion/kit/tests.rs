//! Tests of signing kits.

use std::time::Duration;

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256, Sha512};

use super::*;
use crate::onion::key::MasterKey;
use crate::onion::known_nonce::{self, PublishedSignature};
use crate::onion::{DescriptorKeys, PeriodKey, ServiceContent, ServiceKey, UncheckedDescriptor};

/// The period that begins on 2026-12-01 at 12:00 UTC.
const FIRST: u64 = 20_788;

fn master() -> MasterKey {
    MasterKey::generate(&mut StdRng::from_seed([5; 32]))
}

fn kit(first: u64, count: u32) -> Kit {
    Kit::issue(&master(), PeriodCalendar::PUBLIC, first, count).unwrap()
}

fn kits(first: u64, count: u32) -> Kits {
    kit(first, count).into()
}

/// Returns a copy of a kit's file with other bytes at a position and a correct checksum.
fn changed(bytes: &[u8], position: usize, new: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[position..position + new.len()].copy_from_slice(new);
    let content = changed.len() - 32;
    let checksum: [u8; 32] = Sha256::digest(&changed[..content]).into();
    changed[content..].copy_from_slice(&checksum);
    changed
}

fn error(bytes: &[u8]) -> KitError {
    Kit::parse(bytes).unwrap_err()
}

#[test]
fn a_kit_survives_writing_and_reading() {
    let kit = kit(FIRST, 3);
    let bytes = kit.to_bytes();
    let read = Kit::parse(&bytes).unwrap();
    assert_eq!(*read.to_bytes(), *bytes);
    assert_eq!((read.address(), read.periods()), (master().address(), 3));
    assert_eq!(read.check_all(), Ok(()));
    let noon = PeriodCalendar::PUBLIC.start(FIRST).unwrap();
    assert_eq!(read.validity(), [noon - Duration::from_secs(12 * 3600), noon + Duration::from_secs(3 * 24 * 3600)]);
}

#[test]
fn the_same_arguments_give_the_same_kit() {
    assert_eq!(*kit(FIRST, 2).to_bytes(), *kit(FIRST, 2).to_bytes());
}

#[test]
fn a_kit_of_90_days_has_less_than_320_kib() {
    // 52 certificates for each period; the size does not depend on the key.
    let period = kit(FIRST, 2).to_bytes().len() - kit(FIRST, 1).to_bytes().len();
    assert_eq!(period, 3 * 32 + 4 + 2 + 52 * 64);
    assert!(91 * period < 320 * 1024);
}

#[test]
fn malformed_kits_are_refused_with_the_reason() {
    let bytes = kit(FIRST, 2).to_bytes();
    assert_eq!(error(b""), KitError::Tag);
    assert_eq!(error(&bytes[1..]), KitError::Tag);
    assert_eq!(error(&master().to_tor_secret_key_file()), KitError::MasterKey);
    assert_eq!(error(&changed(&bytes, 30, &[0, 2])), KitError::Version(2));
    for length in [31, 40, 160, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(error(&bytes[..length]), KitError::Truncated(length));
    }
    assert_eq!(error(&[bytes.as_slice(), b"\n"].concat()), KitError::Trailing(1));
    assert_eq!(error(&changed(&bytes, 32, &[0; 32])), KitError::Address);
    let another = MasterKey::generate(&mut StdRng::from_seed([6; 32])).address();
    assert_eq!(error(&changed(&bytes, 32, another.public_key())), KitError::BlindedKey(FIRST));
    assert_eq!(error(&changed(&bytes, 128, &0_u64.to_be_bytes())), KitError::Periods);
    assert_eq!(error(&changed(&bytes, 136, &1440_u64.to_be_bytes())), KitError::Periods);
    assert_eq!(error(&changed(&bytes, 144, &u64::MAX.to_be_bytes())), KitError::Periods);
    assert_eq!(error(&changed(&bytes, 144, &(FIRST + 1).to_be_bytes())), KitError::BlindedKey(FIRST + 1));
    assert_eq!(error(&changed(&bytes, 156 + 32, &[9; 32])), KitError::Certificate(FIRST, CertError::Signature));
    let none = Kit { periods: Vec::new(), ..kit(FIRST, 1) };
    assert_eq!(error(&none.to_bytes()), KitError::Periods);
}

#[test]
fn a_damaged_certificate_in_the_middle_is_found_by_the_full_check() {
    let bytes = kit(FIRST, 1).to_bytes();
    let middle = 156 + 102 + 20 * 64;
    let damaged = Kit::parse(&changed(&bytes, middle, &[7; 64])).unwrap();
    assert!(matches!(damaged.check_all(), Err(KitError::Certificate(FIRST, _))), "{:?}", damaged.check_all());
}

#[test]
fn kits_without_periods_or_out_of_range_are_not_issued() {
    for (first, count) in [(FIRST, 0), (u64::MAX, 1), (u64::MAX / 3, 1), (u64::from(u32::MAX), 1)] {
        assert_eq!(
            Kit::issue(&master(), PeriodCalendar::PUBLIC, first, count).err(),
            Some(KitError::Periods),
            "{first} {count}"
        );
    }
}

/// Clients and HSDirs must not be able to tell a delegated service from an online one: everything
/// but the random parts must be equal at every hour of the publishing time.
#[test]
fn certificates_expire_like_those_of_the_online_key() {
    let (master, kits) = (master(), kits(FIRST, 1));
    let period = PeriodCalendar::PUBLIC.period(FIRST);
    let (online, delegated) = (master.blind(period), kits.period_key(period).unwrap());
    let signing_key = delegated.signing_key().unwrap().verifying_key().to_bytes();
    let [from, until] = PeriodCalendar::PUBLIC.publishing_times(FIRST).unwrap();
    let minutes = until.duration_since(from).unwrap().as_secs() / 60 + 180;
    for minute in (0..=minutes).step_by(7).chain([0, 1, 59, 60, 61, minutes]) {
        let now = from + Duration::from_secs(60 * minute);
        let lifetime = cert::DESCRIPTOR_LIFETIME;
        let certs = [&online as &dyn PeriodKey, &delegated].map(|key| key.certify(&signing_key, now, lifetime));
        assert!(certs[0].is_some());
        assert_eq!(certs[0], certs[1], "minute {minute}");
    }
}

#[test]
fn outside_the_publishing_time_the_nearest_certificate_is_used_until_it_expires() {
    let delegated = kits(FIRST, 1).period_key(PeriodCalendar::PUBLIC.period(FIRST)).unwrap();
    let signing_key = delegated.signing_key().unwrap().verifying_key().to_bytes();
    let [from, until] = PeriodCalendar::PUBLIC.publishing_times(FIRST).unwrap();
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    let certify = |now| delegated.certify(&signing_key, now, cert::DESCRIPTOR_LIFETIME);
    assert_eq!(certify(from - hours(5)), certify(from));
    assert!(certify(until + hours(24)).is_some());
    assert_eq!(certify(until + hours(24)), certify(until + hours(3)));
    assert!(certify(until + hours(57)).is_some());
    assert_eq!(certify(until + hours(58)), None);
}

#[test]
fn a_delegated_key_certifies_only_its_own_signing_key() {
    let delegated = kits(FIRST, 1).period_key(PeriodCalendar::PUBLIC.period(FIRST)).unwrap();
    let other = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
    let [from, _] = PeriodCalendar::PUBLIC.publishing_times(FIRST).unwrap();
    assert_eq!(delegated.certify(&other, from, cert::DESCRIPTOR_LIFETIME), None);
}

#[test]
fn revision_counters_and_blinded_keys_equal_those_of_the_online_key() {
    let (master, kits) = (master(), kits(FIRST, 2));
    for number in [FIRST, FIRST + 1] {
        let period = PeriodCalendar::PUBLIC.period(number);
        let (online, delegated) = (master.blind(period), kits.period_key(period).unwrap());
        assert_eq!(PeriodKey::public(&online), delegated.public());
        for seconds in [0, 1, 86_399, 100_000] {
            assert_eq!(PeriodKey::revision_counter(&online, seconds), delegated.revision_counter(seconds));
        }
    }
    assert_eq!(kits.agent_token(), master.derive(AGENT_TOKEN_LABEL));
    assert_ne!(kits.derive(b"a"), kits.derive(b"b"));
    assert_ne!(kits.derive(b"a"), master.derive(b"a"));
}

#[test]
fn descriptors_that_a_kit_signs_are_accepted() {
    let (master, kits) = (master(), kits(FIRST, 1));
    let period = PeriodCalendar::PUBLIC.period(FIRST);
    let key = kits.period_key(period).unwrap();
    let now = PeriodCalendar::PUBLIC.start(FIRST).unwrap();
    let mut rng = StdRng::from_seed([1; 32]);
    let keys = DescriptorKeys::for_key(&key, &mut rng);
    let content = ServiceContent::plain(Vec::new());
    let text = keys.build(&key, &kits.address(), &content, 7, now, &mut rng).unwrap();
    let descriptor = UncheckedDescriptor::parse(&text).unwrap();
    let descriptor = descriptor.check(&kits.address(), &master.blind(period).public(), now).unwrap();
    assert_eq!(descriptor.content, content);

    let online = master.blind(period);
    let online_text =
        DescriptorKeys::for_key(&online, &mut rng).build(&online, &kits.address(), &content, 7, now, &mut rng).unwrap();
    assert_eq!(online_text.len(), text.len());
    let late = now + Duration::from_secs(10 * 24 * 3600);
    let refused = keys.build(&key, &kits.address(), &content, 7, late, &mut rng);
    assert_eq!(refused, Err(crate::onion::descriptor::DescriptorError::NotCertified));
}

#[test]
fn nothing_in_a_kit_yields_the_master_key_or_a_blinded_private_key() {
    let kit = kit(FIRST, 2);
    let targets = Targets::of(&kit);
    assert_eq!(targets.public.len(), 3);
    assert_eq!(targets.yielded_by(&kit.to_bytes()), None);

    // The search finds the secrets where they are.
    let file = master().to_tor_secret_key_file();
    assert_eq!(targets.yielded_by(&file), Some(32));
    assert_eq!(targets.yielded_by(&file[33..]), Some(31), "the prefix alone yields the blinded keys");
    let blinded_prefix = known_nonce::blinded_prefix(&file[64..]);
    assert_eq!(targets.yielded_by(&[&[1, 2], blinded_prefix.as_slice()].concat()), Some(2));
    let reversed: Vec<u8> = file[32..64].iter().rev().copied().collect();
    assert_eq!(targets.yielded_by(&reversed), Some(0));
    let seed = [3; 32];
    let public = vec![SigningKey::from_bytes(&seed).verifying_key().to_bytes()];
    let of_seed = Targets { public, signatures: Vec::new() };
    assert_eq!(of_seed.yielded_by(&[&[1, 2], seed.as_slice()].concat()), Some(2));
}

/// What nothing in a kit may yield: the private keys of the service, and the nonces of the kit's
/// certificates, because anyone who knows the nonce of a signature can compute the private key.
pub(crate) struct Targets {
    /// The public key of the service, and its blinded public keys.
    public: Vec<[u8; 32]>,
    /// A certificate of each time period.
    signatures: Vec<PublishedSignature>,
}

impl Targets {
    pub(crate) fn of(kit: &Kit) -> Self {
        let mut public = vec![*kit.address.public_key()];
        public.extend(kit.periods.iter().map(|period| period.blinded.0));
        let signature = |period: &KitPeriod| {
            let cert = period.certificate(0).unwrap();
            UncheckedCert::parse(&cert).unwrap().published_signature(period.blinded.0)
        };
        Self { public, signatures: kit.periods.iter().map(signature).collect() }
    }

    /// Returns the position of the first 32 bytes that yield a private key. Tries each 32 bytes as
    /// a secret scalar (clamped, not clamped, and in reverse order), as a seed, and as a nonce
    /// prefix, both of the master key and of a blinded key.
    pub(crate) fn yielded_by(&self, bytes: &[u8]) -> Option<usize> {
        bytes.windows(32).position(|window| {
            let window: [u8; 32] = window.try_into().unwrap();
            let mut reversed = window;
            reversed.reverse();
            let hash: [u8; 64] = Sha512::digest(window).into();
            let head = *hash.first_chunk().unwrap();
            let scalars = [window, clamp_integer(window), reversed, clamp_integer(reversed), clamp_integer(head)];
            let prefixes = [window, known_nonce::blinded_prefix(&window)];
            scalars.into_iter().any(|scalar| self.public.contains(&public_key(scalar)))
                || prefixes.iter().any(|prefix| self.signatures.iter().any(|s| s.recover_from(prefix).is_some()))
        })
    }
}

fn public_key(scalar: [u8; 32]) -> [u8; 32] {
    EdwardsPoint::mul_base(&Scalar::from_bytes_mod_order(scalar)).compress().to_bytes()
}

#[test]
fn overlapping_kits_extend_each_other_and_foreign_kits_are_refused() {
    let mut kits = kits(FIRST, 2);
    let now = PeriodCalendar::PUBLIC.start(FIRST).unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(kits.covered_until(now), Some(now + 2 * day));
    assert_eq!(kits.missing(now), [PeriodCalendar::PUBLIC.period(FIRST - 1)]);
    assert!(kits.missing(now + day / 2).is_empty());
    assert_eq!(kits.missing(now + day * 3 / 2), [PeriodCalendar::PUBLIC.period(FIRST + 2)]);

    kits.add(kit(FIRST + 1, 3)).unwrap();
    kits.add(kit(FIRST, 1)).unwrap();
    assert_eq!(kits.covered_until(now), Some(now + 4 * day));
    assert_eq!(kits.covered_until(now + 4 * day), None);
    assert_eq!(kits.covered_until(now - Duration::from_secs(1)), None);

    // A gap ends the coverage.
    kits.add(kit(FIRST + 6, 1)).unwrap();
    assert_eq!(kits.covered_until(now), Some(now + 4 * day));

    let other = MasterKey::generate(&mut StdRng::from_seed([6; 32]));
    let foreign = Kit::issue(&other, PeriodCalendar::PUBLIC, FIRST, 1).unwrap();
    assert_eq!(kits.add(foreign), Err(KitError::AnotherService(other.address(), kits.address())));

    kits.forget_past(now + 5 * day);
    assert!(!kits.covers(PeriodCalendar::PUBLIC.period(FIRST)));
    assert!(kits.covers(PeriodCalendar::PUBLIC.period(FIRST + 3)));
}

/// A wrong clock must not take away what is still in a file.
#[test]
fn only_the_periods_of_the_earlier_kits_are_dropped_once_they_have_ended() {
    let end = PeriodCalendar::PUBLIC.start(FIRST + 10).unwrap();
    let earlier = ServiceKey::from(kits(FIRST, 12));
    let extended = earlier.extended_by(kits(FIRST + 4, 3).into(), end);
    let covered = (FIRST..FIRST + 20).filter(|number| extended.covers(PeriodCalendar::PUBLIC.period(*number)));
    assert_eq!(covered.collect::<Vec<_>>(), [4, 5, 6, 8, 9, 10, 11].map(|number| FIRST + number));

    let online = ServiceKey::from(master());
    assert!(earlier.extended_by(online.clone(), end).kits().is_none(), "the master key replaces kits");
    assert!(online.extended_by(earlier, end).kits().is_some(), "kits replace the master key");
}

#[test]
fn the_coverage_is_reported_before_a_period_is_missing() {
    let kits = kits(FIRST - 1, 21);
    let noon = PeriodCalendar::PUBLIC.start(FIRST).unwrap();
    let days = |days: u32| Duration::from_secs(24 * 3600) * days;
    let end = noon + days(20);
    let at = |now| Coverage::of(&kits, now);
    let found = |now| (at(now).state, at(now).days_left, at(now).missing);
    assert_eq!(at(noon).until, Some(end));
    assert_eq!(found(noon), (CoverageState::Enough, 20, 0));
    assert_eq!(found(end - days(14)), (CoverageState::Enough, 14, 0));
    assert_eq!(found(end - days(14) + Duration::from_secs(1)), (CoverageState::Expiring, 13, 0));
    assert_eq!(found(end - days(1)), (CoverageState::Expiring, 1, 0));
    assert_eq!(found(end - days(1) / 2), (CoverageState::Missing, 0, 1));
    assert_eq!(found(end + days(1)), (CoverageState::Missing, 0, 2));
    assert_eq!(at(end).until, None);
}

#[test]
fn the_wanted_periods_change_with_the_shared_random_value() {
    let kits = kits(FIRST, 1);
    let noon = PeriodCalendar::PUBLIC.start(FIRST).unwrap();
    let half_a_day = Duration::from_secs(12 * 3600);
    let wanted = |now| kits.wanted(now).map(|period| period.unwrap().number);
    assert_eq!(wanted(noon - half_a_day - Duration::from_secs(1)), [FIRST - 2, FIRST - 1]);
    assert_eq!(wanted(noon - half_a_day), [FIRST - 1, FIRST]);
    assert_eq!(wanted(noon + half_a_day), [FIRST, FIRST + 1]);
}

#[test]
fn debug_output_shows_no_secret() {
    let kit = kit(FIRST, 1);
    assert!(format!("{kit:?}").ends_with("first: 20788, periods: 1, .. }"), "{kit:?}");
    let kits = Kits::from(kit);
    assert!(format!("{kits:?}").ends_with("periods: 1, .. }"), "{kits:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_changed_byte_is_detected(position in any::<prop::sample::Index>(), change in 1_u8..) {
        let mut bytes = kit(FIRST, 1).to_bytes();
        let position = position.index(bytes.len());
        bytes[position] ^= change;
        prop_assert!(Kit::parse(&bytes).is_err());
    }

    #[test]
    fn every_kit_that_is_issued_can_be_read(
        seed: [u8; 32], first in 0_u64..1_000_000, count in 1_u32..4, length in 8_u64..120,
    ) {
        let master = MasterKey::from_seed(&seed).unwrap();
        let calendar = PeriodCalendar::testing(length);
        let kit = Kit::issue(&master, calendar, first, count).unwrap();
        let read = Kit::parse(&kit.to_bytes()).unwrap();
        prop_assert_eq!(read.check_all(), Ok(()));
        let kits = Kits::from(read);
        for number in first..first + u64::from(count) {
            let period = calendar.period(number);
            prop_assert_eq!(kits.period_key(period).unwrap().public(), master.blind(period).public());
        }
    }

    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), tagged: bool) {
        let tag: &[u8] = if tagged { b"== onionbalance signing kit ==\0\x01" } else { b"" };
        prop_assert!(Kit::parse(&[tag, &bytes].concat()).is_err());
    }
}
