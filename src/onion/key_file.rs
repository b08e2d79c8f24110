//! Reads and writes master key files in both formats: Tor's `hs_ed25519_secret_key`, and
//! Onionbalance's PEM files (PKCS#8, RFC 8410).
//!
//! A PEM file contains the seed, whereas Tor's file contains the key that the seed expands to. The
//! seed cannot be recovered from the expanded key.

use std::fmt;

use data_encoding::BASE64;
use ed25519::pkcs8::spki::der::pem::LineEnding;
use ed25519::pkcs8::{self, DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::key::KeyError;
use super::key_damage::KeyDamage;
use super::key_form::{KeyForm, PEM_BEGIN};
use super::{MasterKey, OnionAddress};

const TOR_SECRET: &[u8] = b"== ed25519v1-secret";
const TOR_PUBLIC: &[u8] = b"== ed25519v1-public";
const PEM_DASHES: &str = "-----";
const PEM_LABEL: &str = "PRIVATE KEY";

/// A master key read from a file. The format of the file determines which formats the key can be
/// converted to.
#[derive(Debug)]
pub enum KeyFile {
    /// The seed from a PEM file, which can be written in either format.
    Pem(Seed),
    /// The expanded key from Tor's 96-byte file, which can only be written in Tor's format.
    Tor(MasterKey),
}

/// The format of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// Unencrypted PKCS#8 in PEM, the format that Onionbalance's configuration generator writes.
    Pem,
    /// Tor's `hs_ed25519_secret_key` format.
    Tor,
}

/// The 32-byte seed from which a master key is expanded (RFC 8032). It is zeroized on drop and
/// never printed.
pub struct Seed {
    /// The seed, on the heap for the same reason as in [`MasterKey`].
    bytes: Box<Zeroizing<[u8; 32]>>,
    address: OnionAddress,
}

/// An error that explains why a file does not contain a usable master key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyFileError {
    /// The file is in neither of the two formats.
    #[error(
        "the file is not a key file: expected Tor's hs_ed25519_secret_key (96 bytes that begin with \"== ed25519v1-secret\") \
         or PEM (\"-----BEGIN PRIVATE KEY-----\")"
    )]
    Unknown,
    /// The file contains a key in another form than a key file.
    #[error("the file contains {0}; run {remedy}", remedy = .0.remedy())]
    Form(KeyForm),
    /// The file is damaged in a way that reveals the likely cause.
    #[error(transparent)]
    Damaged(KeyDamage),
    /// The file contains a public key instead of a secret key.
    #[error("the file contains a public key; use the secret key instead (Tor's file is hs_ed25519_secret_key)")]
    Public,
    /// The PEM key is protected by a password.
    #[error("the PEM key is encrypted; decrypt it with openssl pkey -in FILE -out NEW_FILE")]
    Encrypted,
    /// The PEM block has a label other than `PRIVATE KEY`.
    #[error(
        "the PEM block has the label {0:?}; the key of a v3 onion service is an ed25519 key in a \"PRIVATE KEY\" (PKCS#8) block"
    )]
    Label(String),
    /// The private key is for an algorithm other than ed25519.
    #[error("the PEM key is not an ed25519 key; v3 onion services use ed25519 keys only")]
    Algorithm,
    /// The block is not valid PEM or PKCS#8.
    #[error("the PEM block is damaged: {0}; copy the original file again")]
    Pem(String),
    /// The lines of the block are separated by the two characters `\n`.
    #[error(
        "the PEM block contains the two characters \\n instead of line breaks; replace them with \
         printf '%b' \"$(cat FILE)\" >NEW_FILE"
    )]
    LineBreaks,
    /// The file has Tor's format, but its content is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl KeyFile {
    /// Parses a key file, detecting its format from its content.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyFileError> {
        if bytes.starts_with(TOR_SECRET) {
            return Ok(Self::Tor(MasterKey::from_tor_secret_key_file(bytes)?));
        }
        if bytes.starts_with(TOR_PUBLIC) {
            return Err(KeyFileError::Public);
        }
        if let Some(damage) = KeyDamage::of(bytes) {
            return Err(KeyFileError::Damaged(damage));
        }
        let pem = str::from_utf8(bytes).map_err(|_| KeyFileError::Unknown).and_then(Seed::from_pem);
        match pem {
            Err(KeyFileError::Unknown) => Err(KeyForm::of(bytes).map_or(KeyFileError::Unknown, KeyFileError::Form)),
            other => other.map(Self::Pem),
        }
    }

    /// Returns the format that the key was read from.
    pub fn format(&self) -> KeyFormat {
        match self {
            Self::Pem(_) => KeyFormat::Pem,
            Self::Tor(_) => KeyFormat::Tor,
        }
    }

    /// Returns the onion address of the service.
    pub fn address(&self) -> OnionAddress {
        match self {
            Self::Pem(seed) => seed.address,
            Self::Tor(key) => key.address(),
        }
    }

    /// Returns the master key, after expanding the seed of a PEM file.
    pub fn into_key(self) -> Result<MasterKey, KeyError> {
        match self {
            Self::Pem(seed) => seed.expand(),
            Self::Tor(key) => Ok(key),
        }
    }
}

