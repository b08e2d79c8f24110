//! Helpers shared by the tests of this directory.

use crate::consensus::Fingerprint;
use crate::control::{HsDescAction, HsDescEvent};
use crate::onion::OnionAddress;

/// Returns one of three onion addresses.
pub(super) fn address(index: usize) -> OnionAddress {
    let addresses = [
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid",
        "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd",
        "kwbperink5onhynsd5lhxhx2snk6qrmbn2lfrkz7kkwcapy5qzwrhnid",
    ];
    addresses[index].parse().unwrap()
}

/// Returns an `HS_DESC` event.
pub(super) fn event(
    action: HsDescAction,
    address: Option<OnionAddress>,
    hsdir: Fingerprint,
    reason: Option<&str>,
) -> HsDescEvent {
    HsDescEvent { action, address, hsdir: Some(hsdir.0), descriptor_id: None, reason: reason.map(str::to_owned) }
}
