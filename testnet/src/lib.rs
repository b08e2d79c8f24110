//! Generates a microdescriptor consensus of any size, and its microdescriptors, from a seed.
//!
//! The documents have the same items as those of the public network, in the same order and with
//! about the same lengths. Other implementations can therefore parse them, and benchmarks get
//! realistic input. Keys, digests and signatures are random bytes, so nobody can connect to these
//! relays and no signature is valid.
//!
//! ```
//! let network = onionbalance_testnet::Plan { relays: 30, ..Default::default() }.generate();
//! assert_eq!(network.consensus.matches("\nr ").count(), 30);
//! assert_eq!(network.microdescriptors.len(), 30);
//! ```

use std::fmt::Write as _;

use data_encoding::{BASE64, BASE64_NOPAD, HEXUPPER};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// The number of directory authorities on the public network.
const AUTHORITIES: usize = 9;
const PROTOCOLS: &str = "Conflux=1 Cons=1-2 Desc=1-2 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=1-5 LinkAuth=1,3 \
                         Microdesc=1-2 Padding=2 Relay=1-4";

/// The parameters of a generated network. The same plan always generates the same documents.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The number of relays in the consensus. Three quarters have the flag `HSDir`, half have
    /// `Guard` and a quarter have `Exit`.
    pub relays: usize,
    /// The seed for all random values.
    pub seed: u64,
    /// The `valid-after` time of the consensus, in seconds since the Unix epoch.
    pub valid_after: u64,
    /// The length of a voting round in seconds. `fresh-until` is one round after `valid-after`, and
    /// `valid-until` is three rounds after it.
    pub round_seconds: u64,
    /// True if the consensus has a `shared-rand-previous-value`.
    pub shared_random_previous: bool,
    /// True if the consensus has a `shared-rand-current-value`.
    pub shared_random_current: bool,
    /// Additional consensus parameters, for example `hsdir_spread_store=5`.
    pub params: Vec<String>,
    /// The share of relays without a microdescriptor: one in this many. With 0, all relays have
    /// one.
    pub one_microdescriptor_missing_in: usize,
}

/// The documents of a generated network, as returned by tor's control port.
#[derive(Debug, Clone)]
pub struct TestNetwork {
    /// The reply to `GETINFO dir/status-vote/current/consensus-microdesc`.
    pub consensus: String,
    /// The microdescriptors of the relays, in the order of the consensus, except for those that the
    /// plan omits.
    pub microdescriptors: Vec<String>,
}

impl Default for Plan {
    /// Returns the plan for a network of a hundred relays with the public network's timing, at
    /// 2026-11-01 03:00 UTC.
    fn default() -> Self {
        Self {
            relays: 100,
            seed: 1,
            valid_after: 1_793_502_000,
            round_seconds: 3600,
            shared_random_previous: true,
            shared_random_current: true,
            params: Vec::new(),
            one_microdescriptor_missing_in: 0,
        }
    }
}

impl TestNetwork {
    /// Returns the reply to `GETINFO md/all`.
    pub fn all_microdescriptors(&self) -> String {
        self.microdescriptors.concat()
    }
}

impl Plan {
    /// Generates the documents of the planned network.
    pub fn generate(&self) -> TestNetwork {
        let mut rng = StdRng::seed_from_u64(self.seed);
        // A consensus lists relays by ascending identity and has no duplicates.
        let mut identities: Vec<[u8; 20]> = (0..self.relays).map(|_| bytes(&mut rng)).collect();
        identities.sort_unstable();
        identities.dedup();

        let mut consensus = self.header(&mut rng);
        let mut microdescriptors = Vec::with_capacity(self.relays);
        for (number, identity) in identities.iter().enumerate() {
            let microdescriptor = microdescriptor(number, &identities, &mut rng);
            write_relay(&mut consensus, number, identity, &microdescriptor);
            let missing = number.checked_rem(self.one_microdescriptor_missing_in) == Some(0);
            if !missing {
                microdescriptors.push(microdescriptor);
            }
        }
        write_footer(&mut consensus, &mut rng);
        TestNetwork { consensus, microdescriptors }
    }

