//! The file format of signing kits, version 1:
//!
//! ```text
//! TAG[30] VERSION[2] ADDRESS[32] AGENT_TOKEN[32] MARK_KEY[32]
//! PERIOD_LENGTH[8] ROTATION_OFFSET[8] FIRST_PERIOD[8] N_PERIODS[4]
//! { BLINDED_KEY[32] SIGNING_SEED[32] COUNTER_KEY[32] FIRST_HOUR[4] N_CERTS[2] { SIGNATURE[64] } }
//! CHECKSUM[32]
//! ```
//!
//! Numbers are big-endian, and the length and the offset of the periods are in minutes. The
//! checksum is the SHA-256 hash of everything before it. It detects damage; whoever can change a
//! kit can also change its checksum.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Kit, KitError, KitPeriod, PeriodSecrets, ServiceSecrets};
use crate::onion::cert::CertError;
use crate::onion::{BlindedPublicKey, OnionAddress, PeriodCalendar};

const TAG: &[u8; 30] = b"== onionbalance signing kit ==";
const VERSION: u16 = 1;
/// The beginning of tor's secret key file.
const MASTER_KEY_TAG: &[u8] = b"== ed25519v1-secret";
const CHECKSUM_LEN: usize = 32;
const HEADER_LEN: usize = TAG.len() + 2 + 3 * 32 + 3 * 8 + 4;
const PERIOD_HEADER_LEN: usize = 3 * 32 + 4 + 2;
const SIGNATURE_LEN: usize = 64;
/// The longest period that a kit may have, in minutes. The consensus parameter `hsdir-interval` has
/// the same limit.
const MAX_PERIOD_MINUTES: u64 = 14_400;

/// The fields of a kit that have been found, but not checked.
struct Fields<'a> {
    address: &'a [u8; 32],
    agent_token: &'a [u8; 32],
    mark_key: &'a [u8; 32],
    calendar: PeriodCalendar,
    first: u64,
    periods: Vec<PeriodFields<'a>>,
}

struct PeriodFields<'a> {
    blinded: &'a [u8; 32],
    signing_seed: &'a [u8; 32],
    counter_key: &'a [u8; 32],
    first_hour: u32,
    signatures: &'a [[u8; SIGNATURE_LEN]],
}

/// The bytes of a kit that have not been read yet.
struct Reader<'a> {
    rest: &'a [u8],
    /// The length of the whole kit, which errors name.
    length: usize,
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], KitError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(KitError::Truncated(self.length))?;
        self.rest = rest;
        Ok(field)
    }

    fn number(&mut self) -> Result<u64, KitError> {
        self.take().map(|bytes| u64::from_be_bytes(*bytes))
    }

    fn signatures(&mut self) -> Result<&'a [[u8; SIGNATURE_LEN]], KitError> {
        let count = usize::from(u16::from_be_bytes(*self.take()?));
        let (all, rest) = self.rest.split_at_checked(count * SIGNATURE_LEN).ok_or(KitError::Truncated(self.length))?;
        self.rest = rest;
        Ok(all.as_chunks().0)
    }
}

impl Kit {
    /// Returns the file with the kit.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let periods = self.periods.iter().map(|period| PERIOD_HEADER_LEN + SIGNATURE_LEN * period.signatures.len());
        let length = HEADER_LEN + periods.sum::<usize>() + CHECKSUM_LEN;
        // The buffer never grows, so no unerased copy of a secret is left behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.extend_from_slice(TAG);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(self.address.public_key());
        bytes.extend_from_slice(&self.secrets.agent_token);
        bytes.extend_from_slice(&self.secrets.mark_key);
        for number in [self.calendar.length_minutes, self.calendar.offset_minutes, self.first] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(self.periods.len()).unwrap_or(u32::MAX).to_be_bytes());
        for period in &self.periods {
            bytes.extend_from_slice(&period.blinded.0);
            bytes.extend_from_slice(&period.secrets.signing_seed);
            bytes.extend_from_slice(&period.secrets.counter_key);
            bytes.extend_from_slice(&period.first_hour.to_be_bytes());
            bytes.extend_from_slice(&u16::try_from(period.signatures.len()).unwrap_or(u16::MAX).to_be_bytes());
            period.signatures.iter().for_each(|signature| bytes.extend_from_slice(signature));
        }
        let checksum: [u8; CHECKSUM_LEN] = Sha256::digest(bytes.as_slice()).into();
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Parses the file with a kit. Checks the checksum, that the blinded keys belong to the
    /// address, and the first and the last certificate of each time period. An error says what is
    /// wrong and what to do.
    pub fn parse(bytes: &[u8]) -> Result<Self, KitError> {
        let fields = Fields::find(bytes)?;
        let (content, checksum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM_LEN));
        let expected: [u8; CHECKSUM_LEN] = Sha256::digest(content).into();
        if expected.as_slice() != checksum {
            return Err(KitError::Checksum);
        }
        fields.check()
    }
}

