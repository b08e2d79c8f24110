//! Runs the main loop of the publisher in a frontend pod. The loop passes all events to the
//! leadership state machine and to the driver, and carries out their decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::admission::Admission;
use super::agents::{AgentNews, AgentOrders};
use super::backends::Backends;
use super::clock::Clock;
use super::conduct::{CallError, CallId, Conduct, Event, LeaseAnswer, LeaseRequest, Output};
use super::driver::Driver;
use super::guard_view::GuardView;
use super::http::{Health, Role};
use super::metrics::{Figures, VanguardFigures};
use super::object::Object;
use super::pods::Pods;
use super::probe::{Assignment, PortReport, ProbeLink};
use super::status::{self, Facts};
use super::tor::TorNews;
use crate::crd::{DistinctDescriptors, ProbeStatus};
use crate::link::ClientsCopy;
use crate::merge::{BackendId, Distinct, Input, Status};
use crate::onion::ServiceKey;

/// The channels through which the publisher receives events.
pub(super) struct Inlets {
    pub(super) pods: watch::Receiver<Arc<Pods>>,
    pub(super) object: watch::Receiver<Option<Arc<Object>>>,
    pub(super) clients: watch::Receiver<Option<ClientsCopy>>,
    pub(super) keys: watch::Receiver<ServiceKey>,
    pub(super) answers: mpsc::Receiver<(CallId, Result<LeaseAnswer, CallError>)>,
    pub(super) tor: mpsc::Receiver<TorNews>,
    pub(super) reports: mpsc::Receiver<(BackendId, AgentNews)>,
    pub(super) guards: watch::Receiver<Option<GuardView>>,
    pub(super) vanguards: watch::Receiver<VanguardFigures>,
}

/// The channels through which the publisher reports its state and requests API server calls.
pub(super) struct Outlets {
    pub(super) agents: watch::Sender<AgentOrders>,
    pub(super) calls: mpsc::UnboundedSender<(CallId, LeaseRequest)>,
    pub(super) status: watch::Sender<Facts>,
    pub(super) health: watch::Sender<Health>,
}

/// An event that wakes the publisher's main loop.
enum Wake {
    Timeout,
    Pods,
    Object,
    Clients,
    Keys,
    Answer((CallId, Result<LeaseAnswer, CallError>)),
    Tor(TorNews),
    Report((BackendId, AgentNews)),
    Probed,
}

/// The publisher of one service.
pub(super) struct Publisher {
    driver: Driver,
    conduct: Conduct,
    clock: Clock,
    inlets: Inlets,
    outlets: Outlets,
    backends: Backends,
    admission: Admission,
    probe: ProbeLink,
}

impl Publisher {
    /// Creates a publisher. `conduct` decides when it leads, and `probe` is its access to the
    /// prober.
    pub(super) fn new(
        driver: Driver,
        conduct: Conduct,
        clock: Clock,
        inlets: Inlets,
        outlets: Outlets,
        probe: ProbeLink,
    ) -> Self {
        let (backends, admission) = (Backends::default(), Admission::default());
        Self { driver, conduct, clock, inlets, outlets, backends, admission, probe }
    }

