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
//!
//! `attempt` contains the attempts to acquire, keep and release the Lease.

mod attempt;
mod counters;
mod fitness;
pub(super) mod lease_object;
mod message;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use self::attempt::{Attempt, LeaseError};
use self::counters::Counters;
use self::fitness::Fitness;
pub use self::message::{CallError, CallId, Event, LeaseAnswer, LeaseRequest, Output};
use self::reach::Reach;
use super::pause;
use crate::common::complaint::Complaint;
use crate::common::election::Election;
use crate::consensus::Network;
use crate::merge::{Input, Now};
use crate::onion::Discovery;

/// The time from one renewal of the Lease to the next. A publisher whose process was paused for
/// longer is fenced.
const RENEWAL: Duration = Duration::from_secs(5);
/// The longest time between two events. [`Event::Tick`] is due at least this often, so that a pause
/// of the process is detected.
const TURN: Duration = Duration::from_secs(1);
/// The time for which tor must be unavailable before another publisher should lead. A mere restart
/// of tor takes less time.
const TOR_AWAY: Duration = Duration::from_secs(10);

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
