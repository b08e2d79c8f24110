//! Polls the agents of the backend pods. About once a second, and more often while introduction
//! points change, each agent is asked for its points and informed of its pod's phase.

pub(super) mod polling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use self::polling::{Outcome, Polling};
use super::check::{DescriptorRefused, open};
use super::clock::Clock;
use super::directory::{Agent, AgentDirectory};
use super::guards::{AgentGuards, GuardNews};
use super::pods::{Pod, Pods};
use super::sync::{Question, SyncClient};
use super::targets::TargetReport;
use super::vanguard_stage::AgentVanguards;
use crate::common::log_limit::{Line, LogLimit};
use crate::consensus::Network;
use crate::link::{PodPhase, Revision, SyncResponse};
use crate::merge::BackendId;
use crate::onion::{OnionAddress, ServiceContent};

/// The part of the publisher's state that determines how the agents are polled.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentOrders {
    /// The backend pods.
    pub(super) pods: Arc<Pods>,
    /// The backends whose introduction points have been withdrawn from all HSDirs.
    pub(super) withdrawn: BTreeSet<BackendId>,
    /// True if this publisher holds the Lease.
    pub(super) leading: bool,
    /// The backends that are withdrawn because a target fails there but not elsewhere.
    pub(super) unhealthy: BTreeSet<BackendId>,
    /// The newest round of checks, or 0 before the first one.
    pub(super) round: u64,
    /// The Tor network, which is needed to check descriptors.
    pub(super) network: Option<Arc<Network>>,
}

impl AgentOrders {
    /// Returns true if `other` has the same content. Shared values are compared by pointer.
    pub(super) fn same(&self, other: &Self) -> bool {
        let network = |orders: &Self| orders.network.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.pods, &other.pods)
            && self.withdrawn == other.withdrawn
            && self.leading == other.leading
            && self.unhealthy == other.unhealthy
            && self.round == other.round
            && network(self) == network(other)
    }
}

/// A report on a backend, sent when its state changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AgentReport {
    /// The backend has these introduction points.
    Points(OnionAddress, Arc<ServiceContent>),
    /// The backend answers but has no introduction points.
    NoPoints(OnionAddress),
    /// The backend has not answered for longer than the configured threshold.
    Silent,
}

/// News from an agent, sent when they differ from the previous ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AgentNews {
    /// The state of the backend.
    Backend(AgentReport),
    /// The health of the targets, as the backend sees them.
    Targets(TargetReport),
}

