//! Runs the loop of one service of the stand-alone daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::load::Instances;
use super::status::{InstanceView, View};
use crate::frontend::clock::Clock;
use crate::frontend::driver::Driver;
use crate::frontend::kits::CoverageLog;
use crate::frontend::tor::TorNews;
use crate::merge::{BackendId, Input};
use crate::onion::{OnionAddress, ServiceContent, ServiceKey, TimePeriod};

/// The longest time between two iterations of the loop.
const TURN: Duration = Duration::from_secs(60);

/// A service of the stand-alone daemon. Its instances are external backends.
pub(super) struct Service {
    driver: Driver,
    clock: Clock,
    news: mpsc::Receiver<TorNews>,
    instances: watch::Receiver<Instances>,
    keys: watch::Receiver<ServiceKey>,
    coverage: CoverageLog,
    view: watch::Sender<View>,
    seen: BTreeMap<OnionAddress, Seen>,
    /// The instances that the last descriptor left out because of their congestion control.
    outvoted: BTreeSet<BackendId>,
}

/// The properties of an instance's newest descriptor that the status socket shows.
struct Seen {
    received: SystemTime,
    modified: SystemTime,
    content: Arc<ServiceContent>,
}

impl Service {
    /// Creates a service, which always considers itself the leader.
    pub(super) fn new(
        driver: Driver,
        clock: Clock,
        news: mpsc::Receiver<TorNews>,
        (instances, keys): (watch::Receiver<Instances>, watch::Receiver<ServiceKey>),
        view: watch::Sender<View>,
    ) -> Self {
        let (coverage, seen, outvoted) = (CoverageLog::default(), BTreeMap::new(), BTreeSet::new());
        Self { driver, clock, news, instances, keys, coverage, view, seen, outvoted }
    }

    /// Runs the service until the future is dropped. Published descriptors stay published.
    pub(super) async fn run(mut self) {
        // No other daemon publishes for this key, so no Lease is needed.
        self.driver.handle(Input::Leading(true), self.clock.now());
        self.take_instances();
        loop {
            self.driver.carry_out(self.clock.now());
            self.report();
            self.coverage.report(&self.keys.borrow(), self.clock.now().wall);
            let timeout = self.timeout();
            tokio::select! {
                () = sleep(timeout) => self.driver.handle(Input::Tick, self.clock.now()),
                Ok(()) = self.instances.changed() => self.take_instances(),
                Ok(()) = self.keys.changed() => {
                    let key = self.keys.borrow_and_update().clone();
                    self.driver.set_key(key, self.clock.now());
                }
                Some(news) = self.news.recv() => {
                    let now = self.clock.now();
                    if let Some((address, content)) = self.driver.take_news(news, now) {
                        self.note(address, content, now.wall);
                    }
                }
                else => return,
            }
        }
    }

    fn take_instances(&mut self) {
        let Instances { addresses, limits } = self.instances.borrow_and_update().clone();
        self.seen.retain(|address, _| addresses.contains(address));
        let now = self.clock.now();
        self.driver.handle(Input::Limits(limits.clone()), now);
        self.driver.external().set(&addresses.into_iter().collect(), &limits, true, now);
    }

    fn note(&mut self, address: OnionAddress, content: Arc<ServiceContent>, now: SystemTime) {
        if !self.instances.borrow().addresses.contains(&address) {
            return;
        }
        let seen = self.seen.entry(address);
        let seen = seen.or_insert_with(|| Seen { received: now, modified: now, content: content.clone() });
        if seen.content != content {
            seen.modified = now;
        }
        (seen.received, seen.content) = (now, content);
    }

    /// Updates the view that the status socket shows, and logs each instance that is newly left
    /// out.
    fn report(&mut self) {
        let status = self.driver.status();
        for (instance, reason) in status.outvoted.iter().filter(|(instance, _)| !self.outvoted.contains(instance)) {
            tracing::warn!(instance = instance.0, "{reason}");
        }
        self.outvoted = status.outvoted.keys().cloned().collect();
        let published = |period: TimePeriod| {
            status.periods.iter().find(|status| status.period == period).map(|status| status.last_published)
        };
        let periods = self.driver.network().map(|network| network.service_periods().map(|service| service.period));
        let attempts = periods.map_or([None, None], |periods| periods.map(published));
        let instance = |address: &OnionAddress| InstanceView {
            address: *address,
            seen: self
                .seen
                .get(address)
                .map(|seen| (seen.received, seen.modified, seen.content.introduction_points.len())),
        };
        let instances: Vec<_> = self.instances.borrow().addresses.iter().map(instance).collect();
        self.view.send_modify(|view| (view.attempts, view.instances) = (attempts, instances));
    }

    fn timeout(&self) -> Duration {
        let due = self.driver.poll_timeout();
        due.map_or(TURN, |due| due.saturating_sub(self.clock.now().elapsed)).min(TURN)
    }
}
