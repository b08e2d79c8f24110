//! The loop of one service: it owns the merge engine and the polling of the instances, and carries out what they decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::status::{InstanceView, View};
use crate::consensus::{Fingerprint, Network};
use crate::frontend::clock::Clock;
use crate::frontend::tor::{Fetch, News, Orders, Upload};
use crate::merge::{BackendId, ExternalInput, ExternalOutput, Externals, Input, MergeEngine, Output, Sighting};
use crate::onion::{OnionAddress, ServiceContent, TimePeriod, UncheckedDescriptor};

/// The loop turns at least so often.
const TURN: Duration = Duration::from_secs(60);

pub(super) struct Service {
    engine: MergeEngine,
    externals: Externals,
    clock: Clock,
    news: mpsc::Receiver<News>,
    instances: watch::Receiver<Vec<OnionAddress>>,
    view: watch::Sender<View>,
    network: Option<Arc<Network>>,
    /// None without a connection to tor.
    orders: Option<Orders>,
    seen: BTreeMap<OnionAddress, Seen>,
}

/// What was fetched of an instance, for the status.
struct Seen {
    received: SystemTime,
    modified: SystemTime,
    content: Arc<ServiceContent>,
}

impl Service {
    pub(super) fn new(
        engine: MergeEngine,
        externals: Externals,
        clock: Clock,
        news: mpsc::Receiver<News>,
        instances: watch::Receiver<Vec<OnionAddress>>,
        view: watch::Sender<View>,
    ) -> Self {
        let seen = BTreeMap::new();
        Self { engine, externals, clock, news, instances, view, network: None, orders: None, seen }
    }

    /// Runs until it is dropped. What is published stays.
    pub(super) async fn run(mut self) {
        // Nobody else publishes for this key: there is no Lease to wait for.
        self.engine.handle(Input::Leading(true), self.clock.now());
        self.take_instances();
        loop {
            self.carry_out();
            self.tell();
            let wait = self.wait();
            tokio::select! {
                () = sleep(wait) => {
                    let now = self.clock.now();
                    self.engine.handle(Input::Tick, now);
                    self.externals.handle(ExternalInput::Tick, now);
                }
                Ok(()) = self.instances.changed() => self.take_instances(),
                Some(news) = self.news.recv() => self.hear(news),
                else => return,
            }
        }
    }

    fn take_instances(&mut self) {
        let addresses = self.instances.borrow_and_update().iter().copied().collect();
        self.seen.retain(|address, _| self.instances.borrow().contains(address));
        self.externals.handle(ExternalInput::Backends(addresses), self.clock.now());
    }

    fn hear(&mut self, news: News) {
        let now = self.clock.now();
        match news {
            News::Up(orders) => {
                self.orders = Some(orders);
                self.engine.handle(Input::TorRestarted, now);
                self.externals.handle(ExternalInput::Tor(true), now);
            }
            News::Down => {
                self.orders = None;
                self.externals.handle(ExternalInput::Tor(false), now);
            }
            News::Network(network) => {
                self.network = Some(network.clone());
                self.engine.handle(Input::Network(network.clone()), now);
                self.externals.handle(ExternalInput::Network(network), now);
            }
            News::Uploaded(hsdir, result) => {
                match &result {
                    Ok(()) => tracing::debug!(%hsdir, "uploaded"),
                    Err(reason) => tracing::info!(%hsdir, reason, "an upload failed"),
                }
                self.engine.handle(Input::Uploaded { hsdir, result }, now);
            }
            News::Fetched { address, hsdir, result } => self.fetched(address, hsdir, result),
        }
    }

    fn fetched(&mut self, address: OnionAddress, hsdir: Fingerprint, result: Result<Arc<str>, String>) {
        let now = self.clock.now();
        let network = self.network.as_deref().ok_or_else(|| "there is no consensus".to_owned());
        let found = result.and_then(|text| sighting(&text, &address, network?, now.wall));
        match &found {
            Ok(found) => self.saw(address, found, now.wall),
            Err(reason) => tracing::debug!(instance = %address, %hsdir, reason, "no descriptor of the instance"),
        }
        self.externals.handle(ExternalInput::Fetched { address, hsdir, found: found.ok() }, now);
    }

