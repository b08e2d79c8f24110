//! Helpers for the tests of this directory, and a simulated tor for the tests of publishers.

use tokio::sync::mpsc;

use super::{Order, TorOrders};
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

/// A simulated tor, which receives the orders of one service and does nothing.
pub(in crate::frontend) struct TestTor(mpsc::Receiver<(OnionAddress, Order)>);

impl TestTor {
    /// Creates the simulated tor, and the service's access to it.
    pub(in crate::frontend) fn new(service: OnionAddress) -> (Self, TorOrders) {
        let (orders, receiver) = mpsc::channel(1024);
        (Self(receiver), TorOrders { service, orders })
    }

    /// Waits for the next upload and returns its HSDir.
    pub(in crate::frontend) async fn upload(&mut self) -> Fingerprint {
        loop {
            if let (_, Order::Upload(upload)) = self.0.recv().await.expect("the publisher has ended") {
                return upload.hsdir;
            }
        }
    }

    /// Waits for the next fetch and returns its HSDir. Other orders are dropped.
    pub(in crate::frontend) async fn fetch(&mut self) -> Fingerprint {
        loop {
            if let (_, Order::Fetch(fetch)) = self.0.recv().await.expect("the probe has ended") {
                return fetch.hsdir;
            }
        }
    }

    /// Returns true if an order is waiting.
    pub(in crate::frontend) fn has_order(&self) -> bool {
        !self.0.is_empty()
    }
}
