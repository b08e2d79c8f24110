//! Layer 2 of a descriptor (rend-spec-v3, section 2.5.2): the introduction points and how to use
//! them.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use super::flow_control::FLOW_CONTROL;
use super::{DescriptorError, IntroductionPoint, MAX_INTRODUCTION_POINTS, ServiceContent, link_specifiers, set_once};
use crate::onion::cert::{self, CertType, UncheckedCert};
use crate::onion::document::{Item, Items, base64_array, base64_bytes, push_object};

const CREATE2_FORMATS: &str = "create2-formats";
const INTRO_AUTH_REQUIRED: &str = "intro-auth-required";
const SINGLE_ONION_SERVICE: &str = "single-onion-service";
const POW_PARAMS: &str = "pow-params";
const INTRODUCTION_POINT: &str = "introduction-point";
const ONION_KEY: &str = "onion-key";
const AUTH_KEY: &str = "auth-key";
const ENC_KEY: &str = "enc-key";
const ENC_KEY_CERT: &str = "enc-key-cert";
const LEGACY_KEY: &str = "legacy-key";
const LEGACY_KEY_CERT: &str = "legacy-key-cert";

/// The ntor handshake type, which every client needs.
const CREATE2_NTOR: u16 = 2;
const NTOR: &str = "ntor";

/// Parses layer 2. The certificates of every introduction point must be signed by `signing_key`.
pub(super) fn parse(text: &str, signing_key: &[u8; 32], now: SystemTime) -> Result<ServiceContent, DescriptorError> {
    let mut items = Items::new(text).peekable();
    let formats = match items.next().transpose()? {
        Some(item) if item.keyword == CREATE2_FORMATS => parse_formats(&item)?,
        _ => return Err(DescriptorError::Missing(CREATE2_FORMATS)),
    };
    let (mut auth_required, mut single, mut flow_control) = (None, None, None);
    let mut pow_params = false;
    while let Some(item) = items.next_if(|item| !is_point_start(item)).transpose()? {
        match item.keyword {
            CREATE2_FORMATS => return Err(DescriptorError::Repeated(CREATE2_FORMATS)),
            INTRO_AUTH_REQUIRED => {
                let kinds: Vec<String> = item.arguments().map(str::to_owned).collect();
                // An argument that cannot be encoded again would make it impossible to build the
                // merged descriptor, for all backends.
                let usable = !kinds.is_empty() && kinds.iter().all(|kind| is_word(kind));
                set_once(&mut auth_required, INTRO_AUTH_REQUIRED, usable.then_some(kinds))?;
            }
            SINGLE_ONION_SERVICE => set_once(&mut single, SINGLE_ONION_SERVICE, Some(()))?,
            FLOW_CONTROL => set_once(&mut flow_control, FLOW_CONTROL, item.rest.parse().ok())?,
            POW_PARAMS => pow_params = true,
            _ => {}
        }
    }
    let mut introduction_points = Vec::new();
    while let Some(start) = items.next().transpose()? {
        if introduction_points.len() == MAX_INTRODUCTION_POINTS {
            return Err(DescriptorError::TooManyPoints);
        }
        let mut point = PointItems::new(&start)?;
        while let Some(item) = items.next_if(|item| !is_point_start(item)).transpose()? {
            point.add(&item)?;
        }
        introduction_points.push(point.check(signing_key, now)?);
    }
    Ok(ServiceContent {
        create2_formats: formats,
        flow_control,
        single_onion_service: single.is_some(),
        intro_auth_required: auth_required.unwrap_or_default(),
        pow_params,
        introduction_points,
    })
}

fn is_point_start<E>(item: &Result<Item<'_>, E>) -> bool {
    item.as_ref().is_ok_and(|item| item.keyword == INTRODUCTION_POINT)
}

fn parse_formats(item: &Item<'_>) -> Result<Vec<u16>, DescriptorError> {
    let formats: Vec<u16> = item
        .arguments()
        .map(|word| word.parse().map_err(|_| DescriptorError::Malformed(CREATE2_FORMATS)))
        .collect::<Result<_, _>>()?;
    if formats.contains(&CREATE2_NTOR) { Ok(formats) } else { Err(DescriptorError::Malformed(CREATE2_FORMATS)) }
}

/// The items of one introduction point.
struct PointItems {
    link_specifiers: Vec<u8>,
    onion_key: Option<[u8; 32]>,
    auth_key_cert: Option<Vec<u8>>,
    enc_key: Option<[u8; 32]>,
    enc_key_cert: Option<Vec<u8>>,
    legacy: bool,
}

impl PointItems {
    fn new(start: &Item<'_>) -> Result<Self, DescriptorError> {
        let link_specifiers = base64_bytes(start.rest)
            .filter(|encoded| link_specifiers::rsa_identity(encoded).is_some())
            .ok_or(DescriptorError::Malformed(INTRODUCTION_POINT))?;
        let (onion_key, auth_key_cert, enc_key, enc_key_cert) = (None, None, None, None);
        Ok(Self { link_specifiers, onion_key, auth_key_cert, enc_key, enc_key_cert, legacy: false })
    }