    fn saw(&mut self, address: OnionAddress, found: &Sighting, now: SystemTime) {
        if !self.instances.borrow().contains(&address) {
            return;
        }
        let content = found.content.clone();
        let seen = self.seen.entry(address);
        let seen = seen.or_insert_with(|| Seen { received: now, modified: now, content: content.clone() });
        if seen.content != content {
            seen.modified = now;
        }
        (seen.received, seen.content) = (now, content);
    }

    fn carry_out(&mut self) {
        let now = self.clock.now();
        while let Some(output) = self.externals.poll_output() {
            match output {
                ExternalOutput::Fetch(address, hsdir) => {
                    let handed = self.orders.as_ref().is_some_and(|orders| orders.fetch(Fetch { address, hsdir }));
                    if !handed && self.orders.is_some() {
                        // It has no end, so it is told one.
                        self.externals.handle(ExternalInput::Fetched { address, hsdir, found: None }, now);
                    }
                }
                ExternalOutput::Backend(address, content) => {
                    tracing::info!(instance = %address, points = content.introduction_points.len(), "the instance's points");
                    self.engine.handle(Input::Backend(BackendId(address.to_string()), content), now);
                }
                ExternalOutput::Lost(address) => {
                    tracing::info!(instance = %address, "the instance does not count any more");
                    self.engine.handle(Input::BackendLost(BackendId(address.to_string())), now);
                }
            }
        }
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Upload { hsdir, descriptor, .. } => {
                    let upload = Upload { hsdir, descriptor, ordered: now };
                    if let Some(orders) = &self.orders
                        && !orders.upload(upload)
                    {
                        tracing::debug!(%hsdir, "cannot hand an upload over");
                    }
                }
                Output::StoreCounter(period, counter) => {
                    tracing::info!(period = period.number, counter, "publishing a descriptor");
                }
            }
        }
    }

    fn tell(&self) {
        let status = self.engine.status();
        let published = |period: TimePeriod| {
            status.periods.iter().find(|status| status.period == period).map(|status| status.last_published)
        };
        let periods = self.network.as_ref().map(|network| network.service_periods().map(|service| service.period));
        let attempts = periods.map_or([None, None], |periods| periods.map(published));
        let instance = |address: &OnionAddress| InstanceView {
            address: *address,
            seen: self
                .seen
                .get(address)
                .map(|seen| (seen.received, seen.modified, seen.content.introduction_points.len())),
        };
        let instances: Vec<_> = self.instances.borrow().iter().map(instance).collect();
        self.view.send_modify(|view| (view.attempts, view.instances) = (attempts, instances));
    }

    fn wait(&self) -> Duration {
        let due = [self.engine.poll_timeout(), self.externals.poll_timeout()].into_iter().flatten().min();
        due.map_or(TURN, |due| due.saturating_sub(self.clock.now().elapsed)).min(TURN)
    }
}

/// Opens an instance's descriptor, if it is signed for a period that is near and everything in it checks.
fn sighting(text: &str, address: &OnionAddress, network: &Network, now: SystemTime) -> Result<Sighting, String> {
    let unchecked = UncheckedDescriptor::parse(text).map_err(|error| error.to_string())?;
    let current = network.client_period().period;
    let near = [current.number, current.number.saturating_sub(1), current.number.saturating_add(1)];
    let claimed = unchecked.blinded_key();
    let mut keys =
        near.into_iter().map(|number| TimePeriod { number, ..current }).map(|period| (period, address.blind(period)));
    let (period, blinded) = keys.find(|(_, key)| *key == claimed).ok_or("it is of no time period that is near")?;
    let descriptor = unchecked.check(address, &blinded, now).map_err(|error| error.to_string())?;
    Ok(Sighting {
        period,
        revision_counter: descriptor.revision_counter,
        lifetime: Duration::from_secs(u64::from(descriptor.lifetime_minutes) * 60),
        content: Arc::new(descriptor.content),
    })
}
