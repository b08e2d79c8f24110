//! The leadership state machine of a publisher, which decides when the publisher reads, renews and
//! gives up the Lease, and when it is the leader.
//!
//! Sans-io, like quinn-proto: call [`Conduct::handle`] with an event and the time, carry out what
//! [`Conduct::poll_output`] returns, and wait for the next event or for [`Conduct::poll_timeout`].
//! The rules are decisions 10 and 14 in `docs/decisions/`:
//!
//! - Only the holder of the Lease can be the leader. While the API server is unreachable, the
//!   holder remains the leader. It stops when it sees another holder.
//! - After a pause longer than a renewal interval, the publisher does not lead until it has read
//!   the Lease again, because another publisher may have taken over. If the API server does not
//!   answer, the only publisher of a service leads again unless the pause was so long that a new
//!   publisher could have taken over (decision 38).
//! - A publisher does not lead while the service is suspended, or before it knows which clients are
//!   authorized to discover the service.
//! - A publisher that cannot publish leaves the Lease to one that can (`fitness`).

mod counters;
mod fitness;
pub(super) mod lease_object;
mod message;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;

use self::counters::Counters;
use self::fitness::Fitness;
pub use self::message::{CallError, CallId, Event, LeaseAnswer, LeaseRequest, Output};
use self::reach::Reach;
use super::pause;
use crate::common::complaint::Complaint;
use crate::common::election::{self, Decision, Election, Record};
use crate::consensus::Network;
use crate::merge::{Input, Now};
use crate::onion::Discovery;

/// The time from one renewal of the Lease to the next. A publisher whose process was paused for
/// longer is fenced.
const RENEWAL: Duration = Duration::from_secs(5);
/// The time after which a standby reads the Lease again, and after which a failed call is repeated.
const RETRY: Duration = Duration::from_secs(2);
/// The time within which an attempt must read and write the Lease. An attempt that takes longer has
/// failed.
const DEADLINE: Duration = Duration::from_secs(4);
/// The number of write conflicts with other publishers that a single attempt tolerates.
const CONFLICTS: usize = 3;
/// The longest time between two events. [`Event::Tick`] is due at least this often, so that a pause
/// of the process is detected.
const TURN: Duration = Duration::from_secs(1);
/// The time for which tor must be unavailable before another publisher should lead. A mere restart
/// of tor takes less time.
const TOR_AWAY: Duration = Duration::from_secs(10);

/// The reason why an attempt to hold the Lease failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("{0}")]
    Call(CallError),
    #[error("the API server does not answer")]
    Silent,
    #[error(
        "Lease {name} exists and does not belong to this service, according to its labels (holder: {holder:?}); \
         nothing is published until you delete the Lease or give the OnionBalancedService another name"
    )]
    Foreign { name: String, holder: String },
}

/// An attempt to hold the Lease: reading it, and writing it if necessary.
#[derive(Debug)]
struct Attempt {
    call: CallId,
    deadline: Duration,
    conflicts: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Reading,
    /// Checks whether another publisher could take over the Lease.
    Listing(Option<Box<Lease>>, Decision),
    /// Acquires or renews the Lease.
    Claiming,
    /// Leaves the Lease to another publisher.
    Vacating,
}

/// The leadership state machine of one publisher.
#[derive(Debug)]
pub struct Conduct {
    service: String,
    election: Election,
    now: Now,
    /// The UID of the service's object. None until the object has been read.
    uid: Option<String>,
    suspended: bool,
    /// True if the service has one publisher, according to its object.
    alone: bool,
    discovery: Option<Arc<Discovery>>,
    network: Option<Arc<Network>>,
    knowledge: Knowledge,
    /// The monotonic time at which this publisher acquired the Lease. None while it does not hold
    /// the Lease.
    held_since: Option<Duration>,
    /// The revision counters that the Lease contains.
    stored: Counters,
    /// The revision counters that this publisher has used.
    used: Counters,
    attempt: Option<Attempt>,
    /// The monotonic time at which the newest attempt ended. Attempts between a long pause and the
    /// next reading of the Lease do not count.
    last_attempt: Duration,
    next_attempt: Duration,
    last_call: CallId,
    /// The monotonic time at which the connection to tor was lost. None while there is a
    /// connection.
    tor_lost: Option<Duration>,
    reach: Reach,
    /// The results of `fitness` and `Reach::is_proven` at the last event. When they change, the
    /// next attempt is due immediately.
    condition: (Fitness, bool),
    leading: bool,
    stopping: Stopping,
    outputs: VecDeque<Output>,
    complaint: Complaint,
}

