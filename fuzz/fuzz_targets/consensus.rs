//! Fuzzes the microdescriptor consensus, together with the microdescriptors of a private network.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::consensus::{Network, NetworkKind};
use onionbalance_operator::onion::BlindedPublicKey;

const MICRODESCRIPTORS: &str = include_str!("../../src/consensus/testdata/tornet.microdescriptors");

fuzz_target!(|text: &str| {
    for kind in [NetworkKind::Public, NetworkKind::Testing] {
        let Ok(network) = Network::parse(text, MICRODESCRIPTORS, kind) else { continue };
        let (hsdirs, missing) = network.hsdir_count();
        let [current, next] = network.service_periods();
        assert_eq!(next.period.number, current.period.number + 1);
        assert!([current.period, next.period].contains(&network.client_period().period));
        for period in [current, next] {
            let placements = network.responsible_hsdirs(&BlindedPublicKey([1; 32]), &period);
            let relays: BTreeSet<_> = placements.iter().map(|placement| placement.relay).collect();
            assert_eq!(relays.len(), placements.len());
            assert!(relays.len() <= hsdirs - missing);
        }
    }
});
