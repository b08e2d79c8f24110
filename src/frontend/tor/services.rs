//! Those that the connection serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::News;
use crate::consensus::{Fingerprint, Network};
use crate::onion::OnionAddress;

type Voice = mpsc::Sender<News>;

/// Registers services; clones share the connection.
#[derive(Debug, Clone)]
pub(in crate::frontend) struct Registry(mpsc::UnboundedSender<(OnionAddress, Voice)>);

impl Registry {
    /// From now on `news` is told what concerns the service; until its receiver is dropped, or the same address is registered
    /// anew.
    pub(in crate::frontend) fn register(&self, service: OnionAddress, news: Voice) {
        // A connection's task that is gone ends the program; nobody needs to learn it here.
        _ = self.0.send((service, news));
    }
}

/// The registered services, and what newcomers must be told.
#[derive(Debug)]
pub(super) struct Services {
    new: mpsc::UnboundedReceiver<(OnionAddress, Voice)>,
    known: BTreeMap<OnionAddress, Voice>,
    /// The newest. It outlives a connection.
    pub(super) network: Option<Arc<Network>>,
}

impl Services {
    pub(super) fn new() -> (Self, Registry) {
        let (registry, new) = mpsc::unbounded_channel();
        (Self { new, known: BTreeMap::new(), network: None }, Registry(registry))
    }

    /// Waits for a registration, and takes it in.
    pub(super) async fn next(&mut self) -> OnionAddress {
        let Some((service, voice)) = self.new.recv().await else { return std::future::pending().await };
        self.known.insert(service, voice);
        service
    }

    /// Nobody listens, and nobody can come.
    pub(super) fn nobody_is_left(&mut self) -> bool {
        self.known.retain(|_, voice| !voice.is_closed());
        self.known.is_empty() && self.new.is_closed() && self.new.is_empty()
    }

    /// Who listens no more is told nothing.
    pub(super) async fn tell(&mut self, service: OnionAddress, news: News) {
        if let Some(voice) = self.known.get(&service)
            && voice.send(news).await.is_err()
        {
            self.known.remove(&service);
        }
    }

    pub(super) async fn tell_all(&mut self, news: impl Fn(OnionAddress) -> News) {
        for service in self.known.keys().copied().collect::<Vec<_>>() {
            self.tell(service, news(service)).await;
        }
    }

    pub(super) async fn tell_fetched(
        &mut self,
        askers: BTreeSet<OnionAddress>,
        address: OnionAddress,
        hsdir: Fingerprint,
        result: &Result<Arc<str>, String>,
    ) {
        for service in askers {
            self.tell(service, News::Fetched { address, hsdir, result: result.clone() }).await;
        }
    }
}
