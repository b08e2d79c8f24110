//! The services that share the connection to tor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{FetchError, TorNews};
use crate::consensus::{Fingerprint, Network};
use crate::onion::OnionAddress;

type NewsSender = mpsc::Sender<TorNews>;

/// A handle for registering services with the tor connection. Clones share the connection.
#[derive(Debug, Clone)]
pub(in crate::frontend) struct Registry(mpsc::UnboundedSender<(OnionAddress, NewsSender)>);

impl Registry {
    /// Registers a service. Its news is sent to `news` until the receiver is dropped or the same
    /// address is registered again.
    pub(in crate::frontend) fn register(&self, service: OnionAddress, news: NewsSender) {
        // An error means that the connection's task has ended, which ends the program.
        _ = self.0.send((service, news));
    }
}

/// The services that are registered with the tor connection.
#[derive(Debug)]
pub(super) struct Services {
    new: mpsc::UnboundedReceiver<(OnionAddress, NewsSender)>,
    known: BTreeMap<OnionAddress, NewsSender>,
    /// The newest network, for services that are registered later. It outlives the connection.
    pub(super) network: Option<Arc<Network>>,
}

impl Services {
    /// Creates an empty set of services, and the handle that registers them.
    pub(super) fn new() -> (Self, Registry) {
        let (registry, new) = mpsc::unbounded_channel();
        (Self { new, known: BTreeMap::new(), network: None }, Registry(registry))
    }

    /// Waits for the next registration and returns the address of the service.
    pub(super) async fn next(&mut self) -> OnionAddress {
        let Some((service, news)) = self.new.recv().await else { return std::future::pending().await };
        self.known.insert(service, news);
        service
    }

    /// Returns the addresses of all services.
    pub(super) fn addresses(&self) -> Vec<OnionAddress> {
        self.known.keys().copied().collect()
    }

    /// Returns the number of services.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Returns true if no service remains and none can be registered.
    pub(super) fn is_idle(&mut self) -> bool {
        self.known.retain(|_, news| !news.is_closed());
        self.known.is_empty() && self.new.is_closed() && self.new.is_empty()
    }

    /// Sends news to one service. Removes the service if its receiver has been dropped.
    pub(super) async fn send(&mut self, service: OnionAddress, news: TorNews) {
        if let Some(sender) = self.known.get(&service)
            && sender.send(news).await.is_err()
        {
            self.known.remove(&service);
        }
    }

    /// Sends news to all services.
    pub(super) async fn send_all(&mut self, news: impl Fn(OnionAddress) -> TorNews) {
        for service in self.addresses() {
            self.send(service, news(service)).await;
        }
    }

    /// Sends the result of a fetch to the services that requested it.
    pub(super) async fn send_fetched(
        &mut self,
        services: BTreeSet<OnionAddress>,
        address: OnionAddress,
        hsdir: Fingerprint,
        result: &Result<Arc<str>, FetchError>,
    ) {
        for service in services {
            self.send(service, TorNews::Fetched { address, hsdir, result: result.clone() }).await;
        }
    }
}