/// How current a publisher's knowledge of the Lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// The publisher has never read the Lease.
    None,
    /// The publisher has read the Lease, but not since the last long pause of the process.
    Outdated,
    /// The publisher has read the Lease since the last long pause of the process.
    Current,
}

/// The progress of an orderly shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    /// The shutdown was requested. The current attempt, if any, must end first.
    Requested,
    /// The Lease is being released.
    Releasing,
    Ended,
}

impl Conduct {
    /// Creates the leadership state of a publisher. `identity` names the publisher in the Lease of
    /// `service`.
    pub fn new(service: &str, identity: String, now: Now) -> Self {
        Self {
            service: service.to_owned(),
            election: Election::new(identity),
            now,
            uid: None,
            suspended: false,
            alone: false,
            discovery: None,
            network: None,
            knowledge: Knowledge::None,
            held_since: None,
            stored: Counters::default(),
            used: Counters::default(),
            attempt: None,
            last_attempt: now.elapsed,
            next_attempt: now.elapsed,
            last_call: CallId::default(),
            tor_lost: Some(now.elapsed),
            reach: Reach::default(),
            condition: (Fitness::default(), false),
            leading: false,
            stopping: Stopping::No,
            outputs: VecDeque::new(),
            complaint: Complaint::default(),
        }
    }

    /// Processes an event.
    pub fn handle(&mut self, event: Event, now: Now) {
        self.notice_pause(now);
        match event {
            Event::Object { uid, suspended, discovery } => {
                self.uid = Some(uid);
                self.suspended = suspended;
                self.set_discovery(discovery);
            }
            Event::Alone(alone) => self.alone = alone,
            Event::Tor(true) => {
                self.tor_lost = None;
                self.reach.shown();
            }
            Event::Tor(false) => self.tor_lost = self.tor_lost.or(Some(now.elapsed)),
            Event::Network(network) => self.set_network(network),
            Event::NetworkReached => self.reach.shown(),
            Event::Uploaded(result) => self.reach.uploaded(&result),
            Event::Progress(periods) if self.leading => self.reach.publishes(&periods, now.elapsed),
            Event::CounterUsed(period, counter) => {
                self.used.raise(period.number, counter);
                self.next_attempt = now.elapsed;
            }
            Event::Answered(call, answer) => self.answered(call, answer),
            Event::Stop if self.stopping == Stopping::No => self.stopping = Stopping::Requested,
            Event::Tick | Event::Progress(_) | Event::Stop => {}
        }
        self.advance();
    }

    /// Returns the next action for the publisher, or None if there are no more.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the monotonic time at which [`Event::Tick`] is due.
    pub fn poll_timeout(&self) -> Duration {
        let attempt = match &self.attempt {
            Some(attempt) => Some(attempt.deadline),
            None => self.uid.as_ref().map(|_| self.next_attempt),
        };
        attempt.into_iter().fold(self.now.elapsed.saturating_add(TURN), Duration::min)
    }

    /// Returns true if the publisher has read the Lease at least once.
    pub fn knows_lease(&self) -> bool {
        self.knowledge != Knowledge::None
    }

    /// Returns true if this publisher holds the Lease and has read it since the last long pause.
    pub fn holds_lease(&self) -> bool {
        self.held_since.is_some() && self.knowledge == Knowledge::Current && self.stopping == Stopping::No
    }

    /// Returns true if this publisher is the leader. Only the leader publishes.
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// Returns true after [`Event::Stop`] as soon as the Lease has been released or its release has
    /// failed.
    pub fn has_ended(&self) -> bool {
        self.stopping == Stopping::Ended
    }