impl Seed {
    /// Generates a new seed.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            rng.fill_bytes(bytes.as_mut());
            // Every seed expands to a valid key, so the loop ends after one iteration.
            if let Ok(seed) = Self::new(&bytes) {
                return seed;
            }
        }
    }

    fn new(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let mut seed = Box::new(Zeroizing::new([0; 32]));
        seed.copy_from_slice(bytes);
        Ok(Self { bytes: seed, address: MasterKey::from_seed(bytes)?.address() })
    }

    /// Parses the first PEM block in `text`. White space within the block is ignored: editors and
    /// copying add spaces, indent lines or join them, and other programs read such files too.
    pub fn from_pem(text: &str) -> Result<Self, KeyFileError> {
        let (_, block) = text.split_once(PEM_BEGIN).ok_or(KeyFileError::Unknown)?;
        let (label, rest) = block.split_once(PEM_DASHES).ok_or(KeyFileError::Unknown)?;
        match label {
            PEM_LABEL => {}
            "ENCRYPTED PRIVATE KEY" => return Err(KeyFileError::Encrypted),
            "PUBLIC KEY" => return Err(KeyFileError::Public),
            _ => return Err(KeyFileError::Label(label.to_owned())),
        }
        let end = format!("{PEM_DASHES}END {PEM_LABEL}{PEM_DASHES}");
        let without_end = || KeyFileError::Pem(format!("the line {end:?} is missing"));
        let (body, _) = rest.split_once(end.as_str()).ok_or_else(without_end)?;
        if body.contains("\\n") {
            return Err(KeyFileError::LineBreaks);
        }
        let mut compact = Zeroizing::new(String::with_capacity(body.len()));
        compact.extend(body.chars().filter(|c| !c.is_whitespace()));
        let der = BASE64.decode(compact.as_bytes()).map(Zeroizing::new);
        let der = der.map_err(|error| KeyFileError::Pem(format!("its base64 text is invalid ({error})")))?;
        let pair = KeypairBytes::from_pkcs8_der(&der).map_err(pem_error)?;

        let seed = Self::new(&pair.secret_key)?;
        match &pair.public_key {
            Some(public) if public.0 != *seed.address.public_key() => {
                Err(KeyFileError::Pem("its public key does not match its private key".to_owned()))
            }
            _ => Ok(seed),
        }
    }

    /// Formats the seed as a PEM file in PKCS#8 version 1 without the public key, the only form of
    /// ed25519 keys that OpenSSL reads.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyFileError> {
        KeypairBytes { secret_key: **self.bytes, public_key: None }.to_pkcs8_pem(LineEnding::LF).map_err(pem_error)
    }

    /// Expands the seed to the master key.
    pub fn expand(&self) -> Result<MasterKey, KeyError> {
        MasterKey::from_seed(&self.bytes)
    }

    /// Returns the onion address of the service.
    pub fn address(&self) -> OnionAddress {
        self.address
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pem => "PEM",
            Self::Tor => "Tor",
        })
    }
}

