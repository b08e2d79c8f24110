//! The attempts of a publisher to acquire, keep and release the Lease. Each attempt reads the
//! Lease, and writes it if necessary.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;

use super::fitness::Fitness;
use super::{
    CallError, CallId, Conduct, Knowledge, LeaseAnswer, LeaseRequest, Output, RENEWAL, Stopping, lease_object,
};
use crate::common::election::{self, Decision, Record};

/// The time after which a standby reads the Lease again, and after which a failed call is repeated.
const RETRY: Duration = Duration::from_secs(2);
/// The time within which an attempt must read and write the Lease. An attempt that takes longer has
/// failed.
const DEADLINE: Duration = Duration::from_secs(4);
/// The number of write conflicts with other publishers that a single attempt tolerates.
const CONFLICTS: usize = 3;

/// The reason why an attempt to hold the Lease failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
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
pub(super) struct Attempt {
    call: CallId,
    /// The monotonic time at which the attempt fails.
    pub(super) deadline: Duration,
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

impl Conduct {
    /// Begins an attempt, which reads the Lease first.
    pub(super) fn begin_attempt(&mut self) {
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

    /// Processes an answer of the API server. Only the answer to the last call counts.
    pub(super) fn answered(&mut self, call: CallId, answer: Result<LeaseAnswer, CallError>) {
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

    /// Ends an attempt that has failed, and logs the error.
    pub(super) fn fail(&mut self, error: &LeaseError) {
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