    /// Fences this publisher after a pause during which another publisher may have taken over.
    fn notice_pause(&mut self, now: Now) {
        let (pause, step) = (pause::length(self.now, now), pause::step(self.now, now));
        self.now = now;
        if step > RENEWAL {
            // A virtual machine that was paused may notice nothing but a step of its clock.
            tracing::info!(?step, "the wall clock was set; reading the Lease");
            self.next_attempt = now.elapsed;
        }
        if pause > RENEWAL {
            tracing::warn!(?pause, "the process was paused; reading the Lease before publishing anything");
            if self.knowledge == Knowledge::Current {
                self.knowledge = Knowledge::Outdated;
            }
            // A response that was in transit may be as old as the pause.
            self.attempt = None;
            self.next_attempt = now.elapsed;
            self.reach.stood_still(now.elapsed);
        }
    }

    fn set_discovery(&mut self, discovery: Option<Discovery>) {
        let known = discovery.as_ref().is_none_or(|discovery| self.discovery.as_deref() == Some(discovery));
        // The engine must know the clients before this publisher leads, so that it never publishes
        // for the clients of another object or Secret.
        self.discovery = discovery.map(Arc::new);
        if let Some(discovery) = self.discovery.clone().filter(|_| !known) {
            self.outputs.push_back(Output::Engine(Input::Discovery(discovery)));
        }
    }

    fn set_network(&mut self, network: Arc<Network>) {
        // Tor may return a consensus from its cache, but a newer one must have come from the
        // network.
        if self.network.as_ref().is_none_or(|known| known.validity() < network.validity()) {
            self.reach.shown();
        }
        self.network = Some(network);
        self.raise_floors();
    }

    /// Passes the revision counters in the Lease to the engine if they are greater than those that
    /// this publisher has used.
    fn raise_floors(&mut self) {
        let Some(network) = &self.network else { return };
        for period in network.service_periods().map(|service| service.period) {
            let stored = self.stored.get(period.number);
            if let Some(counter) = stored.filter(|_| stored > self.used.get(period.number)) {
                self.outputs.push_back(Output::Engine(Input::CounterFloor(period, counter)));
            }
        }
    }

    fn fitness(&self) -> Fitness {
        match self.tor_lost.map(|lost| self.now.elapsed.saturating_sub(lost)) {
            None if self.reach.is_cut_off(self.now.elapsed) => Fitness::CutOff,
            None => Fitness::Fit,
            Some(away) if away < TOR_AWAY => Fitness::Waiting,
            Some(_) => Fitness::Unfit,
        }
    }

    /// Performs all work that is due. A second call before the next event has no effect.
    fn advance(&mut self) {
        let condition = (self.fitness(), self.reach.is_proven(self.now.elapsed));
        if self.condition != condition {
            self.condition = condition;
            self.next_attempt = self.now.elapsed;
        }
        if self.attempt.as_ref().is_some_and(|attempt| attempt.deadline <= self.now.elapsed) {
            self.fail(&LeaseError::Silent);
        }
        self.set_leading();
        if self.attempt.is_some() || self.stopping == Stopping::Ended {
            return;
        }
        match self.stopping {
            Stopping::No if self.uid.is_some() && self.next_attempt <= self.now.elapsed => self.begin_attempt(),
            Stopping::No => {}
            Stopping::Requested if self.held_since.is_some() => {
                self.stopping = Stopping::Releasing;
                self.begin_attempt();
            }
            _ => self.stopping = Stopping::Ended,
        }
    }

    fn set_leading(&mut self) {
        let leading = self.holds_lease() && !self.suspended && self.discovery.is_some();
        if self.leading == leading {
            return;
        }
        self.leading = leading;
        if leading {
            self.reach.leads();
            tracing::info!("started leading");
        } else {
            let reason = if self.stopping != Stopping::No {
                "the publisher is stopping"
            } else if self.held_since.is_none() {
                "this publisher does not hold the Lease"
            } else if self.knowledge == Knowledge::Outdated {
                "the Lease must be read after a pause"
            } else if self.suspended {
                "the service is suspended"
            } else {
                "the clients that may discover the service are unknown"
            };
            tracing::info!(reason, "stopped leading");
        }
        self.outputs.push_back(Output::Engine(Input::Leading(leading)));
    }
}

