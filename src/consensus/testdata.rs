//! Captures from a private network of C tor 0.4.9.11 (17 relays, voting rounds of 20 s), taken from
//! the control port of one node.
//!
//! An `.observed` file records the uploads and fetches of that tor under one consensus. All values
//! that are not from `HS_DESC` events are from tor's log:
//!
//! ```text
//! upload (current|next) ADDRESS BLINDED-KEY PERIOD-NUMBER SRV-START    HS_DESC UPLOAD events
//! fetch ADDRESS BLINDED-KEY                                            HS_DESC REQUESTED events,
//!                                                                      for HSDirs tor picks
//!                                                                      at random
//!   FINGERPRINT HSDIR-INDEX                                            one line per HSDir, in
//!                                                                      the order of the events
//! ```

use data_encoding::{BASE64_NOPAD, HEXUPPER};

use super::Fingerprint;
use crate::onion::BlindedPublicKey;

/// A consensus and tor's behavior under that consensus. All captures share the same
/// microdescriptors.
pub(super) struct Capture {
    pub(super) name: String,
    pub(super) consensus: String,
    pub(super) microdescriptors: String,
    pub(super) observed: Vec<ObservedDescriptor>,
}

/// The HSDirs of one descriptor and their indexes, as observed.
#[derive(Debug)]
pub(super) struct ObservedDescriptor {
    pub(super) action: Action,
    pub(super) address: String,
    pub(super) blinded: BlindedPublicKey,
    pub(super) hsdirs: Vec<(Fingerprint, [u8; 32])>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// An upload of the descriptor with index `descriptor`: 0 is C tor's current descriptor and 1
    /// its next one.
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
        /// Returns one consensus from each half of a shared random value's lifetime, and one with
        /// the network's first shared random value.
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
        let mut list: Vec<ObservedDescriptor> = Vec::new();
        for line in observed.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["upload", which, address, blinded, number, srv_start] => {
                    let descriptor = ["current", "next"].iter().position(|name| *name == which).unwrap();
                    let (period_number, srv_start) = (number.parse().unwrap(), srv_start.parse().unwrap());
                    list.push(ObservedDescriptor::new(
                        Action::Upload { descriptor, period_number, srv_start },
                        address,
                        blinded,
                    ));
                }
                ["fetch", address, blinded] => list.push(ObservedDescriptor::new(Action::Fetch, address, blinded)),
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

impl ObservedDescriptor {
    fn new(action: Action, address: &str, blinded: &str) -> Self {
        let blinded = BlindedPublicKey(BASE64_NOPAD.decode(blinded.as_bytes()).unwrap().try_into().unwrap());
        Self { action, address: address.to_owned(), blinded, hsdirs: Vec::new() }
    }
}