    fn header(&self, rng: &mut StdRng) -> String {
        let at = |rounds: u64| time(self.valid_after.saturating_add(rounds.saturating_mul(self.round_seconds)));
        let params = ["CircuitPriorityHalflifeMsec=30000", "DoSCircuitCreationEnabled=1", "bwweightscale=10000"];
        let mut params: Vec<&str> = params.into_iter().chain(self.params.iter().map(String::as_str)).collect();
        params.sort_unstable();
        // Always generate both values, so that omitting one does not change the rest of the
        // consensus.
        let (previous, current) = (bytes::<32>(rng), bytes::<32>(rng));
        let shared_random = |which, there: bool, value| {
            if there { format!("shared-rand-{which}-value 9 {}\n", BASE64.encode(value)) } else { String::new() }
        };
        let mut text = format!(
            "network-status-version 3 microdesc\nvote-status consensus\nconsensus-method 34\n\
             valid-after {}\nfresh-until {}\nvalid-until {}\nvoting-delay 300 300\n\
             client-versions 0.4.8.21,0.4.9.5\nserver-versions 0.4.8.21,0.4.9.5\n\
             known-flags Authority BadExit Exit Fast Guard HSDir MiddleOnly NoEdConsensus Running Stable StaleDesc Sybil V2Dir Valid\n\
             recommended-client-protocols Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 Microdesc=2 Relay=2-4\n\
             required-relay-protocols Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2-4\n\
             params {}\n{}{}",
            at(0),
            at(1),
            at(3),
            params.join(" "),
            shared_random("previous", self.shared_random_previous, &previous),
            shared_random("current", self.shared_random_current, &current),
        );
        for number in 1..=AUTHORITIES {
            let (identity, vote) = (fingerprint(rng), fingerprint(rng));
            let _ = writeln!(text, "dir-source auth{number} {identity} 192.0.2.{number} 192.0.2.{number} 80 443");
            let _ = writeln!(text, "contact authority {number} <auth{number}@example.org>\nvote-digest {vote}");
        }
        text
    }
}

