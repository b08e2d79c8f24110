//! Generated networks and backends for the tests of the merge engine.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, BASE64_NOPAD};
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};

use crate::consensus::{Network, NetworkKind};
use crate::merge::BackendId;
use crate::onion::{IntroductionPoint, ServiceContent};

/// Returns 2026-01-01 00:00:00 UTC, the time at which a new shared random value takes effect. The
/// time period changes twelve hours later.
pub(crate) fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

pub(super) const HOUR: Duration = Duration::from_hours(1);

/// Returns a public network whose HSDirs are `relays`. Its consensus is published the given number
/// of hours after [`start`].
pub(crate) fn network(relays: impl IntoIterator<Item = u8>, hour: u32) -> Arc<Network> {
    voted(relays, hour, HOUR, NetworkKind::Public)
}

/// Returns a testing network that votes every 20 seconds, so that a time period lasts 8 minutes.
pub(super) fn testing_network(relays: impl IntoIterator<Item = u8>) -> Arc<Network> {
    voted(relays, 0, Duration::from_secs(20), NetworkKind::Testing)
}

fn voted(
    relays: impl IntoIterator<Item = u8>,
    hour: u32,
    voting_interval: Duration,
    kind: NetworkKind,
) -> Arc<Network> {
    let valid_after = start() + HOUR * hour;
    let run = u8::try_from(100 + hour / 24).unwrap();
    let value = |run| BASE64.encode(&[run; 32]);
    let mut consensus = format!(
        "network-status-version 3 microdesc\nvote-status consensus\nvalid-after {}\nfresh-until {}\nvalid-until {}\n\
         shared-rand-previous-value 9 {}\nshared-rand-current-value 9 {}\n",
        timestamp(valid_after),
        timestamp(valid_after + voting_interval),
        timestamp(valid_after + voting_interval * 3),
        value(run - 1),
        value(run),
    );
    let mut microdescriptors = String::new();
    for relay in relays {
        let text = format!("onion-key\nid ed25519 {}\n", BASE64_NOPAD.encode(&[relay; 32]));
        let fingerprint = BASE64_NOPAD.encode(&[relay; 20]);
        let digest = BASE64_NOPAD.encode(&Sha256::digest(&text));
        let _ = write!(
            consensus,
            "r relay{relay} {fingerprint} 2038-01-01 00:00:00 192.0.2.1 9001 0\nm {digest}\n\
             s Fast HSDir Running V2Dir Valid\npr HSDir=2\n"
        );
        microdescriptors.push_str(&text);
    }
    consensus.push_str("directory-footer\n");
    Arc::new(Network::parse(&consensus, &microdescriptors, kind).unwrap())
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

pub(crate) fn id(name: &str) -> BackendId {
    BackendId(name.to_owned())
}

/// Returns an introduction point at the given relay with the given key.
pub(crate) fn point(relay: u16, key: u16) -> IntroductionPoint {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&key.to_be_bytes());
    let auth = SigningKey::from_bytes(&seed).verifying_key();
    let mut link_specifiers = vec![2, 0, 6, 192, 0, 2, 1, 0x23, 0x29, 2, 20];
    link_specifiers.extend(relay.to_be_bytes().repeat(10));
    IntroductionPoint {
        link_specifiers,
        onion_key: [relay.to_be_bytes()[1]; 32],
        auth_key: auth.to_bytes(),
        enc_key: auth.to_montgomery().to_bytes(),
        enc_key_ed25519: auth.to_bytes(),
        legacy: false,
    }
}

/// Returns the content of a descriptor as a stock tor would publish it for these introduction
/// points.
pub(crate) fn content(points: impl IntoIterator<Item = IntroductionPoint>) -> ServiceContent {
    ServiceContent { flow_control: "1-2 31".parse().ok(), ..ServiceContent::plain(points.into_iter().collect()) }
}

/// Returns a backend with three introduction points at relays of its own. Each `generation` has
/// different keys.
pub(crate) fn backend(number: u8, generation: u16) -> (BackendId, Arc<ServiceContent>) {
    let points = (0..3).map(|index| {
        let relay = 3 * u16::from(number) + index;
        point(relay, 1000 * generation + relay)
    });
    (id(&format!("backend-{number}")), Arc::new(content(points)))
}
