//! Of several operators one works: who holds the Lease in their own namespace. The others watch what it watches, and wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::telemetry::Telemetry;
use crate::common::complaint::{Complaint, cause};
use crate::common::election::{Decision, Election, Record, vacate};
use crate::crd::OPERATOR_MANAGER;

/// How often the leader renews.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often the others look, and a failed call is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The API server's time to answer.
const DEADLINE: Duration = Duration::from_secs(4);
/// From its last renewal on, a leader counts itself as one for so long: less than the 15 s after which another takes over.
const TERM: Duration = Duration::from_secs(10);

/// Where operators elect their leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The namespace of the Lease: the operator's own.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// What this operator is called in it; no other may be called so, nor the same one after a restart.
    pub identity: String,
}

impl Seat {
    /// For this process, in the namespace that it runs in.
    pub fn of_this_process(client: &Client, lease: String) -> Self {
        // The pod's name.
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
        let mut random = [0; 8];
        #[allow(clippy::disallowed_methods, reason = "the shell makes the generator")]
        rand::rng().fill_bytes(&mut random);
        let identity = format!("{host}_{}", data_encoding::HEXLOWER.encode(&random));
        Self { namespace: client.default_namespace().to_owned(), lease, identity }
    }
}

/// Holds the Lease, or waits for it.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    election: Election,
    begun: Instant,
    /// When the last renewal was begun.
    renewed: Instant,
    leading: watch::Sender<bool>,
    telemetry: Arc<Telemetry>,
    complaint: Complaint,
    /// Who was last said to lead.
    leader: Option<String>,
}

impl Candidate {
    /// Tells through `leading`.
    pub fn new(client: Client, seat: Seat, leading: watch::Sender<bool>, telemetry: Arc<Telemetry>) -> Self {
        let now = Instant::now();
        Self {
            api: Api::namespaced(client, &seat.namespace),
            name: seat.lease,
            election: Election::new(seat.identity),
            begun: now,
            renewed: now,
            leading,
            telemetry,
            complaint: Complaint::default(),
            leader: None,
        }
    }

    /// Runs until `stop`, and gives the Lease back.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = self.turn() => {}
            }
        }
        self.release().await;
    }

    /// One look at the Lease, and the pause after it.
    async fn turn(&mut self) {
        let begun = Instant::now();
        let trouble = match timeout(DEADLINE.min(self.left()), self.step()).await {
            Ok(Ok(leads)) => {
                self.complaint.settle();
                if leads {
                    self.renewed = begun;
                }
                self.tell(leads);
                None
            }
            Ok(Err(error)) => Some(cause(&error)),
            Err(elapsed) => Some(elapsed.to_string()),
        };
        if let Some(trouble) = trouble {
            self.complaint.utter(&format!("cannot read or write the Lease {}", self.name), &trouble);
            if self.left().is_zero() {
                self.tell(false);
            }
            return sleep(RETRY.min(self.left())).await;
        }
        sleep(if *self.leading.borrow() { RENEWAL } else { RETRY }).await;
    }

    /// For how long we still lead without another renewal; for ever when we do not.
    fn left(&self) -> Duration {
        if *self.leading.borrow() { TERM.saturating_sub(self.renewed.elapsed()) } else { Duration::MAX }
    }

    /// Reads the Lease, and takes or renews it when that is ours to do; whether we lead.
    async fn step(&mut self) -> kube::Result<bool> {
        loop {
            let lease = self.api.get_opt(&self.name).await?;
            let record = lease.as_ref().map(Record::of);
            let holder = record.as_ref().map(|record| record.holder.clone());
            let decision = self.election.decide(record, self.begun.elapsed());
            if decision == Decision::StandBy {
                if self.leader != holder {
                    info!(leader = holder, "another operator leads; standing by");
                    self.leader = holder;
                }
                return Ok(false);
            }
            match self.write(lease, decision).await {
                Ok(_) => {
                    self.leader = None;
                    return Ok(true);
                }
                // Another wrote meanwhile: look again.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the Lease as ours, with the resource version that was read.
    async fn write(&self, lease: Option<Lease>, decision: Decision) -> kube::Result<Lease> {
        let exists = lease.is_some();
        let mut lease = lease.unwrap_or_default();
        self.election.claim(lease.spec.get_or_insert_default(), decision, now());
        if exists {
            return self.api.replace(&self.name, &as_operator(), &lease).await;
        }
        lease.metadata.name = Some(self.name.clone());
        lease.labels_mut().insert("app.kubernetes.io/name".to_owned(), "onionbalance-operator".to_owned());
        self.api.create(&as_operator(), &lease).await
    }

    fn tell(&mut self, leads: bool) {
        self.telemetry.leading.store(leads, Ordering::Relaxed);
        self.leading.send_if_modified(|leading| {
            let changed = *leading != leads;
            match (changed, leads) {
                (false, _) => {}
                (true, true) => info!(identity = self.election.identity(), "leading"),
                (true, false) => warn!(identity = self.election.identity(), "leading no more"),
            }
            *leading = leads;
            changed
        });
    }

    /// Gives the Lease back, so that the next one need not wait.
    async fn release(mut self) {
        self.tell(false);
        let identity = self.election.identity();
        let released = timeout(DEADLINE, async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(false) };
            if Record::of(&lease).holder != identity {
                return Ok(false);
            }
            vacate(lease.spec.get_or_insert_default(), now());
            self.api.replace(&self.name, &as_operator(), &lease).await.map(|_| true)
        });
        match released.await {
            Ok(Ok(true)) => info!("gave the Lease back"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => warn!(error = cause(&error), "could not give the Lease back; it expires"),
            Err(_) => warn!("the API server did not answer; the Lease expires"),
        }
    }
}

fn as_operator() -> PostParams {
    PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() }
}

#[allow(clippy::disallowed_methods, reason = "the Lease tells people when it was renewed")]
fn now() -> Timestamp {
    Timestamp::now()
}