fn microdescriptor(number: usize, identities: &[[u8; 20]], rng: &mut StdRng) -> String {
    // SEQUENCE { INTEGER (a modulus of 1024 bits), INTEGER 65537 }
    let mut modulus = bytes::<128>(rng);
    modulus[0] |= 0x80;
    modulus[127] |= 1;
    let key = [&[0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00], &modulus[..], &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
    let mut text = String::from("onion-key\n");
    push_object(&mut text, "RSA PUBLIC KEY", &key);
    let _ = writeln!(text, "ntor-onion-key {}", BASE64_NOPAD.encode(&bytes::<32>(rng)));
    // Every third relay is in a family of up to eight relays.
    if number.is_multiple_of(3) {
        let family = identities.iter().skip(number / 24 * 24).take(24).step_by(3);
        let family: Vec<_> = family.map(|identity| format!("${}", HEXUPPER.encode(identity))).collect();
        let _ = writeln!(text, "family {}", family.join(" "));
    }
    if is_exit(number) {
        text.push_str(
            "p accept 20-23,43,53,79-81,88,110,143,194,220,389,443,464,531,543-544,554,563,636,706,749,873,993\n",
        );
    }
    let _ = writeln!(text, "id ed25519 {}", BASE64_NOPAD.encode(&bytes::<32>(rng)));
    text
}

fn write_relay(text: &mut String, number: usize, identity: &[u8; 20], microdescriptor: &str) {
    let identity = BASE64_NOPAD.encode(identity);
    let [_, _, high, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let _ = writeln!(text, "r relay{number} {identity} 2038-01-01 00:00:00 10.1.{high}.{low} 9001 0");
    if number.is_multiple_of(2) {
        let _ = writeln!(text, "a [2001:db8::{number:x}]:9001");
    }
    let _ = writeln!(text, "m {}", BASE64_NOPAD.encode(&Sha256::digest(microdescriptor)));
    let flags =
        [("Exit", is_exit(number)), ("Fast", true), ("Guard", number.is_multiple_of(2)), ("HSDir", number % 4 != 3)];
    text.push('s');
    for (flag, _) in flags.iter().filter(|(_, has)| *has) {
        let _ = write!(text, " {flag}");
    }
    let _ = writeln!(text, " Running Stable V2Dir Valid\nv Tor 0.4.9.5\npr {PROTOCOLS}");
    let _ = writeln!(text, "w Bandwidth={}", 1000 + number % 50 * 400);
}

fn write_footer(text: &mut String, rng: &mut StdRng) {
    text.push_str(
        "directory-footer\nbandwidth-weights Wbd=0 Wbe=0 Wbg=4096 Wbm=10000 Wdb=10000 Web=10000 Wed=10000 Wee=10000 Weg=10000 \
         Wem=10000 Wgb=10000 Wgd=0 Wgg=5904 Wgm=5904 Wmb=10000 Wmd=0 Wme=0 Wmg=4096 Wmm=10000\n",
    );
    for _ in 0..AUTHORITIES {
        let _ = writeln!(text, "directory-signature sha256 {} {}", fingerprint(rng), fingerprint(rng));
        push_object(text, "SIGNATURE", &bytes::<256>(rng));
    }
}

fn is_exit(number: usize) -> bool {
    number % 4 == 1
}

fn push_object(text: &mut String, tag: &str, object: &[u8]) {
    let _ = writeln!(text, "-----BEGIN {tag}-----");
    let encoded = BASE64.encode(object);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        let _ = writeln!(text, "{line}");
        rest = after;
    }
    let _ = writeln!(text, "-----END {tag}-----");
}

fn fingerprint(rng: &mut StdRng) -> String {
    HEXUPPER.encode(&bytes::<20>(rng))
}

fn bytes<const N: usize>(rng: &mut StdRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Formats a time as `YYYY-MM-DD HH:MM:SS`. Times beyond the supported range become the Unix epoch.
fn time(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(text: &'a str, keyword: &str) -> Vec<&'a str> {
        text.lines().filter_map(|line| line.strip_prefix(keyword)).collect()
    }

    #[test]
    fn each_microdescriptor_has_the_digest_that_the_consensus_names() {
        let network = Plan { relays: 50, ..Plan::default() }.generate();
        let digests: Vec<_> =
            network.microdescriptors.iter().map(|text| BASE64_NOPAD.encode(&Sha256::digest(text))).collect();
        assert_eq!(lines(&network.consensus, "m "), digests);
    }

    #[test]
    fn relays_are_sorted_by_identity() {
        let network = Plan { relays: 500, ..Plan::default() }.generate();
        let relays = lines(&network.consensus, "r ");
        let identities: Vec<_> = relays
            .iter()
            .map(|line| BASE64_NOPAD.decode(line.split(' ').nth(1).unwrap().as_bytes()).unwrap())
            .collect();
        assert!(identities.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn the_network_follows_the_plan() {
        let plan = Plan {
            relays: 40,
            shared_random_previous: false,
            params: vec!["hsdir_spread_store=5".to_owned()],
            one_microdescriptor_missing_in: 10,
            ..Plan::default()
        };
        let network = plan.generate();
        assert_eq!(lines(&network.consensus, "valid-after "), ["2026-11-01 03:00:00"]);
        assert_eq!(lines(&network.consensus, "fresh-until "), ["2026-11-01 04:00:00"]);
        assert!(lines(&network.consensus, "shared-rand-previous-value ").is_empty());
        assert_eq!(lines(&network.consensus, "shared-rand-current-value ").len(), 1);
        assert!(lines(&network.consensus, "params ")[0].ends_with(" hsdir_spread_store=5"));
        assert_eq!(network.microdescriptors.len(), 36);
        assert_eq!(plan.generate().consensus, network.consensus);
        assert_ne!(Plan { seed: 2, ..plan }.generate().consensus, network.consensus);
    }
}
