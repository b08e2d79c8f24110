//! Fuzzes microdescriptors, together with the consensus of a private network.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::consensus::{Network, NetworkKind};

const CONSENSUS: &str = include_str!("../../src/consensus/testdata/tornet-before-period.consensus");

fuzz_target!(|text: &str| {
    if let Ok(network) = Network::parse(CONSENSUS, text, NetworkKind::Testing) {
        let (hsdirs, missing) = network.hsdir_count();
        assert!(missing <= hsdirs);
    }
});
