//! What a private network of C tor 0.4.9.11 did (17 relays, a voting round of 20 s), captured at one node's control port.
//!
//! An `.observed` file tells what that tor did with that very consensus:
//!
//! ```text
//! upload (current|next) ADDRESS BLINDED-KEY PERIOD-NUMBER SRV-START     events HS_DESC UPLOAD; the rest from its log
//! fetch ADDRESS BLINDED-KEY                                             events HS_DESC REQUESTED: random ones of all
//!   FINGERPRINT HSDIR-INDEX                                             one line for each HSDir, in the order of events
//! ```

use data_encoding::{BASE64_NOPAD, HEXUPPER};

use super::Fingerprint;
use crate::onion::BlindedPublicKey;

/// A consensus, and what tor did with it. All captures have the same microdescriptors.
pub(super) struct Capture {
    pub(super) name: String,
    pub(super) consensus: String,
    pub(super) microdescriptors: String,
    pub(super) observed: Vec<Observed>,
}

/// The HSDirs of one descriptor, and their indexes.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) action: Action,
    pub(super) address: String,
    pub(super) blinded: BlindedPublicKey,
    pub(super) hsdirs: Vec<(Fingerprint, [u8; 32])>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// `descriptor`: 0 for C tor's current one, 1 for its next.
    Upload {
        descriptor: usize,
        period_number: u64,
        srv_start: u64,
    },
    Fetch,
}

pub(super) const MICRODESCRIPTORS: &str = include_str!("testdata/tornet.microdescriptors");

macro_rules! captures {
    ($($name:literal),*) => {
        /// One consensus of each half of a shared random value's life, and one of the network's first value.
        pub(super) fn captures() -> [Capture; 3] {
            [$(Capture::new(
                $name,
                include_str!(concat!("testdata/", $name, ".consensus")),
                MICRODESCRIPTORS,
                include_str!(concat!("testdata/", $name, ".observed")),
            )),*]
        }
    };
}
captures!("tornet-before-period", "tornet-between-period-and-srv", "tornet-no-previous-value");

impl Capture {
    pub(super) fn new(name: &str, consensus: &str, microdescriptors: &str, observed: &str) -> Self {
        let mut list: Vec<Observed> = Vec::new();
        for line in observed.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["upload", which, address, blinded, number, srv_start] => {
                    let descriptor = ["current", "next"].iter().position(|name| *name == which).unwrap();
                    let (period_number, srv_start) = (number.parse().unwrap(), srv_start.parse().unwrap());
                    list.push(Observed::new(Action::Upload { descriptor, period_number, srv_start }, address, blinded));
                }
                ["fetch", address, blinded] => list.push(Observed::new(Action::Fetch, address, blinded)),
                [relay, index] => {
                    let index = HEXUPPER.decode(index.as_bytes()).unwrap().try_into().unwrap();
                    list.last_mut().unwrap().hsdirs.push((relay.parse().unwrap(), index));
                }
                _ => panic!("{name}: {line}"),
            }
        }
        Self {
            name: name.to_owned(),
            consensus: consensus.to_owned(),
            microdescriptors: microdescriptors.to_owned(),
            observed: list,
        }
    }
}

impl Observed {
    fn new(action: Action, address: &str, blinded: &str) -> Self {
        let blinded = BlindedPublicKey(BASE64_NOPAD.decode(blinded.as_bytes()).unwrap().try_into().unwrap());
        Self { action, address: address.to_owned(), blinded, hsdirs: Vec::new() }
    }
}
