//! The events and outputs of the leadership state machine.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;

use crate::consensus::Network;
use crate::merge::{Input, PeriodStatus, UploadError};
use crate::onion::{Discovery, TimePeriod};

/// An event that the leadership state machine processes.
#[derive(Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The service's object, or the copy of the Secret that it names, was read.
    Object {
        /// The object's UID.
        uid: String,
        /// True if the service is suspended, so that nothing may be published.
        suspended: bool,
        /// The clients that are authorized to discover the service. None while they are unknown.
        discovery: Option<Discovery>,
    },
    /// The service's object was read: true if it asks for a single publisher.
    Alone(bool),
    /// The connection to a bootstrapped tor was established (true) or lost (false).
    Tor(bool),
    /// A consensus was read from tor.
    Network(Arc<Network>),
    /// A relay answered tor.
    NetworkReached,
    /// An upload ended.
    Uploaded(Result<(), UploadError>),
    /// The publishing state of each time period.
    Progress(Vec<PeriodStatus>),
    /// The engine has used this revision counter for the time period.
    CounterUsed(TimePeriod, u64),
    /// A call to the API server ended.
    Answered(CallId, Result<LeaseAnswer, CallError>),
    /// The process is about to end.
    Stop,
}

/// An action for the publisher to carry out.
#[derive(Debug)]
pub enum Output {
    /// Pass this input to the merge engine.
    Engine(Input),
    /// Send this request to the API server, and drop the call that is in progress.
    Call(CallId, LeaseRequest),
}

/// The number of a call to the API server. A response to any call but the newest is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallId(u64);

impl CallId {
    /// Returns the number of the next call.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// A request to the API server.
#[derive(Debug, Clone)]
pub enum LeaseRequest {
    /// Reads the Lease.
    ReadLease,
    /// Writes the Lease: creates it if it has no resource version, otherwise replaces that version.
    WriteLease(Box<Lease>),
    /// Lists the service's publishers whose pods are Ready.
    ListReady,
}

/// The API server's answer to a [`LeaseRequest`].
#[derive(Debug)]
pub enum LeaseAnswer {
    /// The Lease. None if it does not exist.
    Read(Option<Box<Lease>>),
    /// The Lease after it was written.
    Written(Box<Lease>),
    /// The identities of the publishers whose pods are Ready.
    Ready(BTreeSet<String>),
}

/// The reason why a call to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Another client wrote the Lease after it was read.
    #[error("another client changed the Lease at the same time")]
    Conflict,
    /// Any other failure, with the message of the API server or the operating system.
    #[error("{0}")]
    Failed(String),
}
