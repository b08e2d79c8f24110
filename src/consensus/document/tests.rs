use std::time::UNIX_EPOCH;

use data_encoding::BASE64_NOPAD;
use proptest::prelude::*;

use super::*;
use crate::consensus::testdata::captures;

/// Returns a consensus with two HSDirs, in the order that the specification requires.
fn sample() -> String {
    let router = |digit: &str| {
        let (identity, digest) = (digit.repeat(26) + "A", digit.repeat(42) + "A");
        format!(
            "r name {identity} 2038-01-01 00:00:00 192.0.2.1 9001 0\nm {digest}\ns HSDir Running Valid\nv Tor 0.4.9.11\n\
             pr Cons=1-2 HSDir=2\nw Bandwidth=1\n"
        )
    };
    let routers = router("A") + &router("B");
    let value = "A".repeat(43) + "=";
    format!(
        "network-status-version 3 microdesc\nvote-status consensus\nvalid-after 2026-01-02 03:00:00\n\
         fresh-until 2026-01-02 04:00:00\nvalid-until 2026-01-02 06:00:00\nparams circwindow=1000 hsdir_spread_store=5\n\
         shared-rand-previous-value 9 {value}\nshared-rand-current-value 9 {value}\n{routers}directory-footer\n\
         bandwidth-weights Wbd=0\ndirectory-signature sha256 AA AA\n"
    )
}

fn error(text: &str) -> ConsensusError {
    Document::parse(text).unwrap_err()
}

/// Replaces one text in the sample and returns the parse error.
fn error_with(from: &str, to: &str) -> ConsensusError {
    let sample = sample();
    assert!(sample.contains(from), "{from}");
    error(&sample.replacen(from, to, 1))
}

#[test]
fn parses_the_parts_that_onion_services_need() {
    let document = Document::parse(&sample()).unwrap();
    assert_eq!(document.valid_after, "2026-01-02T03:00:00Z".parse::<jiff::Timestamp>().unwrap().into());
    assert_eq!(document.params, Params { spread_store: 5, ..Params::default() });
    assert_eq!(document.shared_random_previous, Some([0; 32]));
    assert_eq!(document.shared_random_current, Some([0; 32]));
    assert_eq!(document.hsdirs.len(), 2);
    assert_eq!(document.hsdirs[0].fingerprint, Fingerprint([0; 20]));
    assert_eq!(document.hsdirs[1].microdescriptor[..3], [0x04, 0x10, 0x41]);
}

#[test]
fn parses_the_consensuses_of_a_private_network() {
    for capture in captures() {
        let document = Document::parse(&capture.consensus).unwrap();
        assert_eq!(document.hsdirs.len(), 17, "{}", capture.name);
        assert!(document.shared_random_current.is_some(), "{}", capture.name);
        assert_eq!(document.shared_random_previous.is_none(), capture.name == "tornet-no-previous-value");
    }
}

#[test]
fn rejects_other_documents() {
    for text in ["", "\n", "network-status-version 3\n", "network-status-version 4 microdesc\n"] {
        assert_eq!(error(text), ConsensusError::NotMicrodescConsensus, "{text:?}");
    }
    assert_eq!(error_with("vote-status consensus", "vote-status vote"), ConsensusError::Malformed("vote-status"));
    assert_eq!(error(&"x".repeat(MAX_DOCUMENT_BYTES + 1)), ConsensusError::TooLong);
}

#[test]
fn rejects_a_truncated_document() {
    let sample = sample();
    let footer = sample.find("directory-footer").unwrap();
    for (end, _) in sample[..footer].match_indices('\n') {
        assert!(Document::parse(&sample[..=end]).is_err(), "{}", &sample[..=end]);
    }
    assert_eq!(error(&sample[..footer]), ConsensusError::Missing("directory-footer"));
}