    /// Runs until `stop` completes, then releases the Lease. Published descriptors stay published.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        self.take_pods();
        self.take_object();
        loop {
            self.carry_out();
            self.report();
            let timeout = self.timeout();
            let wake = tokio::select! {
                () = &mut stop => break,
                wake = self.inlets.next(timeout) => wake,
                () = self.probe.changed() => Wake::Probed,
            };
            // The tick is processed first, so that a pause of the process fences this publisher.
            self.inform(Event::Tick);
            self.take(wake);
        }
        self.release().await;
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Timeout => self.driver.handle(Input::Tick, self.clock.now()),
            Wake::Pods => self.take_pods(),
            Wake::Object => self.take_object(),
            Wake::Clients => self.take_policy(),
            Wake::Keys => {
                let key = self.inlets.keys.borrow_and_update().clone();
                self.driver.set_key(key, self.clock.now());
            }
            Wake::Answer((call, answer)) => self.inform(Event::Answered(call, answer)),
            Wake::Tor(news) => self.take_news(news),
            // `report` passes the result on.
            Wake::Probed => {}
            Wake::Report((id, news)) => {
                for input in self.backends.take(id, news) {
                    self.driver.handle(input, self.clock.now());
                }
                self.announce_expected();
            }
        }
    }

    /// Passes an event to the leadership state machine and carries out its decisions.
    fn inform(&mut self, event: Event) {
        let now = self.clock.now();
        self.conduct.handle(event, now);
        while let Some(output) = self.conduct.poll_output() {
            match output {
                Output::Engine(input) => self.driver.handle(input, now),
                // Sending fails only if the process is about to end.
                Output::Call(id, request) => _ = self.outlets.calls.send((id, request)),
            }
        }
    }

    fn take_pods(&mut self) {
        let pods = self.inlets.pods.borrow_and_update().clone();
        for input in self.backends.pods(pods) {
            self.driver.handle(input, self.clock.now());
        }
        self.announce_expected();
        let ending = self.backends.terminating().cloned().collect();
        self.driver.handle(Input::Ending(ending), self.clock.now());
    }

    /// Tells the engine which backends should soon be usable.
    fn announce_expected(&mut self) {
        let mut expected: BTreeSet<BackendId> = self.backends.expected().cloned().collect();
        if let Some(object) = self.inlets.object.borrow().clone() {
            expected.extend(self.driver.external().expected(&object.external_backends));
        }
        self.driver.handle(Input::Expected(expected), self.clock.now());
    }

    fn take_object(&mut self) {
        let now = self.clock.now();
        if let Some(object) = self.inlets.object.borrow_and_update().clone() {
            let distinct = match object.distinct_descriptors {
                DistinctDescriptors::Auto => Distinct::Auto,
                DistinctDescriptors::Always => Distinct::Always,
                DistinctDescriptors::Never => Distinct::Never,
            };
            self.driver.handle(Input::Distinct(distinct), now);
            self.driver.handle(Input::Limits(object.limits.clone()), now);
            self.backends.set_limits(&object.limits);
            self.driver.external().set(&object.external_backends, &object.limits, !object.suspend, now);
        }
        self.announce_expected();
        self.take_policy();
    }

    /// Tells the leadership state machine whether the service is suspended and which clients are
    /// authorized.
    fn take_policy(&mut self) {
        let copy = self.inlets.clients.borrow_and_update().clone();
        let Some(object) = self.inlets.object.borrow().clone() else { return };
        let discovery = self.admission.decide(Some(&object), copy.as_ref());
        let discovery = self.probe.admit(discovery, object.probe.is_some());
        self.inform(Event::Alone(object.alone));
        self.inform(Event::Object { uid: object.uid.clone(), suspended: object.suspend, discovery });
    }

    fn take_news(&mut self, news: TorNews) {
        // The leadership state machine comes before the engine, which must know the revision
        // counters for the time periods of a new network.
        match &news {
            TorNews::Up(_) => self.inform(Event::Tor(true)),
            TorNews::Down => self.inform(Event::Tor(false)),
            TorNews::Network(network) => self.inform(Event::Network(network.clone())),
            TorNews::Uploaded(_, result) => self.inform(Event::Uploaded(result.clone())),
            TorNews::Fetched { result: Ok(_), .. } => self.inform(Event::NetworkReached),
            TorNews::Fetched { .. } => {}
        }
        // Both the prober and the driver fetch the service's own descriptor.
        if let TorNews::Fetched { address, hsdir, result } = &news
            && self.probe.is_of(*address)
        {
            self.probe.fetched(*hsdir, result.clone());
        }
        self.driver.take_news(news, self.clock.now());
    }

    fn carry_out(&mut self) {
        for (period, counter) in self.driver.carry_out(self.clock.now()) {
            self.inform(Event::CounterUsed(period, counter));
        }
    }

    /// Reports the publisher's state to the agents, the status, the probes and the metrics.
    fn report(&mut self) {
        let status = self.driver.status();
        self.inform(Event::Progress(status.periods.clone()));
        let now = self.clock.now();
        let mut backends = self.backends.views(&status, now.wall);
        backends.extend(self.driver.external().views(&status, now.wall));
        let (holds_lease, leading) = (self.conduct.holds_lease(), self.conduct.is_leading());
        self.backends.set_leads(holds_lease || leading);
        self.order_agents(holds_lease);

        let ports = self.assign_probe(leading && !status.periods.is_empty());
        let mut probes = if leading { self.probe.report().0 } else { BTreeMap::new() };
        probes.retain(|port, _| ports.contains(port));
        let guards = self.inlets.guards.borrow().clone();
        let figures_of_guards = guards.as_ref().map(GuardView::all_figures).unwrap_or_default();
        let vanguards = *self.inlets.vanguards.borrow();
        let facts = Facts {
            leading: holds_lease,
            backends: backends.clone(),
            periods: status.periods.clone(),
            own_clients: self.probe.own_clients(),
            probed: ports,
            probes: probes.iter().map(|(port, report)| probe_status(*port, report)).collect(),
            guards,
            vanguards,
        };
        self.outlets.status.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });

        let role = match (self.conduct.knows_lease(), holds_lease) {
            (_, true) => Role::Leading,
            (true, false) => Role::StandingBy,
            (false, false) => Role::Unknown,
        };
        let Status { periods, hsdirs_failing, longest_failing, counter_rises, .. } = status;
        let coverage = self.inlets.keys.borrow().coverage(now.wall);
        let figures = Figures {
            tor_up: self.driver.has_tor(),
            leading,
            backends,
            periods,
            hsdirs_failing,
            longest_failing,
            counter_rises,
            coverage,
            counts: self.driver.counts(),
            guards: figures_of_guards,
            vanguards,
            probes,
        };
        self.outlets.health.send_replace(Health { turned: now.elapsed, problem: None, role, figures });
    }

    /// Tells the tasks that poll the agents what the agents should know.
    fn order_agents(&self, holds_lease: bool) {
        let withdrawn = self.backends.terminating().filter(|id| self.driver.is_withdrawn(id)).cloned().collect();
        let targets = self.backends.targets();
        let orders = AgentOrders {
            // The agents get the pods that `backends` knows, not newer ones, because a report on an
            // unknown pod would be lost.
            pods: self.backends.known_pods(),
            withdrawn,
            leading: holds_lease,
            unhealthy: targets.withdrawn().clone(),
            round: targets.round(),
            network: self.driver.network().cloned(),
        };
        self.outlets.agents.send_if_modified(|known| {
            let changed = !known.same(&orders);
            *known = orders;
            changed
        });
    }

    /// Tells the prober what to probe if there is something to probe. Returns the ports of which
    /// the status shows results: none if the probe is switched off.
    fn assign_probe(&self, is_published: bool) -> Vec<u16> {
        let object = self.inlets.object.borrow().clone();
        let probe = object.as_deref().and_then(|object| object.probe.clone());
        let ports = object.as_deref().map(|object| object.ports.clone()).unwrap_or_default();
        let is_suspended = object.is_some_and(|object| object.suspend);
        let shown = if probe.is_some() { ports.clone() } else { Vec::new() };
        self.probe.assign(Assignment {
            probe: probe.filter(|_| is_published && !is_suspended),
            ports,
            tor: self.driver.tor().cloned(),
            network: self.driver.network().cloned(),
            ..Assignment::default()
        });
        shown
    }

    fn timeout(&self) -> Duration {
        let due = self.driver.poll_timeout().into_iter().fold(self.conduct.poll_timeout(), Duration::min);
        due.saturating_sub(self.clock.now().elapsed)
    }

    /// Stops leading and releases the Lease, so that another publisher does not have to wait until
    /// it expires.
    async fn release(mut self) {
        self.inform(Event::Stop);
        while !self.conduct.has_ended() {
            let timeout = self.conduct.poll_timeout().saturating_sub(self.clock.now().elapsed);
            tokio::select! {
                () = sleep(timeout) => self.inform(Event::Tick),
                Some((call, answer)) = self.inlets.answers.recv() => self.inform(Event::Answered(call, answer)),
            }
        }
    }
}

impl Inlets {
    /// Waits for the next event. A channel without a sender is ignored: either its value never
    /// changes (`fixed`), or a task has ended and the whole process is about to end.
    async fn next(&mut self, timeout: Duration) -> Wake {
        tokio::select! {
            () = sleep(timeout) => Wake::Timeout,
            Ok(()) = self.pods.changed() => Wake::Pods,
            Some(answer) = self.answers.recv() => Wake::Answer(answer),
            Ok(()) = self.object.changed() => Wake::Object,
            Ok(()) = self.clients.changed() => Wake::Clients,
            Ok(()) = self.keys.changed() => Wake::Keys,
            Some(news) = self.tor.recv() => Wake::Tor(news),
            Some(report) = self.reports.recv() => Wake::Report(report),
        }
    }
}

fn probe_status(port: u16, report: &PortReport) -> ProbeStatus {
    let PortReport { result, message, ended, .. } = report;
    ProbeStatus { port, result: *result, message: message.clone(), since: status::time(*ended) }
}

#[cfg(test)]
mod tests;