fn pem_error(error: pkcs8::Error) -> KeyFileError {
    match error {
        pkcs8::Error::PublicKey(pkcs8::spki::Error::OidUnknown { .. }) => KeyFileError::Algorithm,
        other => KeyFileError::Pem(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// The private key from RFC 8410, section 10.3. `RFC_PEM_V2` also includes its public key, and
    /// `RFC_PUBLIC` is the public key in hexadecimal.
    const RFC_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const RFC_PEM_V2: &str = "-----BEGIN PRIVATE KEY-----\n\
        MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
        Z9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PRIVATE KEY-----\n";
    const RFC_PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    /// A P-256 key that was generated with
    /// `openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt`.
    const P256_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYGsftfLryvWWKFS6\n\
        B2xJiQNxwCNTsB2QUZzNFxOj0g2hRANCAATey1ccTH0ynizk6q/3aConyXb5ltm0\n\
        v9c1j2XY6918UWohvh9UbFJUpJDg8b3hAng21ipnsSF/s3iwhKKYDfWe\n\
        -----END PRIVATE KEY-----\n";

    fn read(text: &str) -> Result<KeyFile, KeyFileError> {
        KeyFile::read(text.as_bytes())
    }

    #[test]
    fn reads_the_keys_of_rfc_8410() {
        for text in [
            RFC_PEM,
            RFC_PEM_V2,
            &RFC_PEM.replace('\n', "\r\n"),
            &format!("a note\n{RFC_PEM}more"),
            &format!("\u{feff}{RFC_PEM}"),
            &RFC_PEM.replace('\n', " \t\n"),
            &RFC_PEM.replace('\n', " "),
            &RFC_PEM.replace('\n', ""),
            &RFC_PEM.lines().flat_map(|line| ["  ", line, "\n"]).collect::<String>(),
            RFC_PEM.trim_end(),
        ] {
            let file = read(text).unwrap();
            assert_eq!(file.format(), KeyFormat::Pem);
            assert_eq!(data_encoding::HEXLOWER.encode(file.address().public_key()), RFC_PUBLIC);
            let KeyFile::Pem(seed) = file else { panic!("{text}") };
            assert_eq!(*seed.to_pem().unwrap(), RFC_PEM);
        }
    }

    #[test]
    fn a_pem_key_converts_to_tors_format_with_the_same_address() {
        let file = read(RFC_PEM).unwrap();
        let address = file.address();
        let tor = KeyFile::read(&file.into_key().unwrap().to_tor_secret_key_file()).unwrap();
        assert_eq!((tor.format(), tor.address()), (KeyFormat::Tor, address));
        assert_eq!(tor.into_key().unwrap().address(), address);
    }

    #[test]
    fn errors_explain_what_the_file_contains_instead() {
        let label = |label: &str| RFC_PEM.replace("PRIVATE KEY", label);
        let error = |text: &str| read(text).unwrap_err();
        assert_eq!(error(""), KeyFileError::Unknown);
        assert_eq!(error("key"), KeyFileError::Unknown);
        assert_eq!(KeyFile::read(&[0xff; 96]).unwrap_err(), KeyFileError::Unknown);
        assert_eq!(error("== ed25519v1-public: type0 =="), KeyFileError::Public);
        let truncated = KeyError::Damaged(KeyDamage::Truncated(29));
        assert_eq!(error("== ed25519v1-secret: type0 =="), KeyFileError::Key(truncated));
        assert_eq!(KeyFile::read(b"\xff\xfe-\0-\0").unwrap_err(), KeyFileError::Damaged(KeyDamage::Utf16));
        assert_eq!(error(&RFC_PEM.replace('\n', "\\n")), KeyFileError::LineBreaks);
        assert_eq!(error("hs_ed25519_secret_key: PT0="), KeyFileError::Form(KeyForm::Manifest));
        assert_eq!(error("services:\n- key: hs/hs_ed25519_secret_key\n"), KeyFileError::Unknown);
        assert_eq!(error(&label("PUBLIC KEY")), KeyFileError::Public);
        assert_eq!(error(&label("ENCRYPTED PRIVATE KEY")), KeyFileError::Encrypted);
        assert_eq!(error(&label("RSA PRIVATE KEY")), KeyFileError::Label("RSA PRIVATE KEY".to_owned()));
        assert_eq!(error(P256_PEM), KeyFileError::Algorithm);
        assert!(matches!(error(RFC_PEM.trim_end().strip_suffix("-----").unwrap()), KeyFileError::Pem(_)));
        assert!(matches!(error(&RFC_PEM.replace("MC4", "MC5")), KeyFileError::Pem(_)));
        let other_public = RFC_PEM_V2.replace("Z9w7lshQ", "Z9w7lshR");
        assert_eq!(error(&other_public), KeyFileError::Pem("its public key does not match its private key".to_owned()));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let file = read(RFC_PEM).unwrap();
        assert_eq!(format!("{file:?}"), format!("Pem(Seed {{ address: {:?}, .. }})", file.address()));
    }

    proptest! {
        #[test]
        fn generated_seeds_round_trip(seed: [u8; 32]) {
            let seed = Seed::generate(&mut StdRng::from_seed(seed));
            let read = read(&seed.to_pem().unwrap()).unwrap();
            prop_assert_eq!(read.address(), seed.address());
            prop_assert!(read.into_key().unwrap() == seed.expand().unwrap());
        }

        #[test]
        fn parsing_never_panics(text in "(-----BEGIN (PRIVATE KEY|X)?(-----)?)?[A-Za-z0-9+/=\n]{0,80}(-----END PRIVATE KEY-----)?") {
            let _ = read(&text);
        }
    }
}
