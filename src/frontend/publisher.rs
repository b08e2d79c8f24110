//! The loop that owns the engine: what the parts tell goes in, what it decides goes out to them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::admission::{Admission, SeenSecret};
use super::agents::{Orders, Report};
use super::backends::Backends;
use super::clock::{self, Clock};
use super::external::External;
use super::http::{Health, Role};
use super::lease::{self, Fitness, LeaseOrders, LeaseState};
use super::metrics::{Counts, Figures};
use super::object::Object;
use super::pods::Pods;
use super::reach::Reach;
use super::status::Facts;
use super::tor::{News, Orders as TorOrders, Upload};
use crate::consensus::Network;
use crate::crd::DistinctDescriptors;
use crate::merge::{BackendId, Distinct, Input, MergeEngine, Now, Output};
use crate::onion::Discovery;

/// The loop turns at least so often: so it sees when the process stood still.
const TURN: Duration = Duration::from_secs(1);

/// A tor that is away for so long is no mere restart: a publisher with a better one may lead.
const TOR_AWAY: Duration = Duration::from_secs(10);

/// What the loop hears.
pub(super) struct Ears {
    pub(super) pods: watch::Receiver<Arc<Pods>>,
    pub(super) object: watch::Receiver<Option<Arc<Object>>>,
    pub(super) secret: watch::Receiver<Option<SeenSecret>>,
    pub(super) lease: watch::Receiver<LeaseState>,
    pub(super) tor: mpsc::Receiver<News>,
    pub(super) reports: mpsc::Receiver<(BackendId, Report)>,
}

/// What the loop tells.
pub(super) struct Voices {
    pub(super) agents: watch::Sender<Orders>,
    pub(super) lease: watch::Sender<LeaseOrders>,
    pub(super) status: watch::Sender<Facts>,
    pub(super) health: watch::Sender<Health>,
}

pub(super) struct Publisher {
    engine: MergeEngine,
    clock: Clock,
    ears: Ears,
    voices: Voices,
    backends: Backends,
    external: External,
    admission: Admission,
    /// What the engine was told last.
    discovery: Option<Arc<Discovery>>,
    network: Option<Arc<Network>>,
    /// Where uploads go while there is a control connection.
    tor: Option<TorOrders>,
    /// When that was so last (monotonic clock).
    tor_seen: Duration,
    reach: Reach,
    counts: Counts,
    last_turn: Now,
    /// What the engine was told last.
    leading: bool,
}

impl Publisher {
    pub(super) fn new(engine: MergeEngine, external: External, clock: Clock, ears: Ears, voices: Voices) -> Self {
        Self {
            engine,
            clock,
            ears,
            voices,
            backends: Backends::default(),
            external,
            admission: Admission::default(),
            discovery: None,
            network: None,
            tor: None,
            tor_seen: clock.now().elapsed,
            reach: Reach::default(),
            counts: Counts::default(),
            last_turn: clock.now(),
            leading: false,
        }
    }

