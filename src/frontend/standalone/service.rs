//! The loop of one service: it owns the merge engine and the polling of the instances (external backends, all of them), and
//! carries out what they decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::status::{InstanceView, View};
use crate::consensus::Network;
use crate::frontend::clock::Clock;
use crate::frontend::external::External;
use crate::frontend::tor::{News, Orders, Upload};
use crate::merge::{Input, MergeEngine, Output};
use crate::onion::{OnionAddress, ServiceContent, TimePeriod};

/// The loop turns at least so often.
const TURN: Duration = Duration::from_secs(60);

pub(super) struct Service {
    engine: MergeEngine,
    external: External,
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
        external: External,
        clock: Clock,
        news: mpsc::Receiver<News>,
        instances: watch::Receiver<Vec<OnionAddress>>,
        view: watch::Sender<View>,
    ) -> Self {
        let seen = BTreeMap::new();
        Self { engine, external, clock, news, instances, view, network: None, orders: None, seen }
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
                    self.engine.handle(Input::Tick, self.clock.now());
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
        self.external.set(&addresses, true, self.clock.now());
    }

    fn hear(&mut self, news: News) {
        let now = self.clock.now();
        match news {
            News::Up(orders) => {
                self.external.set_tor(Some(orders.clone()), now);
                self.orders = Some(orders);
                self.engine.handle(Input::TorRestarted, now);
            }
            News::Down => {
                self.external.set_tor(None, now);
                self.orders = None;
            }
            News::Network(network) => {
                self.network = Some(network.clone());
                self.external.set_network(network.clone(), now);
                self.engine.handle(Input::Network(network), now);
            }
            News::Uploaded(hsdir, result) => {
                match &result {
                    Ok(()) => tracing::debug!(%hsdir, "uploaded"),
                    Err(reason) => tracing::info!(%hsdir, reason, "an upload failed"),
                }
                self.engine.handle(Input::Uploaded { hsdir, result }, now);
            }
            News::Fetched { address, hsdir, result } => {
                if let Some(content) = self.external.fetched(address, hsdir, result, now) {
                    self.saw(address, content, now.wall);
                }
            }
        }
    }

    fn saw(&mut self, address: OnionAddress, content: Arc<ServiceContent>, now: SystemTime) {
        if !self.instances.borrow().contains(&address) {
            return;
        }
        let seen = self.seen.entry(address);
        let seen = seen.or_insert_with(|| Seen { received: now, modified: now, content: content.clone() });
        if seen.content != content {
            seen.modified = now;
        }
        (seen.received, seen.content) = (now, content);
    }

    fn carry_out(&mut self) {
        let now = self.clock.now();
        for input in self.external.carry_out(now) {
            self.engine.handle(input, now);
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
        let due = [self.engine.poll_timeout(), self.external.poll_timeout()].into_iter().flatten().min();
        due.map_or(TURN, |due| due.saturating_sub(self.clock.now().elapsed)).min(TURN)
    }
}
