//! Python's stem, asked through `py/stem_oracle.py`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use data_encoding::HEXLOWER;
use onionbalance_operator::onion::{IntroductionPoint, TimePeriod};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// A Python that answers, until its input ends with the test.
pub struct Stem {
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

/// Bytes that JSON has in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hex<T>(pub T);

/// What an identity key comes to in a period.
#[derive(Debug, Deserialize)]
pub struct Key {
    /// With `.onion`.
    pub address: String,
    /// The blinded key.
    pub blinded_key: Hex<[u8; 32]>,
    /// The subcredential.
    pub subcredential: Hex<[u8; 32]>,
}

/// A descriptor as stem reads it.
#[derive(Debug, Deserialize)]
pub struct Descriptor {
    /// The key that signed it.
    pub blinded_key: Hex<[u8; 32]>,
    /// `revision-counter`
    pub revision_counter: u64,
    /// `descriptor-lifetime`
    pub lifetime_minutes: u32,
    /// When the signing key's certificate expires, seconds since the epoch.
    pub expires: u64,
    /// How many `auth-client` items there are.
    pub auth_clients: usize,
    /// `create2-formats`
    pub create2_formats: Vec<u16>,
    /// `intro-auth-required`
    pub intro_auth_required: Vec<String>,
    /// `single-onion-service`
    pub single_onion_service: bool,
    /// The points.
    pub points: Vec<Point>,
}

/// A point as stem reads and writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    link_specifiers: Hex<Vec<u8>>,
    onion_key: Hex<[u8; 32]>,
    auth_key: Hex<[u8; 32]>,
    enc_key: Hex<[u8; 32]>,
    enc_key_ed25519: Hex<[u8; 32]>,
}

/// What stem is to make a descriptor of.
#[derive(Debug, Serialize)]
pub struct Create {
    /// The identity key's seed.
    pub seed: Hex<[u8; 32]>,
    /// The counter.
    pub revision_counter: u64,
    /// Lines of layer 2 before the points: keyword and arguments.
    pub header: serde_json::Map<String, Value>,
    /// The points.
    pub points: Vec<Point>,
    /// Whether stem's own constructor makes the points' certificates (and their authentication keys).
    pub stem_certifies: bool,
}

impl From<&IntroductionPoint> for Point {
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
    /// The one of this test program; the first call starts it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Stem> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts Python, in the environment that `e2e/setup/stem.sh` makes.
    #[expect(clippy::zombie_processes, reason = "it ends with the test program, when its input does")]
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("py/stem_oracle.py");
        let mut child = Command::new(python())
            .args(["-W", "ignore::DeprecationWarning"])
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let input = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        Self { pipes: Mutex::new((input, BufReader::new(output))) }
    }

    /// Address, blinded key and subcredential of a public identity key.
    pub fn key(&self, public_key: &[u8; 32], period: TimePeriod) -> Key {
        self.ask(&with_period(json!({ "command": "key", "public_key": Hex(*public_key) }), period))
    }

    /// Checks the signatures of a descriptor without client authorization and opens its layers.
    pub fn decode(&self, address: &str, text: &str) -> Descriptor {
        self.ask(&json!({ "command": "decode", "address": address, "text": text }))
    }

    /// Makes a descriptor; its certificates are good from now on.
    pub fn create(&self, create: &Create, period: TimePeriod) -> String {
        #[derive(Deserialize)]
        struct Created {
            text: String,
        }
        let mut request = serde_json::to_value(create).expect("it is plain data");
        request["command"] = json!("create");
        self.ask::<Created>(&with_period(request, period)).text
    }

    fn ask<T: DeserializeOwned>(&self, request: &Value) -> T {
        let mut pipes = self.pipes.lock().expect("no other question failed");
        writeln!(pipes.0, "{request}").expect("Python reads");
        let mut answer = String::new();
        pipes.1.read_line(&mut answer).expect("Python writes");
        assert!(!answer.is_empty(), "stem does not take this (its reason is above): {request}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

fn with_period(mut request: Value, period: TimePeriod) -> Value {
    request["period_number"] = json!(period.number);
    request["period_length"] = json!(period.length_minutes);
    request
}

/// The environment's Python; the first call may have to make the environment.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/setup/stem.sh");
        let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("the script runs");
        assert!(output.status.success(), "{} failed", script.display());
        String::from_utf8(output.stdout).expect("a path").trim().into()
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
        T::try_from(bytes).map(Self).map_err(|_| serde::de::Error::custom("another length"))
    }
}
