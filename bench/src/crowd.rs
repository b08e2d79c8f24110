//! A private network whose consensus also lists thousands of imaginary relays.
//!
//! A tor needs most of its memory for the descriptions of all relays, which a small network cannot
//! show. The authorities' keys sign the longer consensus, so that every tor accepts it. The
//! imaginary relays have no flag `HSDir` or `Guard` and hardly any bandwidth, so that tor almost
//! never chooses one of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use data_encoding::{BASE64, BASE64_NOPAD};
use k8s_openapi::jiff::Timestamp;
use onionbalance_e2e::command::output;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::{Tor, TorNetwork, make_private_dir};
use onionbalance_testnet::Plan;
use sha2::{Digest as _, Sha256};

/// The names of the files in which tor keeps the documents of the network.
const CONSENSUS: &str = "cached-microdesc-consensus";
const MICRODESCRIPTORS: &str = "cached-microdescs";
const NEW_MICRODESCRIPTORS: &str = "cached-microdescs.new";
const CERTIFICATES: &str = "cached-certs";
/// The words before each signature. The signatures cover the consensus up to here (dir-spec,
/// `directory-signature`).
const SIGNATURE: &str = "directory-signature ";
/// The age of the consensus. A tor fetches the next one when an hour has passed, and this one would
/// then be replaced.
const AGE: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// The documents of the network, as tor keeps them in its data folder.
#[derive(Debug)]
pub struct Crowd {
    consensus: String,
    microdescriptors: String,
    certificates: String,
}

impl Crowd {
    /// Adds imaginary relays to a network that is up, until it has `relays` of them.
    pub async fn of(relays: usize, network: &TorNetwork, processes: &Processes, dir: &Path) -> Result<Self> {
        let tor = Tor::open(processes, "reader", &dir.join("reader"));
        tor.start(Command::new("tor"), &format!("{}SocksPort 0\n", network.torrc_lines()?))?;
        tor.wait_bootstrapped().await?;
        tor.stop().await?;
        let data = tor.dir().join("data");
        let file =
            |name: &str| fs::read_to_string(data.join(name)).with_context(|| format!("tor has written no file {name}"));
        let real = file(CONSENSUS)?;
        let count = relays.saturating_sub(real.matches("\nr ").count());
        let imaginary = Plan { relays: count, ..Plan::default() }.generate();
        let unsigned = merge(&real, &imaginary.consensus)?;
        let (_, footer) = split(&real, "\ndirectory-footer\n")?;
        let keys = signing_keys(&dir.join("network"), network)?;
        let consensus = sign(unsigned, footer, &keys, dir).await?;
        let microdescriptors = imaginary.all_microdescriptors() + &file(NEW_MICRODESCRIPTORS)?;
        Ok(Self { consensus, microdescriptors, certificates: file(CERTIFICATES)? })
    }

    /// Writes the documents into the data folder of a tor that has not started yet.
    pub fn seed(&self, data: &Path) -> Result<()> {
        make_private_dir(data)?;
        fs::write(data.join(CONSENSUS), &self.consensus)?;
        fs::write(data.join(MICRODESCRIPTORS), &self.microdescriptors)?;
        Ok(fs::write(data.join(CERTIFICATES), &self.certificates)?)
    }
}

/// Returns the real consensus with the imaginary relays, up to the first signature. It has the
/// intervals of the public network.
fn merge(real: &str, imaginary: &str) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "tor reads the clock")]
    let now = SystemTime::now();
    let valid_after = now.checked_sub(AGE).context("the clock is wrong")?;
    let time = |after: Duration| -> Result<String> {
        Ok(Timestamp::try_from(valid_after + after)?.strftime("%Y-%m-%d %H:%M:%S").to_string())
    };
    let times = [
        ("valid-after ", time(Duration::ZERO)?),
        ("fresh-until ", time(HOUR)?),
        ("valid-until ", time(3 * HOUR)?),
        ("voting-delay ", "300 300".to_owned()),
    ];
    let (header, rest) = split(real, "\nr ")?;
    let (relays, footer) = split(rest, "\ndirectory-footer\n")?;
    let (_, others) = split(imaginary, "\nr ")?;
    let (others, _) = split(others, "\ndirectory-footer\n")?;
    let mut text = String::with_capacity(real.len() + imaginary.len());
    for line in header.lines() {
        let changed = times.iter().find_map(|(name, time)| line.starts_with(name).then(|| format!("{name}{time}")));
        text += &changed.unwrap_or_else(|| line.to_owned());
        text.push('\n');
    }
    // A consensus lists its relays by ascending identity.
    let mut entries = BTreeMap::new();
    for (relays, replaced) in [
        (relays, [("w ", "w Bandwidth=1000000")].as_slice()),
        (others, &[("s ", "s Fast Running Stable V2Dir Valid"), ("w ", "w Bandwidth=1")]),
    ] {
        for relay in relays.split("\nr ") {
            let identity = relay.split(' ').nth(1).context("a relay has no identity")?;
            let line = |line: &str| {
                let other = replaced.iter().find(|(start, _)| line.starts_with(start));
                other.map_or(line, |(_, other)| other).to_owned() + "\n"
            };
            let entry: String = relay.lines().map(line).collect();
            entries.insert(BASE64_NOPAD.decode(identity.as_bytes())?, entry);
        }
    }
    for entry in entries.values() {
        text += "r ";
        text += entry;
    }
    text += "directory-footer\n";
    text += footer.split(SIGNATURE).next().unwrap_or_default();
    Ok(text)
}

/// Appends the signature of each authority that has signed the real consensus, whose footer is
/// `footer`.
async fn sign(mut text: String, footer: &str, keys: &BTreeMap<String, PathBuf>, dir: &Path) -> Result<String> {
    let file = dir.join("digest");
    fs::write(&file, Sha256::new().chain_update(&text).chain_update(SIGNATURE).finalize())?;
    for line in footer.lines().filter(|line| line.starts_with(SIGNATURE)) {
        let identity = line.split(' ').nth(2).context("a signature names no authority")?;
        let key = keys.get(identity).context("a signature is that of an unknown authority")?;
        let signature = dir.join("signature");
        // The signed value is the digest itself, without the name of an algorithm (dir-spec).
        let mut openssl = Command::new("openssl");
        openssl.args(["pkeyutl", "-sign", "-pkeyopt", "rsa_padding_mode:pkcs1", "-inkey"]).arg(key);
        openssl.arg("-in").arg(&file).arg("-out").arg(&signature);
        output(&mut openssl.into()).await?;
        let encoded = BASE64.encode(&fs::read(&signature)?);
        let _ = writeln!(text, "{line}\n-----BEGIN SIGNATURE-----\n{encoded}\n-----END SIGNATURE-----");
    }
    Ok(text)
}

/// Maps the identity of each authority to the file of its signing key.
fn signing_keys(dir: &Path, network: &TorNetwork) -> Result<BTreeMap<String, PathBuf>> {
    let key = |process: String| {
        let name = process.strip_prefix("tor-").context("an authority's process has an unexpected name")?;
        let keys = dir.join(name).join("data/keys");
        let certificate = fs::read_to_string(keys.join("authority_certificate"))?;
        let identity = certificate.lines().find_map(|line| line.strip_prefix("fingerprint "));
        Ok((identity.context("a certificate has no fingerprint")?.to_owned(), keys.join("authority_signing_key")))
    };
    network.authority_processes().into_iter().map(key).collect()
}

fn split<'a>(text: &'a str, at: &str) -> Result<(&'a str, &'a str)> {
    text.split_once(at).with_context(|| format!("the consensus has no {:?}", at.trim()))
}