#[test]
fn every_mandatory_line_must_appear_exactly_once() {
    for keyword in ["vote-status", "valid-after", "fresh-until", "valid-until", "m", "s"] {
        let sample = sample();
        let line = sample.split_inclusive('\n').find(|line| line.split(' ').next() == Some(keyword)).unwrap();
        assert_eq!(error(&sample.replacen(line, "", 1)), ConsensusError::Missing(keyword));
        assert_eq!(error(&sample.replacen(line, &line.repeat(2), 1)), ConsensusError::Repeated(keyword));
    }
    for keyword in ["params", "shared-rand-previous-value", "shared-rand-current-value", "pr"] {
        let sample = sample();
        let line = sample.split_inclusive('\n').find(|line| line.split(' ').next() == Some(keyword)).unwrap();
        assert!(Document::parse(&sample.replacen(line, "", 1)).is_ok(), "{keyword}");
        assert_eq!(error(&sample.replacen(line, &line.repeat(2), 1)), ConsensusError::Repeated(keyword));
    }
}

#[test]
fn rejects_malformed_lines() {
    for (from, to, keyword) in [
        ("valid-after 2026-01-02 03:00:00", "valid-after 2026-01-02", "valid-after"),
        ("fresh-until 2026-01-02 04:00:00", "fresh-until 2026-1-02 04:00:00", "fresh-until"),
        ("valid-until 2026-01-02 06:00:00", "valid-until 2026-02-30 06:00:00", "valid-until"),
        ("hsdir_spread_store=5", "hsdir_spread_store=", "params"),
        ("hsdir_spread_store=5", "hsdir_spread_store=99999999999", "params"),
        ("hsdir_spread_store=5", "hsdir_spread_store", "params"),
        ("shared-rand-previous-value 9 ", "shared-rand-previous-value ", "shared-rand-previous-value"),
        ("shared-rand-current-value 9 A", "shared-rand-current-value 9 ", "shared-rand-current-value"),
        ("r name A", "r name ", "r"),
        ("m A", "m ", "m"),
    ] {
        assert_eq!(error_with(from, to), ConsensusError::Malformed(keyword), "{to}");
    }
}

#[test]
fn ignores_additional_words_and_unknown_lines() {
    let sample = sample();
    let changed = sample
        .replacen("valid-after 2026-01-02 03:00:00", "valid-after 2026-01-02 03:00:00 later", 1)
        .replacen("previous-value 9 ", "previous-value 4000000000 ", 1)
        .replacen("vote-status consensus\n", "vote-status consensus\nunknown-item x\n\nm not-of-a-router\n", 1)
        .replacen("w Bandwidth=1\n", "w Bandwidth=1\nunknown x\n", 1);
    assert_eq!(Document::parse(&changed).unwrap().hsdirs.len(), 2);
}

#[test]
fn router_entries_must_be_in_ascending_order() {
    let identity = "B".repeat(26);
    assert_eq!(error_with(&identity, &"A".repeat(26)), ConsensusError::RouterOrder);
}

#[test]
fn an_hsdir_needs_the_flag_and_the_protocol_version() {
    for (from, to) in [("HSDir Running", "Running"), ("HSDir=2", "HSDir=1"), ("pr Cons=1-2 HSDir=2\n", "")] {
        let document = Document::parse(&sample().replacen(from, to, 1)).unwrap();
        assert_eq!(document.hsdirs.len(), 1, "{to}");
    }
}

#[test]
fn detects_version_2_of_the_hsdir_protocol() {
    for entry in ["HSDir=2", "HSDir=1-2", "HSDir=1,2", "HSDir=1-4", "HSDir=0,2-3"] {
        assert!(supports_hsdir_v3(entry), "{entry}");
    }
    for entry in
        ["HSDir=1", "HSDir=3-9", "HSDir=", "HSDir=2-1", "HSDir=-2", "HSDir", "HSIntro=2", "HSDir=99999999999-2"]
    {
        assert!(!supports_hsdir_v3(entry), "{entry}");
    }
}

#[test]
fn parameters_are_clamped_to_their_limits() {
    let read = |text: &str| params(text.split_ascii_whitespace()).unwrap();
    assert_eq!(read(""), Params::default());
    let low = read("hsdir_interval=1 hsdir_n_replicas=0 hsdir_spread_store=-5 hsdir_spread_fetch=0");
    let lowest = Params { interval: 30, replicas: 1, spread_store: 1, spread_fetch: 1 };
    assert_eq!(low, lowest);
    let high = read("hsdir_interval=99999 hsdir_n_replicas=99 hsdir_spread_store=999 hsdir_spread_fetch=999");
    let highest = Params { interval: 14400, replicas: 16, spread_store: 128, spread_fetch: 128 };
    assert_eq!(high, highest);
}

