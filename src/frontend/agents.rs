//! The agents of the backend pods: each is asked about once a second for its introduction points, and told its pod's phase.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::check::{Refused, open};
use super::clock::Clock;
use super::pods::{Pod, Pods};
use super::sync::{DEADLINE, Question, SyncClient};
use crate::consensus::Network;
use crate::link::{PodPhase, Revision, SyncResponse};
use crate::merge::BackendId;
use crate::onion::{OnionAddress, ServiceContent};

/// How often an agent is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often one is asked that has yet to answer, until it is told to be silent, or to have points: its pod or its tor is starting.
const EAGER: Duration = Duration::from_millis(250);

/// What the publisher knows that the conversations need.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    pub(super) pods: Arc<Pods>,
    /// Backends whose points no HSDir holds any more.
    pub(super) withdrawn: BTreeSet<BackendId>,
    pub(super) leading: bool,
    pub(super) network: Option<Arc<Network>>,
}

impl Orders {
    pub(super) fn same(&self, other: &Self) -> bool {
        let network = |orders: &Self| orders.network.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.pods, &other.pods)
            && self.withdrawn == other.withdrawn
            && self.leading == other.leading
            && network(self) == network(other)
    }
}

/// What a backend says, told when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// It has points.
    Points(OnionAddress, Arc<ServiceContent>),
    /// It answers, and has no points.
    NoPoints(OnionAddress),
    /// It has not answered for too long.
    Silent,
}