impl<'a> Fields<'a> {
    /// Finds the fields of a kit without checking their content.
    fn find(bytes: &'a [u8]) -> Result<Self, KitError> {
        if bytes.starts_with(MASTER_KEY_TAG) {
            return Err(KitError::MasterKey);
        }
        let rest = bytes.strip_prefix(TAG).ok_or(KitError::Tag)?;
        let mut reader = Reader { rest, length: bytes.len() };
        let version = u16::from_be_bytes(*reader.take()?);
        if version != VERSION {
            return Err(KitError::Version(version));
        }
        let (address, agent_token, mark_key) = (reader.take()?, reader.take()?, reader.take()?);
        let calendar = PeriodCalendar { length_minutes: reader.number()?, offset_minutes: reader.number()? };
        let first = reader.number()?;
        let count = u32::from_be_bytes(*reader.take()?);
        let periods = (0..count).map(|_| PeriodFields::find(&mut reader)).collect::<Result<_, _>>()?;
        reader.take::<CHECKSUM_LEN>()?;
        match reader.rest.len() {
            0 => Ok(Self { address, agent_token, mark_key, calendar, first, periods }),
            more => Err(KitError::Trailing(more)),
        }
    }

    /// Checks the content of the fields.
    fn check(&self) -> Result<Kit, KitError> {
        let Self { calendar, first, .. } = *self;
        let address = OnionAddress::from_public_key(*self.address).map_err(|_| KitError::Address)?;
        let count = u64::try_from(self.periods.len()).unwrap_or(u64::MAX);
        let in_range = first.checked_add(count).and_then(|after_last| calendar.publishing_times(after_last)).is_some();
        let plausible = (1..=MAX_PERIOD_MINUTES).contains(&calendar.length_minutes)
            && calendar.offset_minutes < calendar.length_minutes;
        if count == 0 || !in_range || !plausible {
            return Err(KitError::Periods);
        }
        let mut secrets = Box::<ServiceSecrets>::default();
        secrets.agent_token.copy_from_slice(self.agent_token);
        secrets.mark_key.copy_from_slice(self.mark_key);
        let check = |(number, period): (u64, &PeriodFields<'_>)| period.check(&address, calendar, number);
        let periods = (first..).zip(&self.periods).map(check).collect::<Result<_, _>>()?;
        Ok(Kit { address, calendar, secrets, first, periods })
    }
}

impl<'a> PeriodFields<'a> {
    fn find(reader: &mut Reader<'a>) -> Result<Self, KitError> {
        Ok(Self {
            blinded: reader.take()?,
            signing_seed: reader.take()?,
            counter_key: reader.take()?,
            first_hour: u32::from_be_bytes(*reader.take()?),
            signatures: reader.signatures()?,
        })
    }

    fn check(&self, address: &OnionAddress, calendar: PeriodCalendar, number: u64) -> Result<KitPeriod, KitError> {
        let blinded = BlindedPublicKey(*self.blinded);
        if blinded != address.blind(calendar.period(number)) {
            return Err(KitError::BlindedKey(number));
        }
        let mut secrets = Box::<PeriodSecrets>::default();
        secrets.signing_seed.copy_from_slice(self.signing_seed);
        secrets.counter_key.copy_from_slice(self.counter_key);
        let period = KitPeriod { blinded, secrets, first_hour: self.first_hour, signatures: self.signatures.to_vec() };
        let last = period.signatures.len().checked_sub(1).ok_or(KitError::Certificate(number, CertError::Form))?;
        period.check_certificate(0, number)?;
        period.check_certificate(last, number)?;
        Ok(period)
    }
}
