//! Drives one onion service: its merge engine, the fetches for its external backends, and its
//! access to tor.
//!
//! The publisher in a frontend pod and each service of the stand-alone daemon own a driver. They
//! pass all inputs to the driver and then call [`Driver::carry_out`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::check;
use super::external::ExternalBackends;
use super::metrics::Counts;
use super::tor::{Fetch, FetchError, TorNews, TorOrders, Upload};
use crate::consensus::{Fingerprint, Network};
use crate::merge::{BackendId, Input, MergeEngine, Now, Output, Status};
use crate::onion::{OnionAddress, ServiceContent, ServiceKey, TimePeriod};

/// The driver of one onion service.
pub(super) struct Driver {
    engine: MergeEngine,
    external: ExternalBackends,
    network: Option<Arc<Network>>,
    /// The access to tor. None while there is no connection to a bootstrapped tor.
    tor: Option<TorOrders>,
    counts: Counts,
    /// The HSDirs that the engine has asked to look at. The publisher's probe fetches the same
    /// descriptor from HSDirs, but at times when a new leader may not know the newest revision
    /// counter of its predecessor yet.
    looks: BTreeSet<Fingerprint>,
}

/// An external backend and the content of its newly fetched descriptor.
pub(super) type Found = (OnionAddress, Arc<ServiceContent>);

impl Driver {
    /// Creates a driver for a new engine.
    pub(super) fn new(engine: MergeEngine, external: ExternalBackends) -> Self {
        Self { engine, external, network: None, tor: None, counts: Counts::default(), looks: BTreeSet::new() }
    }

    /// Passes an input to the engine.
    pub(super) fn handle(&mut self, input: Input, now: Now) {
        self.engine.handle(input, now);
    }

    /// Adopts a key of the same service that covers more time periods, and publishes for those that
    /// could not be published before.
    pub(super) fn set_key(&mut self, key: ServiceKey, now: Now) {
        self.engine.handle(Input::Key(key), now);
        if let Some(network) = self.network.clone() {
            self.engine.handle(Input::Network(network), now);
        }
    }

    /// Returns the external backends of the service.
    pub(super) fn external(&mut self) -> &mut ExternalBackends {
        &mut self.external
    }

    /// Processes news from tor. Returns the descriptor of an external backend if the news contains
    /// one.
    pub(super) fn take_news(&mut self, news: TorNews, now: Now) -> Option<Found> {
        match news {
            TorNews::Up(orders) => {
                self.external.set_tor(Some(orders.clone()), now);
                self.tor = Some(orders);
                self.engine.handle(Input::TorRestarted, now);
            }
            TorNews::Down => {
                self.external.set_tor(None, now);
                self.tor = None;
                self.looks.clear();
            }
            TorNews::Network(network) => {
                self.network = Some(network.clone());
                self.external.set_network(network.clone(), now);
                self.engine.handle(Input::Network(network), now);
            }
            TorNews::Uploaded(hsdir, result) => {
                self.counts.uploaded(&result);
                match &result {
                    Ok(()) => tracing::debug!(%hsdir, "uploaded"),
                    Err(error) => tracing::info!(%hsdir, reason = error.to_string(), "an upload failed"),
                }
                self.engine.handle(Input::Uploaded { hsdir, result }, now);
            }
            TorNews::Fetched { address, hsdir, result } if address == self.engine.address() => {
                if self.looks.remove(&hsdir) {
                    self.compare(hsdir, result, now);
                }
            }
            TorNews::Fetched { address, hsdir, result } => {
                return self.external.fetched(address, hsdir, result, now).map(|content| (address, content));
            }
        }
        None
    }

    /// Passes the descriptor of this service that an HSDir holds to the engine, which detects other
    /// publishers with the same key by it.
    fn compare(&mut self, hsdir: Fingerprint, result: Result<Arc<str>, FetchError>, now: Now) {
        let (Ok(text), Some(network)) = (result, &self.network) else { return };
        match check::counter(&text, &self.engine.address(), network, now.wall) {
            Ok((period, counter)) => self.engine.handle(Input::Found(period, counter), now),
            Err(error) => {
                tracing::info!(%hsdir, reason = error.to_string(), "an HSDir holds no valid descriptor of ours");
            }
        }
    }

    /// Carries out all work that is due. Returns the revision counters of new descriptors, by time
    /// period.
    pub(super) fn carry_out(&mut self, now: Now) -> Vec<(TimePeriod, u64)> {
        let mut counters = Vec::new();
        for input in self.external.carry_out(now) {
            self.engine.handle(input, now);
        }
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Upload { hsdir, period, descriptor } => {
                    tracing::debug!(%hsdir, period = period.number, bytes = descriptor.len(), "uploading");
                    let upload = Upload { hsdir, descriptor, ordered: now };
                    // Without a connection, the upload gets no result. `TorRestarted` cancels it
                    // later.
                    if self.tor.as_ref().is_some_and(|tor| !tor.upload(upload)) {
                        tracing::debug!(%hsdir, "could not queue an upload");
                    }
                }
                Output::Look(hsdir) => {
                    let fetch = Fetch { address: self.engine.address(), hsdir };
                    if self.tor.as_ref().is_some_and(|tor| tor.fetch(fetch)) {
                        self.looks.insert(hsdir);
                    } else {
                        tracing::debug!(%hsdir, "could not queue a fetch of our own descriptor");
                    }
                }
                Output::StoreCounter(period, counter) => {
                    self.counts.rounds += 1;
                    tracing::info!(period = period.number, counter, "publishing a new descriptor");
                    counters.push((period, counter));
                }
            }
        }
        counters
    }

    /// Returns the monotonic time at which [`Input::Tick`] and [`Self::carry_out`] are due.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        [self.engine.poll_timeout(), self.external.poll_timeout()].into_iter().flatten().min()
    }

    /// Returns the state of the merge engine.
    pub(super) fn status(&self) -> Status {
        self.engine.status()
    }

    /// Returns the newest network, or None before the first consensus has been read from tor.
    pub(super) fn network(&self) -> Option<&Arc<Network>> {
        self.network.as_ref()
    }

    /// Returns the access to tor, or None while there is no connection to a bootstrapped tor.
    pub(super) fn tor(&self) -> Option<&TorOrders> {
        self.tor.as_ref()
    }

    /// Returns true while there is a connection to a bootstrapped tor.
    pub(super) fn has_tor(&self) -> bool {
        self.tor.is_some()
    }

    /// Returns true if clients can no longer find any introduction point of the backend. Returns
    /// false without tor, because nothing is uploaded then. An upload whose deadline passes in the
    /// meantime does not complete a withdrawal.
    pub(super) fn is_withdrawn(&self, id: &BackendId) -> bool {
        self.has_tor() && self.engine.withdrawn(id)
    }

    /// Returns the numbers of uploads, fetches and descriptors so far.
    pub(super) fn counts(&self) -> Counts {
        Counts { fetches: self.external.fetches(), ..self.counts }
    }
}
