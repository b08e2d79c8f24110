use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::consensus::ring::hsdir_index;
use crate::consensus::testdata::{Action, Capture, captures};

fn parse(capture: &Capture) -> Network {
    Network::parse(&capture.consensus, &capture.microdescriptors, NetworkKind::Testing).unwrap()
}

/// Checks that the periods, the order of the descriptors, the start of the revision counters, and
/// the HSDirs and their order match those of C tor.
fn assert_agrees(capture: &Capture) {
    let network = parse(capture);
    let service_periods = network.service_periods();
    for observed in &capture.observed {
        let (period, responsible) = match observed.action {
            Action::Upload { descriptor, period_number, srv_start } => {
                let period = &service_periods[descriptor];
                assert_eq!(period.period.number, period_number, "{}", capture.name);
                assert_eq!(period.srv_start, UNIX_EPOCH + Duration::from_secs(srv_start), "{}", capture.name);
                let responsible = network.responsible_hsdirs(&observed.blinded, period);
                let relays: Vec<_> = responsible.iter().map(|placement| placement.relay).collect();
                let uploaded: Vec<_> = observed.hsdirs.iter().map(|hsdir| hsdir.0).collect();
                assert_eq!(relays, uploaded, "{}", capture.name);
                (period.clone(), responsible)
            }
            Action::Fetch => {
                let period = network.client_period();
                let responsible = network.fetch_hsdirs(&observed.blinded, &period);
                (period, responsible)
            }
        };
        for (relay, index) in &observed.hsdirs {
            assert!(responsible.iter().any(|placement| placement.relay == *relay), "{}: {relay}", capture.name);
            let hsdir = network.hsdirs.iter().find(|hsdir| hsdir.fingerprint == *relay).unwrap();
            assert_eq!(hsdir_index(hsdir, &period.shared_random, period.period), *index, "{}", capture.name);
        }
    }
}

#[test]
fn matches_the_uploads_and_fetches_of_c_tor() {
    for capture in captures() {
        let uploads = capture.observed.iter().filter(|observed| matches!(observed.action, Action::Upload { .. }));
        assert_eq!(uploads.map(|observed| observed.hsdirs.len()).collect::<Vec<_>>(), [8, 8], "{}", capture.name);
        assert!(capture.observed.iter().any(|observed| observed.action == Action::Fetch), "{}", capture.name);
        assert_agrees(&capture);
    }
}

/// The number and length of each period must be those with which C tor blinded the address.
#[test]
fn matches_the_blinded_keys_of_c_tor() {
    for capture in captures() {
        let network = parse(&capture);
        for observed in &capture.observed {
            let period = match observed.action {
                Action::Upload { descriptor, .. } => network.service_periods()[descriptor].period,
                Action::Fetch => network.client_period().period,
            };
            let address: crate::onion::OnionAddress = observed.address.parse().unwrap();
            assert_eq!(address.blind(period), observed.blinded, "{}", capture.name);
        }
    }
}

#[test]
fn clients_fetch_the_current_period_until_the_next_begins() {
    let [before, between, _] = captures().map(|capture| parse(&capture));
    assert_eq!(before.client_period(), before.service_periods()[0]);
    assert_eq!(between.client_period(), between.service_periods()[1]);
    assert_eq!(before.service_periods(), between.service_periods());
}

#[test]
fn a_missing_shared_random_value_is_replaced_by_the_periods_disaster_value() {
    let [capture, ..] = captures();
    let without: Vec<_> =
        capture.consensus.split_inclusive('\n').filter(|line| !line.starts_with("shared-rand-")).collect();
    let network = Network::parse(&without.concat(), &capture.microdescriptors, NetworkKind::Testing).unwrap();
    for period in network.service_periods() {
        assert_eq!(period.shared_random, disaster_shared_random(period.period));
    }
}

#[test]
fn the_public_network_uses_the_period_length_of_the_consensus() {
    let [capture, ..] = captures();
    let network = |consensus: &str| Network::parse(consensus, &capture.microdescriptors, NetworkKind::Public).unwrap();
    assert_eq!(network(&capture.consensus).client_period().period.length_minutes, 1440);
    let short = capture.consensus.replacen("\nr ", "\nparams hsdir_interval=60\nr ", 1);
    assert_eq!(network(&short).client_period().period.length_minutes, 60);
}

#[test]
fn an_hsdir_without_a_microdescriptor_is_counted_but_not_on_the_ring() {
    let [capture, ..] = captures();
    let (first, rest) = capture.microdescriptors.split_at(capture.microdescriptors.find("\nonion-key").unwrap() + 1);
    assert!(first.contains("id ed25519"));
    let network = Network::parse(&capture.consensus, rest, NetworkKind::Testing).unwrap();
    assert_eq!(network.hsdir_count(), (17, 1));
    assert_eq!(parse(&capture).hsdir_count(), (17, 0));

    let blinded = capture.observed[0].blinded;
    let gone = parse(&capture)
        .hsdirs
        .into_iter()
        .find(|hsdir| network.hsdirs.iter().all(|h| h.fingerprint != hsdir.fingerprint));
    let gone = gone.unwrap().fingerprint;
    for period in network.service_periods() {
        assert!(network.responsible_hsdirs(&blinded, &period).iter().all(|placement| placement.relay != gone));
    }
}

#[test]
fn validity_returns_the_times_of_the_consensus() {
    let [capture, ..] = captures();
    let times = parse(&capture).validity().map(|time| jiff::Timestamp::try_from(time).unwrap().to_string());
    for (keyword, time) in ["valid-after", "fresh-until", "valid-until"].into_iter().zip(times) {
        let line = format!("\n{keyword} {}\n", time.replace('T', " ").replace('Z', ""));
        assert!(capture.consensus.contains(&line), "{line}");
    }
}

#[test]
fn rejects_times_that_are_not_in_ascending_order() {
    let [capture, ..] = captures();
    let valid_until = capture.consensus.lines().find(|line| line.starts_with("valid-until")).unwrap();
    let early = capture.consensus.replacen(valid_until, "valid-until 2000-01-01 00:00:00", 1);
    let network = Network::parse(&early, &capture.microdescriptors, NetworkKind::Testing);
    assert_eq!(network.unwrap_err(), ConsensusError::Schedule);
}

#[test]
fn parses_a_generated_network_of_the_public_networks_size() {
    let plan = onionbalance_testnet::Plan { relays: 9000, one_microdescriptor_missing_in: 100, ..Default::default() };
    let texts = plan.generate();
    let network = Network::parse(&texts.consensus, &texts.all_microdescriptors(), NetworkKind::Public).unwrap();
    assert_eq!(network.hsdir_count(), (6750, 90));
    assert_eq!(network.validity()[0], std::time::UNIX_EPOCH + std::time::Duration::from_secs(plan.valid_after));
    let period = network.client_period();
    assert_eq!(network.responsible_hsdirs(&crate::onion::BlindedPublicKey([1; 32]), &period).len(), 8);
}
