//! Calls the Python libraries stem and cryptography through `py/stem_oracle.py`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use data_encoding::HEXLOWER;
use onionbalance_operator::onion::{IntroductionPoint, TimePeriod};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// A running Python process, which exits when the test program closes its input.
pub struct Stem {
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

/// A wrapper for bytes that are encoded in hexadecimal in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hex<T>(pub T);

/// The keys that stem derives from an identity key for a time period.
#[derive(Debug, Deserialize)]
pub struct StemKey {
    /// The onion address, which ends in `.onion`.
    pub address: String,
    /// The public blinded key of the service in the time period.
    pub blinded_key: Hex<[u8; 32]>,
    /// The subcredential of the service in the time period.
    pub subcredential: Hex<[u8; 32]>,
}

/// A descriptor as decoded by stem.
#[derive(Debug, Deserialize)]
pub struct StemDescriptor {
    /// The blinded key that signed the descriptor.
    pub blinded_key: Hex<[u8; 32]>,
    /// The value of `revision-counter`.
    pub revision_counter: u64,
    /// The value of `descriptor-lifetime` in minutes.
    pub lifetime_minutes: u32,
    /// The expiry of the signing key's certificate, in seconds since the Unix epoch.
    pub expires: u64,
    /// The number of `auth-client` lines.
    pub auth_clients: usize,
    /// The values of `create2-formats`.
    pub create2_formats: Vec<u16>,
    /// The values of `intro-auth-required`.
    pub intro_auth_required: Vec<String>,
    /// True if the descriptor has `single-onion-service`.
    pub single_onion_service: bool,
    /// The introduction points in the descriptor.
    pub points: Vec<StemPoint>,
}

/// An introduction point in stem's JSON representation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StemPoint {
    link_specifiers: Hex<Vec<u8>>,
    onion_key: Hex<[u8; 32]>,
    auth_key: Hex<[u8; 32]>,
    enc_key: Hex<[u8; 32]>,
    enc_key_ed25519: Hex<[u8; 32]>,
}

/// A certificate request as decoded by Python's package cryptography.
#[derive(Debug, Deserialize)]
pub struct DecodedRequest {
    /// The public key of the request.
    pub public_key: Hex<[u8; 32]>,
    /// True if the signature verifies under this key.
    pub is_signature_valid: bool,
    /// The value of the attribute `cabf-caSigningNonce`.
    pub ca_nonce: Hex<Vec<u8>>,
    /// The value of the attribute `cabf-applicantSigningNonce`.
    pub applicant_nonce: Hex<Vec<u8>>,
    /// The DNS names in the requested extension for alternative names.
    pub names: Vec<String>,
    /// The subject (RFC 4514).
    pub subject: String,
}

/// A request to stem to create a descriptor.
#[derive(Debug, Serialize)]
pub struct CreateRequest {
    /// The seed of the service's identity key.
    pub seed: Hex<[u8; 32]>,
    /// The revision counter of the new descriptor.
    pub revision_counter: u64,
    /// The lines of layer 2 before the introduction points, as keywords with arguments.
    pub header: serde_json::Map<String, Value>,
    /// The introduction points in the descriptor.
    pub points: Vec<StemPoint>,
    /// True if stem's own constructor creates the certificates and authentication keys of the
    /// introduction points.
    pub stem_certifies: bool,
}

impl From<&IntroductionPoint> for StemPoint {
    fn from(point: &IntroductionPoint) -> Self {
        Self {
            link_specifiers: Hex(point.link_specifiers.clone()),
            onion_key: Hex(point.onion_key),
            auth_key: Hex(point.auth_key),
            enc_key: Hex(point.enc_key),
            enc_key_ed25519: Hex(point.enc_key_ed25519),
        }
    }
}

impl Stem {
    /// Returns the Python process of this test program. The first call starts it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Stem> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts Python in the environment that `e2e/setup/stem.sh` creates.
    #[expect(clippy::zombie_processes, reason = "the process ends when the test program closes its input")]
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("py/stem_oracle.py");
        let mut child = Command::new(python())
            .args(["-W", "ignore::DeprecationWarning"])
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("could not start Python");
        let input = child.stdin.take().expect("the stream is not piped");
        let output = child.stdout.take().expect("the stream is not piped");
        Self { pipes: Mutex::new((input, BufReader::new(output))) }
    }

    /// Returns the onion address, blinded key and subcredential that stem derives from a public
    /// identity key.
    pub fn key(&self, public_key: &[u8; 32], period: TimePeriod) -> StemKey {
        self.ask(&with_period(json!({ "command": "key", "public_key": Hex(*public_key) }), period))
    }

    /// Checks the signatures of a descriptor without client authorization, and decrypts its layers.
    pub fn decode(&self, address: &str, text: &str) -> StemDescriptor {
        self.ask(&json!({ "command": "decode", "address": address, "text": text }))
    }

    /// Creates a descriptor whose certificates are valid from the current time.
    pub fn create(&self, create: &CreateRequest, period: TimePeriod) -> String {
        #[derive(Deserialize)]
        struct Created {
            text: String,
        }
        let mut request = serde_json::to_value(create).expect("could not serialize the request");
        request["command"] = json!("create");
        self.ask::<Created>(&with_period(request, period)).text
    }

    /// Parses a certificate request (PKCS #10 in DER) and verifies its signature.
    pub fn certificate_request(&self, der: &[u8]) -> DecodedRequest {
        self.ask(&json!({ "command": "certificate_request", "der": Hex(der) }))
    }

    fn ask<T: DeserializeOwned>(&self, request: &Value) -> T {
        let mut pipes = self.pipes.lock().expect("an earlier request failed");
        writeln!(pipes.0, "{request}").expect("could not send the request to Python");
        let mut answer = String::new();
        pipes.1.read_line(&mut answer).expect("could not read the answer from Python");
        assert!(!answer.is_empty(), "Python rejects this request, see the error above: {request}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

fn with_period(mut request: Value, period: TimePeriod) -> Value {
    request["period_number"] = json!(period.number);
    request["period_length"] = json!(period.length_minutes);
    request
}

/// Returns the interpreter of the Python environment. The first call creates the environment if it
/// does not exist.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/setup/stem.sh");
        let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("could not run the script");
        assert!(output.status.success(), "{} failed", script.display());
        String::from_utf8(output.stdout).expect("the path is not UTF-8").trim().into()
    })
}

impl<T: AsRef<[u8]>> Serialize for Hex<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(self.0.as_ref()))
    }
}

impl<'de, T: TryFrom<Vec<u8>>> Deserialize<'de> for Hex<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        T::try_from(bytes).map(Self).map_err(|_| serde::de::Error::custom("unexpected length"))
    }
}
