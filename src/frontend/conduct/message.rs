//! The events and the outputs of the conduct.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;

use crate::consensus::Network;
use crate::merge::{Input, PeriodStatus, UploadError};
use crate::onion::{Discovery, TimePeriod};

/// An event that the conduct takes in.
#[derive(Debug)]
pub(in crate::frontend) enum Event {
    /// Time passed.
    Tick,
    /// The service's object, or the Secret that it names, was read.
    Object {
        /// The object's UID.
        uid: String,
        /// True while nothing is to be published.
        suspended: bool,
        /// The clients that may discover the service. None while that is unknown.
        discovery: Option<Discovery>,
    },
    /// The connection to a bootstrapped tor was established (true) or lost (false).
    Tor(bool),
    /// Tor read a consensus.
    Network(Arc<Network>),
    /// A relay answered tor.
    NetworkReached,
    /// An upload ended.
    Uploaded(Result<(), UploadError>),
    /// The progress of the descriptors that this publisher made.
    Progress(Vec<PeriodStatus>),
    /// The engine used this revision counter.
    CounterUsed(TimePeriod, u64),
    /// A call to the API server ended.
    Answered(CallId, Result<LeaseAnswer, CallError>),
    /// The process is about to end.
    Stop,
}

/// An action for the publisher to carry out.
#[derive(Debug)]
pub(in crate::frontend) enum Output {
    /// An input for the merge engine.
    Engine(Input),
    /// A call to the API server, which replaces the call that is under way.
    Call(CallId, LeaseRequest),
}

/// The number of a call. An answer to any call but the newest is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::frontend) struct CallId(u64);

impl CallId {
    /// Returns the number of the next call.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// A request to the API server.
#[derive(Debug, Clone)]
pub(in crate::frontend) enum LeaseRequest {
    /// Reads the Lease.
    ReadLease,
    /// Creates the Lease if it has no resource version, and replaces that version otherwise.
    WriteLease(Box<Lease>),
    /// Lists the service's publishers with pods that are Ready.
    ListReady,
}

/// The API server's answer to a [`LeaseRequest`].
#[derive(Debug)]
pub(in crate::frontend) enum LeaseAnswer {
    /// The Lease. None if it does not exist.
    Read(Option<Box<Lease>>),
    /// The Lease as it was written.
    Written(Box<Lease>),
    /// The identities of the publishers.
    Ready(BTreeSet<String>),
}

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::frontend) enum CallError {
    /// Another client wrote the Lease since it was read.
    #[error("another client changed the Lease at the same time")]
    Conflict,
    /// Any other reason, in the words of the API server or of the operating system.
    #[error("{0}")]
    Failed(String),
}
