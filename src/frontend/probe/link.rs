//! The publisher's access to the prober.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::ProbeReport;
use crate::consensus::{Fingerprint, Network};
use crate::crd::AddressProbe;
use crate::frontend::tor::{FetchError, TorOrders};
use crate::onion::descriptor::MAX_AUTHORIZED_CLIENTS;
use crate::onion::{ClientPublicKey, Discovery, OnionAddress};

/// The answer of an HSDir to a request for the service's own descriptor.
pub(super) type Fetched = (Fingerprint, Result<Arc<str>, FetchError>);

/// What the prober needs to know from the publisher.
#[derive(Debug, Clone, Default)]
pub(in crate::frontend) struct Assignment {
    /// The settings. None while there is nothing to probe: the probe is switched off, another
    /// publisher leads, or nothing has been published.
    pub(in crate::frontend) probe: Option<AddressProbe>,
    /// The ports of the onion address.
    pub(in crate::frontend) ports: Vec<u16>,
    /// The access to tor. None while there is no connection to a bootstrapped tor.
    pub(in crate::frontend) tor: Option<TorOrders>,
    pub(in crate::frontend) network: Option<Arc<Network>>,
    /// How the probe can read the descriptor.
    pub(in crate::frontend) access: Access,
}

impl Assignment {
    /// Returns true if nothing that the prober should notice has changed.
    fn same(&self, other: &Self) -> bool {
        let same_network = match (&self.network, &other.network) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (one, another) => one.is_none() && another.is_none(),
        };
        let same_tor = match (&self.tor, &other.tor) {
            (Some(one), Some(another)) => one.same_connection(another),
            (one, another) => one.is_none() && another.is_none(),
        };
        same_network
            && same_tor
            && (&self.probe, &self.ports, self.access) == (&other.probe, &other.ports, other.access)
    }
}

/// How the probe can read the descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::frontend) enum Access {
    /// Every client can read the descriptor.
    #[default]
    Open,
    /// The probe's client key is among the authorized clients.
    Key,
    /// The probe cannot read the descriptor, because the authorized clients fill it.
    Full,
}

/// The publisher's side of the probe.
pub(in crate::frontend) struct ProbeLink {
    address: OnionAddress,
    client: ClientPublicKey,
    access: Access,
    assign: watch::Sender<Assignment>,
    answers: mpsc::Sender<Fetched>,
    reports: watch::Receiver<ProbeReport>,
}

impl ProbeLink {
    pub(super) fn new(
        address: OnionAddress,
        client: ClientPublicKey,
        assign: watch::Sender<Assignment>,
        answers: mpsc::Sender<Fetched>,
        reports: watch::Receiver<ProbeReport>,
    ) -> Self {
        Self { address, client, access: Access::Open, assign, answers, reports }
    }

    /// Adds the probe's own client to the authorized clients if discovery is restricted and `is_on`
    /// says that the probe is switched on. Nothing is added to a full descriptor: the clients of
    /// the service come first.
    pub(in crate::frontend) fn admit(&mut self, discovery: Option<Discovery>, is_on: bool) -> Option<Discovery> {
        self.access = Access::Open;
        match discovery {
            Some(Discovery::Restricted(mut clients)) if is_on => {
                self.access = Access::Full;
                if clients.len() < MAX_AUTHORIZED_CLIENTS && clients.insert(self.client) {
                    self.access = Access::Key;
                }
                Some(Discovery::Restricted(clients))
            }
            other => other,
        }
    }

    /// Returns the number of authorized clients that [`Self::admit`] has added.
    pub(in crate::frontend) fn own_clients(&self) -> usize {
        usize::from(self.access == Access::Key)
    }

    /// Tells the prober what to probe.
    pub(in crate::frontend) fn assign(&self, assignment: Assignment) {
        let assignment = Assignment { access: self.access, ..assignment };
        self.assign.send_if_modified(|known| {
            let changed = !known.same(&assignment);
            *known = assignment;
            changed
        });
    }

    /// Returns true if the prober may have fetched the descriptor of this address.
    pub(in crate::frontend) fn is_of(&self, address: OnionAddress) -> bool {
        address == self.address
    }

    /// Passes the answer of an HSDir to the prober.
    pub(in crate::frontend) fn fetched(&self, hsdir: Fingerprint, result: Result<Arc<str>, FetchError>) {
        // A full channel means that the prober no longer waits for these answers.
        _ = self.answers.try_send((hsdir, result));
    }

    /// Waits until a probe has ended.
    pub(in crate::frontend) async fn changed(&mut self) {
        if self.reports.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the results of the last probes.
    pub(in crate::frontend) fn report(&self) -> ProbeReport {
        self.reports.borrow().clone()
    }
}