    /// Runs until `stop`; from then on nothing is posted. What is published stays.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        // What is known from the start counts as news.
        self.take_pods();
        self.take_object();
        self.take_lease();
        loop {
            self.carry_out();
            self.tell();
            let wait = self.wait();
            // A channel whose other end is gone gives nothing any more; the shell ends the process when a part ends.
            tokio::select! {
                () = &mut stop => break,
                () = sleep(wait) => {
                    self.note_a_pause();
                    self.handle(Input::Tick);
                }
                Ok(()) = self.ears.pods.changed() => {
                    self.note_a_pause();
                    self.take_pods();
                }
                Ok(()) = self.ears.lease.changed() => {
                    self.note_a_pause();
                    self.take_lease();
                }
                Ok(()) = self.ears.object.changed() => {
                    self.note_a_pause();
                    self.take_object();
                }
                Ok(()) = self.ears.secret.changed() => {
                    self.note_a_pause();
                    self.set_leading();
                }
                Some(news) = self.ears.tor.recv() => {
                    self.note_a_pause();
                    self.hear_tor(news);
                }
                Some((id, report)) = self.ears.reports.recv() => {
                    self.note_a_pause();
                    if let Some(input) = self.backends.report(id, report) {
                        self.handle(input);
                    }
                }
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.engine.handle(input, self.clock.now());
    }

    /// When this process stood still for longer than a renewal of the Lease, another may lead by now: nothing is posted
    /// before the Lease was read again.
    fn note_a_pause(&mut self) {
        let now = self.clock.now();
        let pause = clock::gap(self.last_turn, now);
        self.last_turn = now;
        if pause > lease::RENEWAL {
            tracing::warn!(?pause, "the process stood still: the Lease is read before anything is posted");
            self.voices.lease.send_modify(|orders| orders.recheck += 1);
            self.reach.stood_still(now.elapsed);
            self.set_leading();
        }
    }

    fn take_pods(&mut self) {
        let pods = self.ears.pods.borrow_and_update().clone();
        for input in self.backends.pods(pods) {
            self.handle(input);
        }
    }

    fn take_object(&mut self) {
        let distinct = self.ears.object.borrow_and_update().as_ref().map(|object| match object.distinct_descriptors {
            DistinctDescriptors::Auto => Distinct::Auto,
            DistinctDescriptors::Always => Distinct::Always,
            DistinctDescriptors::Never => Distinct::Never,
        });
        if let Some(distinct) = distinct {
            self.handle(Input::Distinct(distinct));
        }
        if let Some(object) = self.ears.object.borrow().clone() {
            self.external.set(&object.external_backends, !object.suspend, self.clock.now());
        }
        self.set_leading();
    }

    fn take_lease(&mut self) {
        self.ears.lease.borrow_and_update();
        self.raise_floors();
        self.set_leading();
    }

    /// The Lease is ours, by a reading that is new enough.
    fn holds_lease(&self) -> bool {
        let lease = self.ears.lease.borrow();
        lease.held && lease.checked >= self.voices.lease.borrow().recheck
    }

    fn set_leading(&mut self) {
        let object = self.ears.object.borrow().clone();
        let secret = self.ears.secret.borrow_and_update().clone();
        let suspended = object.as_ref().is_some_and(|object| object.suspend);
        // Before it leads: what was true of another object, or of another Secret, is not to be published.
        let discovery = self.admission.decide(object.as_deref(), secret.as_ref());
        let is_known = discovery.is_some();
        if let Some(discovery) =
            discovery.filter(|discovery| self.discovery.as_deref() != Some(discovery)).map(Arc::new)
        {
            match &*discovery {
                Discovery::Open => tracing::info!("discovery is open"),
                Discovery::Restricted(clients) => tracing::info!(clients = clients.len(), "discovery is restricted"),
            }
            self.discovery = Some(Arc::clone(&discovery));
            self.handle(Input::Discovery(discovery));
        }
        let leading = self.holds_lease() && !suspended && is_known;
        if self.leading != leading {
            tracing::info!(leading, suspended, "publishing");
            self.leading = leading;
            if leading {
                self.reach.leads();
            }
            self.handle(Input::Leading(leading));
        }
    }

    /// Tells the engine the counters that other publishers left in the Lease: those that are greater than our own.
    fn raise_floors(&mut self) {
        let Some(network) = self.network.clone() else { return };
        for service in network.service_periods() {
            let stored = self.ears.lease.borrow().counters.get(service.period.number);
            let ours = self.voices.lease.borrow().counters.get(service.period.number);
            if let Some(counter) = stored.filter(|_| stored > ours) {
                self.handle(Input::CounterFloor(service.period, counter));
            }
        }
    }

    fn hear_tor(&mut self, news: News) {
        match news {
            News::Up(orders) => {
                self.external.set_tor(Some(orders.clone()), self.clock.now());
                self.tor = Some(orders);
                self.reach.shown();
                self.handle(Input::TorRestarted);
            }
            News::Down => {
                self.external.set_tor(None, self.clock.now());
                self.tor = None;
            }
            News::Network(network) => {
                // Tor's memory gives the same one again; a newer one came from the network.
                if self.network.as_ref().is_none_or(|known| known.validity() < network.validity()) {
                    self.reach.shown();
                }
                self.network = Some(network.clone());
                self.raise_floors();
                self.external.set_network(network.clone(), self.clock.now());
                self.handle(Input::Network(network));
            }
            News::Uploaded(hsdir, result) => {
                self.counts.uploaded(&result);
                self.reach.uploaded(&result);
                match &result {
                    Ok(()) => tracing::debug!(%hsdir, "uploaded"),
                    Err(reason) => tracing::info!(%hsdir, reason, "an upload failed"),
                }
                self.handle(Input::Uploaded { hsdir, result });
            }
            News::Fetched { address, hsdir, result } => {
                if result.is_ok() {
                    self.reach.shown();
                }
                self.external.fetched(address, hsdir, result, self.clock.now());
            }
        }
    }

    fn carry_out(&mut self) {
        for input in self.external.carry_out(self.clock.now()) {
            self.handle(input);
        }
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Upload { hsdir, period, descriptor } => {
                    tracing::debug!(%hsdir, period = period.number, bytes = descriptor.len(), "uploading");
                    let upload = Upload { hsdir, descriptor, ordered: self.clock.now() };
                    // Without a connection an order has no fate, until `TorRestarted` voids it.
                    if self.tor.as_ref().is_some_and(|tor| !tor.upload(upload)) {
                        tracing::debug!(%hsdir, "cannot hand an upload over");
                    }
                }
                Output::StoreCounter(period, counter) => {
                    self.counts.rounds += 1;
                    tracing::info!(period = period.number, counter, "publishing");
                    self.voices.lease.send_modify(|orders| orders.counters.raise(period.number, counter));
                }
            }
        }
    }

    /// Passes on what changed.
    fn tell(&mut self) {
        let status = self.engine.status();
        let wall = self.clock.now().wall;
        let mut backends = self.backends.views(&status, wall);
        backends.extend(self.external.views(&status, wall));
        let holds_lease = self.holds_lease();

        // Without tor nothing is sent, so nothing is withdrawn, whatever deadlines pass.
        let is_withdrawn = |id: &&BackendId| self.tor.is_some() && self.engine.withdrawn(id);
        let withdrawn = self.backends.terminating().filter(is_withdrawn).cloned().collect();
        // Those that were taken in, not newer ones: a report on a pod that is not known here would be lost.
        let orders =
            Orders { pods: self.backends.known_pods(), withdrawn, leading: holds_lease, network: self.network.clone() };
        self.voices.agents.send_if_modified(|known| {
            let changed = !known.same(&orders);
            *known = orders;
            changed
        });

        let elapsed = self.clock.now().elapsed;
        if self.leading {
            self.reach.publishes(&status.periods, elapsed);
        }
        let (fitness, proven) = (self.fitness(), self.reach.is_proven(elapsed));
        self.voices.lease.send_if_modified(|orders| {
            let changed = (orders.fitness, orders.proven) != (fitness, proven);
            (orders.fitness, orders.proven) = (fitness, proven);
            changed
        });

        let facts = Facts { leading: holds_lease, backends: backends.clone(), periods: status.periods.clone() };
        self.voices.status.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });

        let role = match (self.ears.lease.borrow().known, holds_lease) {
            (_, true) => Role::Leading,
            (true, false) => Role::StandingBy,
            (false, false) => Role::Unknown,
        };
        let (tor_up, leading) = (self.tor.is_some(), self.leading);
        let counts = Counts { fetches: self.external.fetches(), ..self.counts };
        let figures = Figures { tor_up, leading, backends, periods: status.periods, counts };
        self.voices.health.send_replace(Health { turned: self.clock.now().elapsed, problem: None, role, figures });
    }

    fn fitness(&mut self) -> Fitness {
        let now = self.clock.now().elapsed;
        if self.tor.is_some() {
            self.tor_seen = now;
        }
        match now.saturating_sub(self.tor_seen) {
            Duration::ZERO if self.reach.is_cut_off(now) => Fitness::CutOff,
            Duration::ZERO => Fitness::Fit,
            away if away < TOR_AWAY => Fitness::Waiting,
            _ => Fitness::Unfit,
        }
    }

    fn wait(&self) -> Duration {
        let due = [self.engine.poll_timeout(), self.external.poll_timeout()].into_iter().flatten().min();
        due.map_or(TURN, |due| due.saturating_sub(self.clock.now().elapsed)).min(TURN)
    }
}
