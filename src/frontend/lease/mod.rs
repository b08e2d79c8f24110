//! The Lease: which of a service's publishers posts, and where the next one finds the revision counters.

mod counters;
mod fitness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

pub(super) use counters::Counters;
use fitness::CutOff;
pub(super) use fitness::Fitness;

use super::clock::Clock;
use super::object::Object;
use super::pods::is_ready;
use crate::common::complaint::{Complaint, cause};
use crate::common::election::{self, Decision, Election, Record};
use crate::crd::names::{self, Component};
use crate::crd::{OnionBalancedService, PUBLISHER_MANAGER};

/// How often the holder renews.
pub(super) const RENEWAL: Duration = Duration::from_secs(5);
/// How often a standby looks, and a failed call is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The API server's time to answer.
const DEADLINE: Duration = Duration::from_secs(4);
/// Writes that another's write came before.
const CONFLICTS: usize = 3;

/// What is known of the Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LeaseState {
    /// It was read at least once.
    pub(super) known: bool,
    /// It is ours. While the API server cannot be reached, what was last known stays: the holder goes on.
    pub(super) held: bool,
    /// The newest `recheck` that a reading answered.
    pub(super) checked: u64,
    /// What its annotation holds.
    pub(super) counters: Counters,
}

/// What the publisher wants of the Lease. A change is seen to at once.
#[derive(Debug, Clone, Default)]
pub(super) struct LeaseOrders {
    /// Counters to keep.
    pub(super) counters: Counters,
    /// Rises when the Lease is to be read before anything is posted.
    pub(super) recheck: u64,
    pub(super) fitness: Fitness,
    /// HSDirs answer this publisher: if others gave the Lease up because none did, that is over.
    pub(super) proven: bool,
    /// Give it back and end.
    pub(super) release: bool,
}

/// Holds the Lease, or waits for it.
pub(super) struct LeaseKeeper {
    api: Api<Lease>,
    pods: Api<Pod>,
    service: String,
    election: Election,
    clock: Clock,
    object: watch::Receiver<Option<Arc<Object>>>,
    state: watch::Sender<LeaseState>,
    /// Since when (monotonic clock) it is ours, as far as this process knows.
    held_since: Option<Duration>,
    complaint: Complaint,
}

/// Why nothing can be done about the Lease.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot read or write it: {}", cause(.0))]
    Api(#[from] kube::Error),
    #[error("the API server does not answer")]
    Silent(#[from] Elapsed),
    #[error(
        "{name} is there and does not belong to this service (its labels say so; its holder is {holder:?}): nothing is published; \
         remove it, or give the OnionBalancedService another name"
    )]
    Foreign { name: String, holder: String },
}