/// The part of the state machine that tries to acquire and keep the Lease.
impl Conduct {
    fn begin_attempt(&mut self) {
        let deadline = self.now.elapsed.saturating_add(DEADLINE);
        self.next_attempt = Duration::MAX;
        self.attempt = Some(Attempt { call: self.last_call, deadline, conflicts: 0, phase: Phase::Reading });
        self.call(Phase::Reading, LeaseRequest::ReadLease);
    }

    fn call(&mut self, phase: Phase, request: LeaseRequest) {
        let Some(attempt) = &mut self.attempt else { return };
        self.last_call = self.last_call.next();
        (attempt.call, attempt.phase) = (self.last_call, phase);
        self.outputs.push_back(Output::Call(self.last_call, request));
    }

    fn answered(&mut self, call: CallId, answer: Result<LeaseAnswer, CallError>) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.call == call) else { return };
        let phase = std::mem::replace(&mut attempt.phase, Phase::Reading);
        match (phase, answer) {
            (Phase::Reading, Ok(LeaseAnswer::Read(lease))) => self.consider(lease),
            (Phase::Listing(lease, decision), Ok(LeaseAnswer::Ready(ready))) => self.choose(lease, decision, ready),
            (Phase::Claiming, Ok(LeaseAnswer::Written(lease))) => {
                self.learn(true, Some(&lease));
                self.end_attempt();
            }
            (Phase::Vacating, Ok(LeaseAnswer::Written(lease))) => {
                self.learn(false, Some(&lease));
                self.report_vacated();
                self.end_attempt();
            }
            (Phase::Claiming | Phase::Vacating, Err(CallError::Conflict)) if attempt.conflicts + 1 < CONFLICTS => {
                attempt.conflicts += 1;
                self.call(Phase::Reading, LeaseRequest::ReadLease);
            }
            (Phase::Claiming, Err(CallError::Conflict)) => self.end_attempt(),
            (_, Err(error)) => self.fail(&LeaseError::Call(error)),
            (_, Ok(_)) => self.fail(&LeaseError::Call(CallError::Failed("unexpected answer".to_owned()))),
        }
    }

    /// Decides what to do with the Lease that was read.
    fn consider(&mut self, lease: Option<Box<Lease>>) {
        if let Some(foreign) = lease.as_ref().filter(|lease| !lease_object::belongs_to(lease, &self.service)) {
            let holder = Record::of(foreign).holder;
            self.learn(false, None);
            return self.fail(&LeaseError::Foreign { name: lease_object::name(&self.service), holder });
        }
        let decision = self.election.decide(lease.as_deref().map(Record::of), self.now.elapsed);
        match (decision, lease) {
            (Decision::Renew, Some(lease)) if self.stopping != Stopping::No => self.vacate(lease),
            (_, lease) if decision == Decision::StandBy || self.stopping != Stopping::No => {
                self.learn(false, lease.as_deref());
                self.end_attempt();
            }
            (_, lease) if self.fitness().yields(decision) => {
                self.call(Phase::Listing(lease, decision), LeaseRequest::ListReady);
            }
            (_, lease) => self.claim(lease, decision),
        }
    }

    /// Claims the Lease or leaves it to one of the publishers in `ready`.
    fn choose(&mut self, lease: Option<Box<Lease>>, decision: Decision, mut ready: BTreeSet<String>) {
        let fitness = self.fitness();
        ready.remove(self.election.identity());
        let (cut_off, held) = (lease_object::cut_off(lease.as_deref()), self.held_for());
        if !fitness.yields_to(decision, self.election.identity(), &ready, &cut_off, held) {
            return self.claim(lease, decision);
        }
        self.learn(false, lease.as_deref());
        match lease.filter(|_| decision == Decision::Renew) {
            Some(mut lease) => {
                if fitness == Fitness::CutOff {
                    lease_object::set_cut_off(&mut lease, &cut_off.and(self.election.identity(), held));
                }
                self.vacate(lease);
            }
            None => self.end_attempt(),
        }
    }

    /// Writes the Lease as held by this publisher.
    fn claim(&mut self, lease: Option<Box<Lease>>, decision: Decision) {
        if decision == Decision::Renew {
            self.learn(true, lease.as_deref());
        }
        let mut lease = lease.unwrap_or_else(|| Box::new(lease_object::create(&self.service)));
        lease_object::set_owner(&mut lease, &self.service, self.uid.as_deref().unwrap_or_default());
        lease_object::raise_counters(&mut lease, &self.used);
        if self.reach.is_proven(self.now.elapsed) {
            lease_object::clear_cut_off(&mut lease);
        }
        let now = self.timestamp();
        self.election.claim(lease.spec.get_or_insert_default(), decision, now);
        self.call(Phase::Claiming, LeaseRequest::WriteLease(lease));
    }

    /// Writes the Lease without a holder, with the latest revision counters.
    fn vacate(&mut self, mut lease: Box<Lease>) {
        lease_object::raise_counters(&mut lease, &self.used);
        election::vacate(lease.spec.get_or_insert_default(), self.timestamp());
        self.call(Phase::Vacating, LeaseRequest::WriteLease(lease));
    }

    fn report_vacated(&self) {
        let reason = match self.fitness() {
            _ if self.stopping != Stopping::No => return tracing::info!("released the Lease"),
            Fitness::CutOff => "no HSDir answers",
            _ => "this publisher has no working tor",
        };
        tracing::warn!(reason, "gave up the Lease so that a ready publisher can take over");
    }

    fn end_attempt(&mut self) {
        self.complaint.settle();
        let pause = if self.held_since.is_some() { RENEWAL } else { RETRY };
        self.schedule(pause);
    }

    /// Leads again after a pause if the API server does not answer and nobody can have taken the
    /// Lease: this is the only publisher, and another one would have had to be created, to start,
    /// and to watch the Lease for its whole duration, all while this publisher did not look.
    fn regain(&mut self, error: &LeaseError) {
        let Some(attempt) = &self.attempt else { return };
        let unseen = attempt.deadline.saturating_sub(DEADLINE).saturating_sub(self.last_attempt);
        let away = matches!(error, LeaseError::Silent | LeaseError::Call(CallError::Failed(_)));
        if away
            && self.alone
            && self.knowledge == Knowledge::Outdated
            && self.held_since.is_some()
            && unseen < election::DURATION
        {
            tracing::info!("the API server does not answer, and no other publisher can have taken the Lease");
            self.knowledge = Knowledge::Current;
        }
    }

    fn fail(&mut self, error: &LeaseError) {
        self.regain(error);
        if self.stopping == Stopping::Releasing {
            tracing::warn!("could not release the Lease; it will expire: {error}");
        } else {
            let what =
                if self.held_since.is_some() { "could not renew the Lease" } else { "could not acquire the Lease" };
            self.complaint.utter(what, error);
        }
        self.schedule(RETRY);
    }

    /// Ends the attempt. The next attempt follows after the pause, or immediately if an event
    /// during this attempt has made it due.
    fn schedule(&mut self, pause: Duration) {
        self.attempt = None;
        if self.knowledge == Knowledge::Current {
            self.last_attempt = self.now.elapsed;
        }
        self.next_attempt = self.next_attempt.min(self.now.elapsed.saturating_add(pause));
    }

    /// Updates the leadership state from the Lease.
    fn learn(&mut self, held: bool, lease: Option<&Lease>) {
        if self.held_since.is_some() != held || !self.knows_lease() {
            let holder = lease.map(|lease| Record::of(lease).holder).unwrap_or_default();
            match (held, holder.as_str()) {
                (true, _) => tracing::info!("acquired the Lease"),
                (false, "") => tracing::info!("the Lease is free"),
                (false, holder) => tracing::info!(holder, "standing by for the Lease"),
            }
        }
        self.knowledge = Knowledge::Current;
        self.held_since = self.held_since.or(Some(self.now.elapsed)).filter(|_| held);
        let stored = lease.map(lease_object::counters).unwrap_or_default();
        if self.stored != stored {
            self.stored = stored;
            self.raise_floors();
        }
    }

    fn held_for(&self) -> Duration {
        self.held_since.map_or(Duration::ZERO, |since| self.now.elapsed.saturating_sub(since))
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::try_from(self.now.wall).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
