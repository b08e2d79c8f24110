//! Leader election among operators through a Lease in their own namespace. Only the leader
//! reconciles; the others are standbys and keep their caches filled.

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

/// The interval at which the leader renews the Lease.
const RENEWAL: Duration = Duration::from_secs(5);
/// The interval at which a standby reads the Lease, and the pause after a failed request.
const RETRY: Duration = Duration::from_secs(2);
/// The timeout for reading and writing the Lease.
const DEADLINE: Duration = Duration::from_secs(4);
/// The time for which an operator considers itself the leader after its last successful renewal. It
/// is shorter than the 15 s after which a standby takes over.
const TERM: Duration = Duration::from_secs(10);

/// The Lease that the operators compete for, and this operator's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The namespace of the Lease, which is the operator's own.
    pub namespace: String,
    /// The name of the Lease.
    pub lease: String,
    /// This operator's identity. It must be unique among operators, and must change when the
    /// operator restarts.
    pub identity: String,
}

impl Seat {
    /// Creates the seat for this process. The Lease is in the namespace that the process runs in.
    pub fn of_this_process(client: &Client, lease: String) -> Self {
        // HOSTNAME is the pod's name.
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
        let mut random = [0; 8];
        #[allow(clippy::disallowed_methods, reason = "an IO shell creates the generator")]
        rand::rng().fill_bytes(&mut random);
        let identity = format!("{host}_{}", data_encoding::HEXLOWER.encode(&random));
        Self { namespace: client.default_namespace().to_owned(), lease, identity }
    }
}

/// An operator that takes part in the leader election: it either holds the Lease or waits for it.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    election: Election,
    started: Instant,
    /// The time at which the last successful renewal started.
    renewed: Instant,
    leading: watch::Sender<bool>,
    telemetry: Arc<Telemetry>,
    complaint: Complaint,
    /// The other operator that the log last named as the leader. None once this operator leads.
    leader: Option<String>,
}

impl Candidate {
    /// Creates a candidate that sends `true` through `leading` while it is the leader, and
    /// otherwise `false`.
    pub fn new(client: Client, seat: Seat, leading: watch::Sender<bool>, telemetry: Arc<Telemetry>) -> Self {
        let now = Instant::now();
        Self {
            api: Api::namespaced(client, &seat.namespace),
            name: seat.lease,
            election: Election::new(seat.identity),
            started: now,
            renewed: now,
            leading,
            telemetry,
            complaint: Complaint::default(),
            leader: None,
        }
    }

    /// Competes for the Lease until `stop` completes, then releases it.
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

    /// Reads or renews the Lease once, then sleeps until the next attempt.
    async fn turn(&mut self) {
        let started = Instant::now();
        let problem = match timeout(DEADLINE.min(self.left()), self.step()).await {
            Ok(Ok(leads)) => {
                self.complaint.settle();
                if leads {
                    self.renewed = started;
                }
                self.set_leading(leads);
                None
            }
            Ok(Err(error)) => Some(cause(&error)),
            Err(elapsed) => Some(elapsed.to_string()),
        };
        if let Some(problem) = problem {
            self.complaint.utter(&format!("could not read or write the Lease {}", self.name), &problem);
            if self.left().is_zero() {
                self.set_leading(false);
            }
            return sleep(RETRY.min(self.left())).await;
        }
        sleep(if *self.leading.borrow() { RENEWAL } else { RETRY }).await;
    }

    /// Returns how long this operator remains the leader without a renewal, or `Duration::MAX` if
    /// it is not the leader.
    fn left(&self) -> Duration {
        if *self.leading.borrow() { TERM.saturating_sub(self.renewed.elapsed()) } else { Duration::MAX }
    }

    /// Reads the Lease and acquires or renews it if possible. Returns true if this operator is the
    /// leader.
    async fn step(&mut self) -> kube::Result<bool> {
        loop {
            let lease = self.api.get_opt(&self.name).await?;
            let record = lease.as_ref().map(Record::of);
            let holder = record.as_ref().map(|record| record.holder.clone());
            let decision = self.election.decide(record, self.started.elapsed());
            if decision == Decision::StandBy {
                if self.leader != holder {
                    info!(leader = holder, "another operator is the leader; standing by");
                    self.leader = holder;
                }
                return Ok(false);
            }
            match self.write(lease, decision).await {
                Ok(_) => {
                    self.leader = None;
                    return Ok(true);
                }
                // Another operator has written the Lease in the meantime, so the next iteration
                // reads it again.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the Lease with this operator as its holder. The write fails if the Lease has changed
    /// since it was read.
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

    fn set_leading(&mut self, leads: bool) {
        self.telemetry.leading.store(leads, Ordering::Relaxed);
        self.leading.send_if_modified(|leading| {
            let changed = *leading != leads;
            match (changed, leads) {
                (false, _) => {}
                (true, true) => info!(identity = self.election.identity(), "started leading"),
                (true, false) => info!(identity = self.election.identity(), "stopped leading"),
            }
            *leading = leads;
            changed
        });
    }

    /// Releases the Lease, so that the next leader does not have to wait until it expires.
    async fn release(mut self) {
        self.set_leading(false);
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
            Ok(Ok(true)) => info!("released the Lease"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => warn!(error = cause(&error), "could not release the Lease; it will expire"),
            Err(_) => warn!("could not release the Lease: the API server did not answer; it will expire"),
        }
    }
}

fn as_operator() -> PostParams {
    PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() }
}

#[allow(clippy::disallowed_methods, reason = "the renewal time in the Lease, for people")]
fn now() -> Timestamp {
    Timestamp::now()
}
