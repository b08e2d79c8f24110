//! Runs a publisher without Kubernetes, with a fixed set of backends, for tests and measurements.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::RunError;
use super::args::PublisherArgs;
use super::cluster::{self, Neighbours};
use super::conduct::{CallError, CallId, LeaseAnswer, LeaseRequest};
use super::guards::GuardLinks;
use super::object::{Object, Restriction};
use super::pods::Pod;
use super::status::Facts;
use crate::common::tor_gate::Gate;
use crate::crd::clients::ClientList;
use crate::crd::{AddressProbe, HttpProbe};
use crate::link::AgentToken;
use crate::merge::BackendId;
use crate::onion::{ClientPublicKey, OnionAddress};

/// The fixed backends and clients of a publisher without Kubernetes.
#[derive(Debug, Clone, Default)]
pub struct FixedBackends {
    /// The backends that have an agent.
    pub backends: Vec<FixedBackend>,
    /// The onion addresses of external backends.
    pub external: BTreeSet<OnionAddress>,
    /// The clients that are authorized to discover the service. If the list is empty, every client
    /// can discover it.
    pub clients: Vec<ClientPublicKey>,
    /// The interval in seconds at which port 80 of the address is probed from outside, with an HTTP
    /// request. None if the address is not probed.
    pub probe_seconds: Option<u32>,
}

/// A backend with an agent, written `POD_UID@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedBackend {
    /// The pod UID with which the agent was started.
    pub uid: String,
    /// The address of the agent (`host:port`).
    pub agent: String,
}

impl FromStr for FixedBackend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, agent) = text.split_once('@').ok_or("not of the form POD_UID@HOST:PORT")?;
        Ok(Self { uid: uid.to_owned(), agent: agent.to_owned() })
    }
}

/// Runs a publisher without Kubernetes until SIGTERM or SIGINT. It writes no status and always
/// holds its own in-memory Lease.
pub async fn run_fixed(args: PublisherArgs, fixed: FixedBackends) -> Result<(), RunError> {
    let connect = async |pod_uid: &str, _: AgentToken, gate: Arc<Gate>, parts: &mut JoinSet<()>| {
        // Nobody keeps shared guards.
        gate.open();
        Ok(neighbours(pod_uid, fixed, parts))
    };
    cluster::serve(&args, connect).await
}

fn neighbours(pod_uid: &str, fixed: FixedBackends, parts: &mut JoinSet<()>) -> Neighbours {
    let pods = fixed.backends.into_iter().map(|FixedBackend { uid, agent }| {
        let pod = Pod { name: uid.clone(), agent: Some(agent), ready: true, terminating: false };
        (BackendId(uid), pod)
    });
    let clients = fixed.clients.into_iter().map(|key| (key.to_string(), key)).collect::<Vec<_>>();
    let restriction = (!clients.is_empty()).then(|| {
        let clients = ClientList { clients, ..ClientList::default() };
        Restriction { clients, secret_name: None }
    });
    let probe = fixed.probe_seconds.map(|period_seconds| AddressProbe {
        period_seconds,
        timeout_seconds: 60,
        http: Some(HttpProbe::default()),
        ..AddressProbe::default()
    });
    let external_backends = fixed.external;
    let object = Object { restriction, external_backends, probe, ports: vec![80], ..Object::default() };
    let (calls, calls_out) = mpsc::unbounded_channel();
    let (answers_in, answers) = mpsc::channel(1);
    parts.spawn(answer(calls_out, answers_in));
    Neighbours {
        service: "fixed".to_owned(),
        identity: pod_uid.to_owned(),
        pods: watch::channel(Arc::new(pods.collect())).1,
        object: watch::channel(Some(Arc::new(object))).1,
        clients: watch::channel(None).1,
        calls,
        answers,
        status: watch::channel(Facts::default()).0,
        guards: GuardLinks::unused(),
        vanguards: None,
    }
}

/// Answers the publisher's Lease calls from a Lease in memory. There is no other publisher.
async fn answer(
    mut calls: mpsc::UnboundedReceiver<(CallId, LeaseRequest)>,
    answers: mpsc::Sender<(CallId, Result<LeaseAnswer, CallError>)>,
) {
    let mut stored = None;
    while let Some((id, request)) = calls.recv().await {
        let answer = match request {
            LeaseRequest::ReadLease => LeaseAnswer::Read(stored.clone()),
            LeaseRequest::WriteLease(lease) => LeaseAnswer::Written(stored.insert(lease).clone()),
            LeaseRequest::ListReady => LeaseAnswer::Ready(BTreeSet::new()),
        };
        if answers.send((id, Ok(answer))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_backend() {
        let backend: FixedBackend = "b@[::1]:1".parse().unwrap();
        assert_eq!((backend.uid.as_str(), backend.agent.as_str()), ("b", "[::1]:1"));
        assert!("no-address".parse::<FixedBackend>().is_err());
    }
}
