//! Probes the onion address from outside: connects to the address as a client does, through the
//! pod's own tor.
//!
//! ```text
//! publisher ──ProbeLink──► Prober ──► tor (SOCKS port) ──► introduction, rendezvous, target
//!                 ▲           └─────► tor (control port, through the publisher): the descriptor
//!                 └── ProbeReport
//! ```
//!
//! Each probe fetches the descriptor from an HSDir that clients ask, so that a descriptor in tor's
//! cache proves nothing, and opens a stream with a fresh SOCKS password, so that tor builds fresh
//! circuits. The probe only reports what it finds: no other part of the publisher reads its
//! results.

mod attempt;
mod link;
mod schedule;
mod target;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::attempt::Attempts;
use self::link::{Access, Fetched};
pub(super) use self::link::{Assignment, ProbeLink};
use self::schedule::Schedule;
use self::verdict::Failure;
use super::clock::{self, Clock};
use super::tor::TorOrders;
use crate::consensus::Network;
use crate::crd::{AddressProbe, ProbeResult};
use crate::onion::{ClientSecretKey, ServiceKey};

/// The purpose for which the probe's client key is derived from the service's key. Every publisher
/// with the same key can thus use the descriptors of every other one.
const KEY_LABEL: &[u8] = b"onionbalance.dev/probe-client/v1";
/// The maximum number of answers from HSDirs that wait for the prober.
const ANSWERS: usize = 16;

/// The results of the last probes, by port.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ProbeReport(pub(super) BTreeMap<u16, PortReport>);

/// The result of the last probe of one port.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PortReport {
    pub(super) result: ProbeResult,
    /// The reason of a failure.
    pub(super) message: Option<String>,
    /// The time at which the probe ended.
    pub(super) ended: SystemTime,
    pub(super) measured: Measured,
}

/// The measurements of one probe.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Measured {
    /// The number of attempts.
    pub(super) attempts: u32,
    /// The number of requests to HSDirs.
    pub(super) fetches: u32,
    /// The time in which the descriptor was fetched. None if it was not.
    pub(super) descriptor: Option<Duration>,
    /// The time from the fetched descriptor to the answer of the target. None without an answer.
    pub(super) connection: Option<Duration>,
    /// The status of the HTTP response. None without a request, or without a response of the
    /// expected status.
    pub(super) http_status: Option<u16>,
}

/// The settings of a probe, and the means to make it.
struct Job {
    probe: AddressProbe,
    ports: Vec<u16>,
    tor: TorOrders,
    network: Arc<Network>,
    access: Access,
}

impl Job {
    /// Returns the job that the publisher assigns. None while there is nothing to probe.
    fn of(assignment: &Assignment) -> Option<Self> {
        let Assignment { probe, ports, tor, network, access } = assignment.clone();
        Some(Self { probe: probe?, ports, tor: tor?, network: network?, access })
    }

    fn period(&self) -> Duration {
        // The schema has the same limits, but this publisher may be older than the schema.
        Duration::from_secs(self.probe.period_seconds.max(10).into())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.probe.timeout_seconds.clamp(60, 600).into())
    }
}

/// The task that makes the probes.
pub(super) struct Prober {
    attempts: Attempts,
    clock: Clock,
    assignment: watch::Receiver<Assignment>,
    reports: watch::Sender<ProbeReport>,
}

/// Creates the prober and the publisher's access to it. `socket` is the unix socket of tor's SOCKS
/// port.
pub(super) fn new(key: &ServiceKey, socket: PathBuf, clock: Clock) -> (ProbeLink, Prober) {
    let address = key.address();
    let client = ClientSecretKey::from_bytes(*key.derive(KEY_LABEL));
    let (assign, assignment) = watch::channel(Assignment::default());
    let (answers, fetched) = mpsc::channel::<Fetched>(ANSWERS);
    let (reports, seen) = watch::channel(ProbeReport::default());
    let link = ProbeLink::new(address, client.public(), assign, answers, seen);
    (link, Prober { attempts: Attempts { address, client, socket, clock, fetched }, clock, assignment, reports })
}

impl Prober {
    /// Makes the probes that the publisher assigns, until the publisher ends.
    pub(super) async fn run(mut self) {
        let mut schedule = Schedule::default();
        loop {
            let job = Job::of(&self.assignment.borrow_and_update());
            let now = self.clock.now().elapsed;
            if job.is_none() {
                schedule.stop();
                self.forget();
            }
            let due = schedule.due(job.as_ref().map(Job::period), now);
            let start = async {
                match due {
                    Some(due) => sleep(due.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            let is_due = tokio::select! {
                changed = self.assignment.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                () = start => true,
            };
            if let Some(job) = job.filter(|_| is_due) {
                self.probe(&job, &mut schedule).await;
            }
        }
    }

    /// Forgets all results, because another publisher may probe from now on.
    fn forget(&self) {
        self.reports.send_if_modified(|reports| {
            let changed = !reports.0.is_empty();
            reports.0.clear();
            changed
        });
    }

    /// Probes the next port and reports the result. If another publisher leads by now, `run`
    /// forgets the result at once.
    async fn probe(&mut self, job: &Job, schedule: &mut Schedule) {
        let chance = f64::from(u32::from_be_bytes(clock::random())) / f64::from(u32::MAX);
        let Some(port) = schedule.begin(&job.ports, job.period(), chance, self.clock.now().elapsed) else { return };
        let (outcome, measured) = self.attempts.make(job, port).await;
        let (result, message) = match outcome {
            Ok(()) => (ProbeResult::Answered, None),
            Err(Failure { result, message }) => (result, Some(message)),
        };
        tracing::debug!(port, ?result, reason = message, ?measured, "probed the address");
        let report = PortReport { result, message, ended: self.clock.now().wall, measured };
        self.reports.send_modify(|reports| {
            reports.0.retain(|port, _| job.ports.contains(port));
            reports.0.insert(port, report);
        });
    }
}

#[cfg(test)]
mod tests;