impl LeaseKeeper {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        service: &str,
        identity: String,
        clock: Clock,
        object: watch::Receiver<Option<Arc<Object>>>,
        state: watch::Sender<LeaseState>,
    ) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            service: service.to_owned(),
            election: Election::new(identity),
            clock,
            object,
            state,
            held_since: None,
            complaint: Complaint::default(),
        }
    }

    /// Runs until it is told to release the Lease.
    pub(super) async fn run(mut self, mut orders: watch::Receiver<LeaseOrders>) {
        // The object's UID is needed for the owner reference.
        let has_object = async { self.object.wait_for(Option::is_some).await.is_ok() };
        let may_begin = tokio::select! {
            has_object = has_object => has_object,
            _ = orders.wait_for(|orders| orders.release) => false,
        };
        if !may_begin {
            return;
        }
        loop {
            let wanted = orders.borrow_and_update().clone();
            if wanted.release {
                return self.release(&wanted).await;
            }
            let step = timeout(DEADLINE, self.step(&wanted)).await;
            let pause = match step.map_err(Problem::from).flatten() {
                Ok(()) => {
                    self.complaint.settle();
                    if self.state.borrow().held { RENEWAL } else { RETRY }
                }
                Err(problem) => {
                    self.complaint.utter("the Lease", &problem);
                    RETRY
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                changed = orders.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Reads the Lease, and takes or renews it when that is ours to do.
    async fn step(&mut self, wanted: &LeaseOrders) -> Result<(), Problem> {
        for _ in 0..CONFLICTS {
            let lease = self.api.get_opt(&self.name()).await?;
            if let Some(foreign) = lease.as_ref().filter(|lease| !self.is_of_this_service(lease)) {
                self.tell(false, wanted.recheck, None);
                return Err(Problem::Foreign { name: self.name(), holder: Record::of(foreign).holder });
            }
            let decision = self.election.decide(lease.as_ref().map(Record::of), self.clock.now().elapsed);
            if decision == Decision::StandBy {
                self.tell(false, wanted.recheck, lease.as_ref());
                return Ok(());
            }
            if wanted.fitness.yields(decision) {
                let (cut_off, held) = (cut_off(lease.as_ref()), self.held_for());
                let (identity, ready) = (self.election.identity(), self.ready_others().await?);
                if wanted.fitness.yields_to(decision, identity, &ready, &cut_off, held) {
                    self.tell(false, wanted.recheck, lease.as_ref());
                    return match lease.filter(|_| decision == Decision::Renew) {
                        Some(lease) => Ok(self.give_up(lease, wanted, cut_off, held).await?),
                        None => Ok(()),
                    };
                }
            }
            if decision == Decision::Renew {
                self.tell(true, wanted.recheck, lease.as_ref());
            }
            match self.write(lease, decision, wanted).await {
                Ok(written) => {
                    self.tell(true, wanted.recheck, Some(&written));
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes the Lease as ours. The resource version that was read goes along: if another wrote meanwhile, this fails.
    async fn write(&self, lease: Option<Lease>, decision: Decision, wanted: &LeaseOrders) -> kube::Result<Lease> {
        let exists = lease.is_some();
        let mut lease = lease.unwrap_or_else(|| self.fresh());
        self.own(&mut lease);
        keep_counters(&mut lease, &wanted.counters);
        if wanted.proven {
            lease.annotations_mut().remove(fitness::ANNOTATION);
        }
        self.election.claim(lease.spec.get_or_insert_default(), decision, timestamp(self.clock));
        if exists {
            self.api.replace(&self.name(), &as_publisher(), &lease).await
        } else {
            self.api.create(&as_publisher(), &lease).await
        }
    }

    /// The other publishers of the service whose pods are Ready, which only those with a bootstrapped tor are.
    async fn ready_others(&self) -> kube::Result<BTreeSet<String>> {
        let frontends = ListParams::default().labels(&names::pod_selector(&self.service, Component::Frontend));
        let pods = self.pods.list(&frontends).await?.items;
        let ready = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod));
        let identities = ready.map(|pod| identity(&pod.name_any(), &pod.uid().unwrap_or_default()));
        Ok(identities.filter(|identity| identity != self.election.identity()).collect())
    }

    /// Gives the Lease to whoever takes it, and goes on as a standby.
    async fn give_up(
        &self,
        mut lease: Lease,
        wanted: &LeaseOrders,
        cut_off: CutOff,
        held: Duration,
    ) -> kube::Result<()> {
        let reason = if wanted.fitness == Fitness::CutOff {
            let cut_off = cut_off.and(self.election.identity(), held).to_string();
            lease.annotations_mut().insert(fitness::ANNOTATION.to_owned(), cut_off);
            "no HSDir answers"
        } else {
            "there is no working tor here"
        };
        self.vacate(lease, wanted).await?;
        tracing::warn!("gave the Lease up: {reason}, and another publisher is ready");
        Ok(())
    }

    async fn vacate(&self, mut lease: Lease, wanted: &LeaseOrders) -> kube::Result<()> {
        keep_counters(&mut lease, &wanted.counters);
        election::vacate(lease.spec.get_or_insert_default(), timestamp(self.clock));
        self.api.replace(&self.name(), &as_publisher(), &lease).await.map(drop)
    }

    /// Gives the Lease back, so that the next publisher need not wait; the last counters go with it.
    async fn release(&self, wanted: &LeaseOrders) {
        if !self.state.borrow().held {
            return;
        }
        let released = timeout(DEADLINE, async {
            let lease = self.api.get(&self.name()).await?;
            if Record::of(&lease).holder != self.election.identity() {
                return Ok(());
            }
            self.vacate(lease, wanted).await
        });
        match released.await {
            Ok(Ok(())) => tracing::info!("gave the Lease back"),
            Ok(Err(error)) => tracing::warn!(error = cause(&error), "could not give the Lease back; it expires"),
            Err(_) => tracing::warn!("the API server did not answer; the Lease expires"),
        }
    }

    fn tell(&mut self, held: bool, checked: u64, lease: Option<&Lease>) {
        let text = lease.and_then(|lease| lease.annotations().get(counters::ANNOTATION));
        let counters = text.map(|text| Counters::parse(text)).unwrap_or_default();
        self.held_since = self.held_since.or(Some(self.clock.now().elapsed)).filter(|_| held);
        let now = LeaseState { known: true, held, checked, counters };
        self.state.send_if_modified(|state| {
            if state.held != held || !state.known {
                tracing::info!(held, holder = lease.map(|lease| Record::of(lease).holder), "the Lease");
            }
            let changed = *state != now;
            *state = now;
            changed
        });
    }

    fn held_for(&self) -> Duration {
        self.held_since.map_or(Duration::ZERO, |since| self.clock.now().elapsed.saturating_sub(since))
    }

    /// A publisher of this service made it: it has our labels, and nobody else controls it.
    fn is_of_this_service(&self, lease: &Lease) -> bool {
        let controlled = lease.owner_references().iter().any(|owner| owner.controller == Some(true));
        !controlled && names::is_labelled(lease.metadata.labels.as_ref(), &self.service)
    }

    fn name(&self) -> String {
        Component::Frontend.child_name(&self.service)
    }

    fn fresh(&self) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name());
        lease.metadata.labels = Some(names::labels(&self.service, Some(Component::Frontend)));
        lease
    }

    /// The object owns its Lease: it goes when the object goes.
    fn own(&self, lease: &mut Lease) {
        let Some(uid) = self.object.borrow().as_ref().map(|object| object.uid.clone()) else { return };
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: OnionBalancedService::api_version(&()).into_owned(),
            kind: OnionBalancedService::kind(&()).into_owned(),
            name: self.service.clone(),
            uid,
            ..OwnerReference::default()
        }]);
    }
}

/// Raises the annotation to our counters; what another publisher wrote there stays when it is greater.
fn keep_counters(lease: &mut Lease, ours: &Counters) {
    let annotations = lease.annotations_mut();
    let mut counters = annotations.get(counters::ANNOTATION).map(|text| Counters::parse(text)).unwrap_or_default();
    counters.merge(ours);
    annotations.insert(counters::ANNOTATION.to_owned(), counters.to_string());
}

fn cut_off(lease: Option<&Lease>) -> CutOff {
    let text = lease.and_then(|lease| lease.annotations().get(fitness::ANNOTATION));
    text.map(|text| CutOff::parse(text)).unwrap_or_default()
}

/// What a publisher is called in the Lease.
pub(super) fn identity(pod_name: &str, pod_uid: &str) -> String {
    format!("{pod_name}_{pod_uid}")
}

fn timestamp(clock: Clock) -> Timestamp {
    Timestamp::try_from(clock.now().wall).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn as_publisher() -> PostParams {
    PostParams { field_manager: Some(PUBLISHER_MANAGER.to_owned()), ..PostParams::default() }
}