/// Polls the agent of each pod in `orders` until the publisher stops. Records the agents that
/// answer in `directory`.
pub(super) async fn run(
    client: SyncClient,
    directory: AgentDirectory,
    clock: Clock,
    silence: Duration,
    mut orders: watch::Receiver<AgentOrders>,
    reports: mpsc::Sender<(BackendId, AgentNews)>,
    (guards, vanguards): (AgentGuards, AgentVanguards),
) {
    let mut conversations = Conversations::default();
    loop {
        let pods = orders.borrow_and_update().pods.clone();
        conversations.0.retain(|id, _| pods.contains_key(id));
        directory.retain(|id| pods.contains_key(id));
        for id in pods.keys() {
            conversations.0.entry(id.clone()).or_insert_with(|| {
                let conversation = Conversation {
                    id: id.clone(),
                    client: client.clone(),
                    directory: directory.clone(),
                    clock,
                    orders: orders.clone(),
                    reports: reports.clone(),
                    guards: guards.clone(),
                    vanguards: vanguards.clone(),
                    used_vanguards: None,
                    known: None,
                    known_guards: 0,
                    awaits_guards: false,
                    reported: None,
                    targets: TargetReport::default(),
                    polling: Polling::new(silence, clock.now().elapsed),
                    refusals: LogLimit::default(),
                };
                AbortOnDrop(tokio::spawn(conversation.run()).abort_handle())
            });
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Conversations(BTreeMap<BackendId, AbortOnDrop>);

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The state of the task that polls one agent. The task runs as long as the agent's pod exists.
struct Conversation {
    id: BackendId,
    client: SyncClient,
    directory: AgentDirectory,
    clock: Clock,
    orders: watch::Receiver<AgentOrders>,
    reports: mpsc::Sender<(BackendId, AgentNews)>,
    guards: AgentGuards,
    vanguards: AgentVanguards,
    /// The number of the vanguards that the backend uses, if its pod shares vanguards.
    used_vanguards: Option<u64>,
    /// The newest introduction points that were accepted, with their revision.
    known: Option<(Revision, Arc<ServiceContent>)>,
    /// The `id` of the last report on guards that was passed on.
    known_guards: u64,
    /// True if the agent's tor waits for the shared guards.
    awaits_guards: bool,
    reported: Option<AgentReport>,
    /// The report on the targets that was sent last.
    targets: TargetReport,
    polling: Polling,
    /// The limit for the warnings about descriptors, which a faulty agent causes with each answer.
    refusals: LogLimit,
}

impl Conversation {
    async fn run(mut self) {
        while let Some(topic) = self.topic() {
            let asked = Instant::now();
            let answer = self.ask(&topic).await;
            let outcome = match &answer {
                Some(AgentReport::Points(..)) if self.reported == answer => Outcome::Points,
                Some(AgentReport::Points(..)) => Outcome::Changed,
                Some(AgentReport::NoPoints(_)) => Outcome::NoPoints,
                Some(AgentReport::Silent) | None => Outcome::NoAnswer,
            };
            let next = self.polling.ended(outcome, self.clock.now().elapsed);
            let report = answer.or(next.silent.then_some(AgentReport::Silent));
            if let Some(report) = report.filter(|report| self.reported.as_ref() != Some(report)) {
                if report == AgentReport::Silent {
                    // The publisher forgets the targets of a silent backend.
                    self.targets = TargetReport::default();
                }
                self.reported = Some(report.clone());
                if !self.send(AgentNews::Backend(report)).await {
                    return;
                }
            }
            tokio::select! {
                () = sleep_until(asked + next.interval) => {}
                () = changed(&mut self.orders, &self.id, &topic) => {}
            }
        }
    }

    /// Sends news to the publisher. Returns false if the publisher has stopped.
    async fn send(&self, news: AgentNews) -> bool {
        self.reports.send((self.id.clone(), news)).await.is_ok()
    }

    fn topic(&self) -> Option<Topic> {
        Topic::of(&self.orders.borrow(), &self.id)
    }

    /// Polls the agent once. Returns None if there is no valid answer.
    async fn ask(&mut self, topic: &Topic) -> Option<AgentReport> {
        let authority = topic.pod.agent.as_deref()?;
        let question = Question {
            leading: topic.leading,
            phase: topic.phase,
            known_revision: self.known.as_ref().map(|(revision, _)| *revision),
            known_guards: self.known_guards,
            shared_guards: self.guards.shared.borrow().clone().filter(|_| self.awaits_guards),
            vanguards: self.vanguards.offers.borrow().of(&self.id, self.used_vanguards).filter(|_| topic.leading),
            round: topic.round,
            unhealthy: topic.unhealthy,
        };
        let patience = self.polling.patience(self.clock.now().elapsed);
        let mut answer = match self.client.ask(&self.id.0, authority, question, patience).await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(pod = topic.pod.name, %error, cause, "an agent did not send a valid answer");
                return None;
            }
        };
        let agent = Agent { onion_address: answer.onion_address, authority: authority.to_owned() };
        self.directory.answered(&self.id, agent);
        self.awaits_guards = answer.awaits_guards;
        self.used_vanguards = answer.vanguards;
        if let Some(used) = answer.vanguards {
            self.vanguards.board.answered(&self.id, used);
        }
        if let Some(report) = answer.guards.take() {
            let id = report.id;
            let news = GuardNews { backend: self.id.clone(), report };
            // If the queue is full, the agent sends the report again. Without Kubernetes, nobody
            // keeps the guards.
            if !matches!(self.guards.news.try_send(news), Err(TrySendError::Full(_))) {
                self.known_guards = id;
            }
        }
        let targets = TargetReport { round: topic.round, ports: std::mem::take(&mut answer.targets) };
        if self.targets.ports != targets.ports || (self.targets.round != targets.round && has_fresh(&targets)) {
            self.targets = targets.clone();
            // The loop ends after the next report if nobody receives this one.
            self.send(AgentNews::Targets(targets)).await;
        }
        let network = self.orders.borrow().network.clone();
        match self.take_in(answer, network.as_deref()) {
            Ok(report) => Some(report),
            Err(error) => {
                if let Some(Line { suppressed }) = self.refusals.line() {
                    tracing::warn!(pod = topic.pod.name, %error, suppressed, "rejected an agent's descriptor");
                }
                None
            }
        }
    }

    fn take_in(&mut self, answer: SyncResponse, network: Option<&Network>) -> Result<AgentReport, DescriptorRefused> {
        let address = answer.onion_address;
        if answer.introduction_points == 0 {
            return Ok(AgentReport::NoPoints(address));
        }
        if let Some((revision, content)) = &self.known
            && *revision == answer.revision
        {
            return Ok(AgentReport::Points(address, content.clone()));
        }
        // Without a consensus, the current time periods are unknown, and so are the valid keys.
        let Some(network) = network else { return Ok(AgentReport::NoPoints(address)) };
        let text = answer.descriptor.ok_or(DescriptorRefused::Missing)?;
        let content = open(&text, &address, network, self.clock.now().wall)?.content;
        if content.introduction_points.is_empty() {
            return Ok(AgentReport::NoPoints(address));
        }
        let (_, content) = self.known.insert((answer.revision, content));
        Ok(AgentReport::Points(address, content.clone()))
    }
}

/// Returns true if a report contains the result of a check that began after its round.
fn has_fresh(report: &TargetReport) -> bool {
    report.ports.iter().any(|target| target.fresh.is_some())
}

/// The facts on which a request to an agent depends. When they change, the agent is polled
/// immediately.
#[derive(Debug, PartialEq, Eq)]
struct Topic {
    pod: Pod,
    phase: PodPhase,
    leading: bool,
    round: u64,
    unhealthy: bool,
}

impl Topic {
    fn of(orders: &AgentOrders, id: &BackendId) -> Option<Self> {
        let pod = orders.pods.get(id)?.clone();
        let phase = phase(pod.terminating, orders.withdrawn.contains(id));
        let unhealthy = orders.unhealthy.contains(id);
        Some(Self { pod, phase, leading: orders.leading, round: orders.round, unhealthy })
    }
}

fn phase(terminating: bool, withdrawn: bool) -> PodPhase {
    match (terminating, withdrawn) {
        (false, _) => PodPhase::Active,
        (true, false) => PodPhase::Terminating,
        (true, true) => PodPhase::Withdrawn,
    }
}

/// Waits until the facts about a backend differ from `before`.
async fn changed(orders: &mut watch::Receiver<AgentOrders>, id: &BackendId, before: &Topic) {
    // An error means that the publisher has stopped, and this task ends with it.
    let _ = orders.wait_for(|orders| Topic::of(orders, id).as_ref() != Some(before)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_of_a_pod() {
        assert_eq!(phase(false, false), PodPhase::Active);
        assert_eq!(phase(true, false), PodPhase::Terminating);
        assert_eq!(phase(true, true), PodPhase::Withdrawn);
        assert_eq!(phase(false, true), PodPhase::Active, "a pod that is not terminating never has to drain");
    }

    #[test]
    fn relevant_changes_are_sent_to_the_agent_at_once() {
        let id = BackendId("u".into());
        let pod = Pod { name: "a".into(), agent: Some("10.0.0.1:9400".into()), ready: true, terminating: false };
        let orders = |pod: &Pod| AgentOrders {
            pods: Arc::new(Pods::from([(id.clone(), pod.clone())])),
            ..AgentOrders::default()
        };
        let before = Topic::of(&orders(&pod), &id).unwrap();
        let not_ready = Pod { ready: false, ..pod.clone() };
        let terminating = Pod { terminating: true, ..pod.clone() };
        assert_eq!(Topic::of(&orders(&pod), &id), Some(before));
        for changed in [not_ready, terminating.clone()] {
            assert_ne!(Topic::of(&orders(&changed), &id), Topic::of(&orders(&pod), &id));
        }
        let asks = AgentOrders { round: 1, ..orders(&pod) };
        assert_ne!(Topic::of(&asks, &id), Topic::of(&orders(&pod), &id), "a new round");
        let unhealthy = AgentOrders { unhealthy: BTreeSet::from([id.clone()]), ..orders(&pod) };
        assert!(Topic::of(&unhealthy, &id).unwrap().unhealthy);
        let withdrawn = AgentOrders { withdrawn: BTreeSet::from([id.clone()]), ..orders(&terminating) };
        assert_eq!(Topic::of(&withdrawn, &id).unwrap().phase, PodPhase::Withdrawn);
        assert_eq!(Topic::of(&AgentOrders::default(), &id), None, "gone");
    }
}