#[test]
fn accepts_only_one_time_format() {
    let read = |text: &str| time(text.split_ascii_whitespace());
    assert_eq!(read("1970-01-01 00:00:00"), Some(UNIX_EPOCH));
    for text in ["1970-01-01", "1970-01-01T00:00:00", "1970-01-01 00:00", "+970-01-01 00:00:00", "1970-01-01 24:00:00"]
    {
        assert_eq!(read(text), None, "{text}");
    }
}

/// Formats a consensus that lists these relays. A relay is given by its identity, the digest of its
/// microdescriptor, whether it has the HSDir flag, and whether its `pr` line includes version 2 of
/// HSDir.
fn consensus(times: [i64; 3], values: [Option<[u8; 32]>; 2], params: &Params, relays: &[Relay]) -> String {
    let time = |seconds| jiff::Timestamp::from_second(seconds).unwrap().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let value = |name, value: Option<[u8; 32]>| {
        value.map_or(String::new(), |value| format!("shared-rand-{name}-value 9 {}\n", BASE64.encode(&value)))
    };
    let [valid_after, fresh_until, valid_until] = times.map(time);
    let header = format!(
        "network-status-version 3 microdesc\nvote-status consensus\nvalid-after {valid_after}\nfresh-until {fresh_until}\n\
         valid-until {valid_until}\nparams a=-1 hsdir_interval={} hsdir_n_replicas={} hsdir_spread_fetch={} \
         hsdir_spread_store={}\n",
        params.interval, params.replicas, params.spread_fetch, params.spread_store
    );
    let values = value("previous", values[0]) + &value("current", values[1]);
    let routers = relays.iter().map(|(identity, (digest, hsdir, version))| {
        let [identity, digest] = [identity.as_slice(), digest].map(|bytes| BASE64_NOPAD.encode(bytes));
        let (flag, version) = (if *hsdir { "HSDir " } else { "" }, if *version { "1-2" } else { "1" });
        format!(
            "r name {identity} 2038-01-01 00:00:00 192.0.2.1 9001 0\nm {digest}\ns Fast {flag}Valid\n\
             pr Cons=1-2 HSDir={version}\n"
        )
    });
    format!("{header}{values}{}directory-footer\n", routers.collect::<String>())
}

type Relay = ([u8; 20], ([u8; 32], bool, bool));

proptest! {
    #[test]
    fn parses_every_consensus_that_the_test_writes(
        times in [0_i64..4_000_000_000, 0..4_000_000_000, 0..4_000_000_000],
        values: [Option<[u8; 32]>; 2],
        (interval, replicas, spread_store, spread_fetch) in (30_u64..=14400, 1_u8..=16, 1_u8..=128, 1_u8..=128),
        relays in prop::collection::btree_map(any::<[u8; 20]>(), any::<([u8; 32], bool, bool)>(), 0..8),
    ) {
        let params = Params { interval, replicas, spread_store, spread_fetch };
        let relays: Vec<Relay> = relays.into_iter().collect();
        let document = Document::parse(&consensus(times, values, &params, &relays)).unwrap();
        let read = [document.valid_after, document.fresh_until, document.valid_until]
            .map(|time| i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap());
        prop_assert_eq!(read, times);
        prop_assert_eq!([document.shared_random_previous, document.shared_random_current], values);
        prop_assert_eq!(document.params, params);
        let expected: Vec<_> = relays
            .iter()
            .filter(|(_, (_, hsdir, version))| *hsdir && *version)
            .map(|(identity, (digest, ..))| (*identity, *digest))
            .collect();
        let read: Vec<_> =
            document.hsdirs.iter().map(|hsdir| (hsdir.fingerprint.0, hsdir.microdescriptor)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn parsing_a_changed_consensus_never_panics(
        at: prop::sample::Index, with in "[ -~\n]{0,4}", length in 0..40_usize,
    ) {
        let mut text = sample();
        let at = at.index(text.len());
        let end = text.len().min(at + length);
        text.replace_range(at..end, &with);
        let _ = Document::parse(&text);
    }
}
