//! The API server, which keeps the publishers' Lease.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use onionbalance_operator::frontend::conduct::{CallError, CallId, LeaseAnswer, LeaseRequest};

use crate::time::between;
use crate::world::{Event, World};

/// The API server.
#[derive(Debug, Default)]
pub struct Server {
    lease: Option<Lease>,
    version: u64,
    /// True while the API server does not answer.
    pub away: bool,
}

impl Server {
    fn carry_out(&mut self, request: LeaseRequest, ready: BTreeSet<String>) -> Result<LeaseAnswer, CallError> {
        match request {
            LeaseRequest::ReadLease => Ok(LeaseAnswer::Read(self.lease.clone().map(Box::new))),
            LeaseRequest::ListReady => Ok(LeaseAnswer::Ready(ready)),
            LeaseRequest::WriteLease(mut lease) => {
                let known = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
                if lease.metadata.resource_version != known {
                    return Err(CallError::Conflict);
                }
                self.version += 1;
                lease.metadata.resource_version = Some(self.version.to_string());
                self.lease = Some((*lease).clone());
                Ok(LeaseAnswer::Written(lease))
            }
        }
    }
}

impl World {
    /// Sends a publisher's request to the API server. While the server is away, there is no answer.
    pub(crate) fn call(&mut self, publisher: usize, call: CallId, request: LeaseRequest) {
        if self.server.away {
            return;
        }
        let ready = self.publishers.iter().filter(|publisher| publisher.running && publisher.tor);
        let ready = ready.map(|publisher| publisher.identity.clone()).collect();
        let answer = self.server.carry_out(request, ready);
        let delay = between(Duration::from_millis(5), Duration::from_millis(60), &mut self.rng);
        let Some(process) = self.publishers.get(publisher).map(|publisher| publisher.process) else { return };
        self.after(delay, Event::Answer { publisher, process, call, answer });
    }
}