/// Speaks with every pod of the orders, until the publisher is gone.
pub(super) async fn run(
    client: SyncClient,
    clock: Clock,
    silence: Duration,
    mut orders: watch::Receiver<Orders>,
    reports: mpsc::Sender<(BackendId, Report)>,
) {
    let mut conversations = Conversations::default();
    loop {
        let pods = orders.borrow_and_update().pods.clone();
        conversations.0.retain(|id, _| pods.contains_key(id));
        for id in pods.keys() {
            conversations.0.entry(id.clone()).or_insert_with(|| {
                let conversation = Conversation {
                    id: id.clone(),
                    client: client.clone(),
                    clock,
                    silence,
                    orders: orders.clone(),
                    reports: reports.clone(),
                    known: None,
                    told: None,
                    quiet: Quiet { since: clock.now().elapsed, total: Duration::ZERO },
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

/// With one agent, for as long as its pod is there.
struct Conversation {
    id: BackendId,
    client: SyncClient,
    clock: Clock,
    silence: Duration,
    orders: watch::Receiver<Orders>,
    reports: mpsc::Sender<(BackendId, Report)>,
    /// The last points taken in.
    known: Option<(Revision, Arc<ServiceContent>)>,
    told: Option<Report>,
    quiet: Quiet,
}

impl Conversation {
    async fn run(mut self) {
        while let Some(matter) = self.matter() {
            let asked = Instant::now();
            let report = match self.ask(&matter).await {
                Some(report) => Some(report),
                None => (self.quiet.count(self.clock.now().elapsed) >= self.silence).then_some(Report::Silent),
            };
            let starts = match &report {
                Some(report) => matches!(report, Report::NoPoints(_)),
                None => self.told.is_none(),
            };
            let interval = if starts { EAGER } else { INTERVAL };
            if let Some(report) = report.filter(|report| self.told.as_ref() != Some(report)) {
                self.told = Some(report.clone());
                if self.reports.send((self.id.clone(), report)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sleep_until(asked + interval) => {}
                () = news(&mut self.orders, &self.id, &matter) => {}
            }
        }
    }

    fn matter(&self) -> Option<Matter> {
        Matter::of(&self.orders.borrow(), &self.id)
    }

    /// One question. None: no answer that counts.
    async fn ask(&mut self, matter: &Matter) -> Option<Report> {
        let authority = matter.pod.agent.as_deref()?;
        let question = Question {
            leading: matter.leading,
            phase: matter.phase,
            known_revision: self.known.as_ref().map(|(revision, _)| *revision),
        };
        let patience = self.quiet.patience(self.clock.now().elapsed, self.silence);
        let answer = match self.client.ask(&self.id.0, authority, question, patience).await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(pod = matter.pod.name, %error, cause, "an agent does not answer");
                return None;
            }
        };
        let network = self.orders.borrow().network.clone();
        match self.take_in(answer, network.as_deref()) {
            Ok(report) => {
                self.quiet = Quiet { since: self.clock.now().elapsed, total: Duration::ZERO };
                Some(report)
            }
            Err(error) => {
                tracing::warn!(pod = matter.pod.name, %error, "an agent's descriptor is not accepted");
                None
            }
        }
    }

    fn take_in(&mut self, answer: SyncResponse, network: Option<&Network>) -> Result<Report, Refused> {
        let address = answer.onion_address;
        if answer.introduction_points == 0 {
            return Ok(Report::NoPoints(address));
        }
        if let Some((revision, content)) = &self.known
            && *revision == answer.revision
        {
            return Ok(Report::Points(address, content.clone()));
        }
        // Which keys are current cannot be told before the first consensus.
        let Some(network) = network else { return Ok(Report::NoPoints(address)) };
        let text = answer.descriptor.ok_or(Refused::Missing)?;
        let content = open(&text, &address, network, self.clock.now().wall)?.content;
        if content.introduction_points.is_empty() {
            return Ok(Report::NoPoints(address));
        }
        let (_, content) = self.known.insert((answer.revision, content));
        Ok(Report::Points(address, content.clone()))
    }
}

/// How long an agent has not answered. Time in which this process itself stood still does not count: else it would take all
/// backends for dead when it wakes.
#[derive(Debug)]
struct Quiet {
    /// When it was last counted, on the monotonic clock.
    since: Duration,
    total: Duration,
}

impl Quiet {
    /// One more question without an answer.
    fn count(&mut self, elapsed: Duration) -> Duration {
        self.total += elapsed.saturating_sub(self.since).min(INTERVAL + DEADLINE);
        self.since = elapsed;
        self.total
    }

    /// How long the next answer is waited for: no longer than until the agent counts as silent.
    fn patience(&self, elapsed: Duration, silence: Duration) -> Duration {
        let left = silence.saturating_sub(self.total + elapsed.saturating_sub(self.since));
        if left.is_zero() { DEADLINE } else { left.min(DEADLINE) }
    }
}

/// What a conversation is about; when it changes, the agent is asked at once.
#[derive(Debug, PartialEq, Eq)]
struct Matter {
    pod: Pod,
    phase: PodPhase,
    leading: bool,
}

impl Matter {
    fn of(orders: &Orders, id: &BackendId) -> Option<Self> {
        let pod = orders.pods.get(id)?.clone();
        let phase = phase(pod.terminating, orders.withdrawn.contains(id));
        Some(Self { pod, phase, leading: orders.leading })
    }
}

fn phase(terminating: bool, withdrawn: bool) -> PodPhase {
    match (terminating, withdrawn) {
        (false, _) => PodPhase::Active,
        (true, false) => PodPhase::Terminating,
        (true, true) => PodPhase::Withdrawn,
    }
}

/// Waits until the orders for this backend are other ones.
async fn news(orders: &mut watch::Receiver<Orders>, id: &BackendId, before: &Matter) {
    // An error means that the publisher is gone, and then this task, too, is soon.
    let _ = orders.wait_for(|orders| Matter::of(orders, id).as_ref() != Some(before)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases() {
        assert_eq!(phase(false, false), PodPhase::Active);
        assert_eq!(phase(true, false), PodPhase::Terminating);
        assert_eq!(phase(true, true), PodPhase::Withdrawn);
        assert_eq!(phase(false, true), PodPhase::Active, "a pod that is not terminating is never told to drain");
    }

    #[test]
    fn silence_adds_up_but_not_over_a_pause_of_our_own() {
        let seconds = Duration::from_secs;
        let mut quiet = Quiet { since: seconds(100), total: Duration::ZERO };
        assert_eq!(quiet.count(seconds(103)), seconds(3));
        assert_eq!(quiet.count(seconds(107)), seconds(7));
        assert_eq!(quiet.count(seconds(500)), seconds(11), "this process was stopped");
    }

    #[test]
    fn an_agent_is_silent_on_time() {
        let seconds = Duration::from_secs;
        let silence = seconds(8);
        let mut quiet = Quiet { since: seconds(100), total: Duration::ZERO };
        assert_eq!(quiet.patience(seconds(101), silence), DEADLINE);
        quiet.count(seconds(104));
        assert_eq!(quiet.patience(seconds(104), silence), DEADLINE);
        quiet.count(seconds(107));
        assert_eq!(quiet.patience(seconds(107), silence), seconds(1));
        assert_eq!(quiet.count(seconds(108)), silence);
        assert_eq!(quiet.patience(seconds(108), silence), DEADLINE, "it is asked on");
    }

    #[test]
    fn what_makes_an_agent_be_asked_at_once() {
        let id = BackendId("u".into());
        let pod = Pod { name: "a".into(), agent: Some("10.0.0.1:9400".into()), ready: true, terminating: false };
        let orders =
            |pod: &Pod| Orders { pods: Arc::new(Pods::from([(id.clone(), pod.clone())])), ..Orders::default() };
        let before = Matter::of(&orders(&pod), &id).unwrap();
        let not_ready = Pod { ready: false, ..pod.clone() };
        let terminating = Pod { terminating: true, ..pod.clone() };
        assert_eq!(Matter::of(&orders(&pod), &id), Some(before));
        for changed in [not_ready, terminating.clone()] {
            assert_ne!(Matter::of(&orders(&changed), &id), Matter::of(&orders(&pod), &id));
        }
        let withdrawn = Orders { withdrawn: BTreeSet::from([id.clone()]), ..orders(&terminating) };
        assert_eq!(Matter::of(&withdrawn, &id).unwrap().phase, PodPhase::Withdrawn);
        assert_eq!(Matter::of(&Orders::default(), &id), None, "gone");
    }
}