    fn add(&mut self, item: &Item<'_>) -> Result<(), DescriptorError> {
        let mut arguments = item.arguments();
        match item.keyword {
            // Keys of unknown types may appear next to the ntor key.
            ONION_KEY | ENC_KEY if arguments.next() != Some(NTOR) => Ok(()),
            ONION_KEY => set_once(&mut self.onion_key, ONION_KEY, arguments.next().and_then(base64_array)),
            ENC_KEY => set_once(&mut self.enc_key, ENC_KEY, arguments.next().and_then(base64_array)),
            AUTH_KEY => set_once(&mut self.auth_key_cert, AUTH_KEY, item.object_bytes(cert::OBJECT_TAG)),
            ENC_KEY_CERT => set_once(&mut self.enc_key_cert, ENC_KEY_CERT, item.object_bytes(cert::OBJECT_TAG)),
            LEGACY_KEY | LEGACY_KEY_CERT => {
                self.legacy = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check(self, signing_key: &[u8; 32], now: SystemTime) -> Result<IntroductionPoint, DescriptorError> {
        let certified = |name, object: Option<Vec<u8>>, cert_type| {
            let object = object.ok_or(DescriptorError::Missing(name))?;
            UncheckedCert::parse(&object)
                .and_then(|cert| cert.check(cert_type, signing_key, now))
                .map(|certified| certified.key)
                .map_err(|error| DescriptorError::Certificate(name, error))
        };
        let auth_key = certified(AUTH_KEY, self.auth_key_cert, CertType::IntroAuthKey)?;
        // The key must be on the curve even if its certificate is valid. Otherwise arti would
        // reject the whole descriptor, and with it every other introduction point.
        VerifyingKey::from_bytes(&auth_key).map_err(|_| DescriptorError::Malformed(AUTH_KEY))?;
        let mut enc_key_ed25519 = certified(ENC_KEY_CERT, self.enc_key_cert, CertType::IntroEncKey)?;
        let enc_key = self.enc_key.ok_or(DescriptorError::Missing(ENC_KEY))?;
        let equivalent = VerifyingKey::from_bytes(&enc_key_ed25519).map(|key| key.to_montgomery().to_bytes());
        if equivalent.ok() != Some(enc_key) {
            return Err(DescriptorError::Malformed(ENC_KEY_CERT));
        }
        // Tor writes the ed25519 equivalent with its sign bit clear, and arti rejects a descriptor
        // in which this bit is set.
        enc_key_ed25519[31] &= 0x7f;
        Ok(IntroductionPoint {
            link_specifiers: self.link_specifiers,
            onion_key: self.onion_key.ok_or(DescriptorError::Missing(ONION_KEY))?,
            auth_key,
            enc_key,
            enc_key_ed25519,
            legacy: self.legacy,
        })
    }
}

/// Formats layer 2. The certificates are signed by `signing_key`, and `validity` is their start
/// time and lifetime.
pub(super) fn write(
    content: &ServiceContent,
    signing_key: &SigningKey,
    validity: (SystemTime, Duration),
) -> Result<String, DescriptorError> {
    if content.introduction_points.len() > MAX_INTRODUCTION_POINTS {
        return Err(DescriptorError::TooManyPoints);
    }
    let mut text = CREATE2_FORMATS.to_owned();
    if !content.create2_formats.contains(&CREATE2_NTOR) {
        return Err(DescriptorError::Malformed(CREATE2_FORMATS));
    }
    for format in &content.create2_formats {
        let _ = write!(text, " {format}");
    }
    text.push('\n');
    if !content.intro_auth_required.is_empty() {
        if !content.intro_auth_required.iter().all(|kind| is_word(kind)) {
            return Err(DescriptorError::Malformed(INTRO_AUTH_REQUIRED));
        }
        let _ = writeln!(text, "{INTRO_AUTH_REQUIRED} {}", content.intro_auth_required.join(" "));
    }
    if content.single_onion_service {
        let _ = writeln!(text, "{SINGLE_ONION_SERVICE}");
    }
    if let Some(flow_control) = &content.flow_control {
        let _ = writeln!(text, "{FLOW_CONTROL} {flow_control}");
    }
    for point in &content.introduction_points {
        write_point(&mut text, point, signing_key, validity)?;
    }
    Ok(text)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn write_point(
    text: &mut String,
    point: &IntroductionPoint,
    signing_key: &SigningKey,
    validity: (SystemTime, Duration),
) -> Result<(), DescriptorError> {
    if point.legacy {
        return Err(DescriptorError::LegacyPoint);
    }
    if link_specifiers::rsa_identity(&point.link_specifiers).is_none() {
        return Err(DescriptorError::Malformed(INTRODUCTION_POINT));
    }
    let signer = signing_key.verifying_key();
    let certify = |cert_type, key| cert::encode(cert_type, key, validity, signer.as_bytes(), |m| signing_key.sign(m));
    let _ = writeln!(text, "{INTRODUCTION_POINT} {}", BASE64.encode(&point.link_specifiers));
    let _ = writeln!(text, "{ONION_KEY} {NTOR} {}", BASE64.encode(&point.onion_key));
    let _ = writeln!(text, "{AUTH_KEY}");
    push_object(text, cert::OBJECT_TAG, &certify(CertType::IntroAuthKey, &point.auth_key));
    let _ = writeln!(text, "{ENC_KEY} {NTOR} {}", BASE64.encode(&point.enc_key));
    let _ = writeln!(text, "{ENC_KEY_CERT}");
    push_object(text, cert::OBJECT_TAG, &certify(CertType::IntroEncKey, &point.enc_key_ed25519));
    Ok(())
}
