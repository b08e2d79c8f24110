//! Keeps the entry guards that all tors of the service share in their Secret, and gives them to the
//! publisher's own tor before its first start.

mod first;
mod problem;
mod shared;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hyper::StatusCode;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use self::first::{CLAIM_ENTRY, Decision, FirstDraw};
use self::problem::Problems;
use self::shared::SharedGuards;
use super::clock::{self, Clock};
use super::guard_view::GuardView;
use super::guards_secret;
use super::master_key;
use super::metrics::GuardFigures;
use super::pods::Pods;
use super::status::Facts;
use crate::common::complaint::{Complaint, cause};
use crate::common::tor_gate::Gate;
use crate::common::tor_state;
use crate::crd::{GuardsProblemKind, names};
use crate::link::{AgentToken, GuardReport, GuardSample, MAC_ENTRY, SAMPLE_ENTRY, guards_of_data, guards_to_data};
use crate::merge::BackendId;

/// The interval at which the reports are merged. Tor writes a change of its guards within 30 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// The time for which the content of the Secret is known after it was read or written. After that,
/// it is read again, because someone may have changed or deleted the Secret.
const KNOWN: Duration = Duration::from_secs(60);
/// The interval while the publisher's own tor waits for the shared guards.
const INTERVAL_AT_START: Duration = Duration::from_secs(1);
/// The maximum number of reports that can wait.
const QUEUE: usize = 64;
/// The maximum time in seconds by which the date of a newly chosen guard is set back: a tenth of
/// the guards' lifetime of 120 days, as in tor. The exact date would tell when a service began.
const MAX_SHIFT: u64 = 12 * 24 * 60 * 60;
/// The maximum time that the API server may take to respond.
const DEADLINE: Duration = Duration::from_secs(10);

/// A backend's report on the guards of its tor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuardNews {
    /// The backend that reports.
    pub(super) backend: BackendId,
    /// The guards of its tor.
    pub(super) report: GuardReport,
}

/// The links between the agents' conversations and the task that keeps the guards.
#[derive(Clone)]
pub(super) struct AgentGuards {
    /// The agents' reports.
    pub(super) news: mpsc::Sender<GuardNews>,
    /// The shared guards as [`GuardSample`] displays them, once they are known.
    pub(super) shared: watch::Receiver<Option<Arc<str>>>,
}

/// The links between the publisher and the task that keeps the guards.
pub(super) struct GuardLinks {
    pub(super) agents: AgentGuards,
    /// The guards that the publisher's own tor has chosen, as `GETINFO entry-guards` lists them.
    pub(super) drawn: watch::Sender<Option<String>>,
    /// The state of the shared guards, for the metrics and the status. None if the pods share none.
    pub(super) view: watch::Receiver<Option<GuardView>>,
}

impl GuardLinks {
    /// Returns the links of a publisher whose guards nobody keeps.
    pub(super) fn unused() -> Self {
        let agents = AgentGuards { news: mpsc::channel(1).0, shared: watch::channel(None).1 };
        Self { agents, drawn: watch::Sender::new(None), view: watch::channel(None).1 }
    }
}

/// Writes the shared guards into the state file of a tor that has never run. If there are no usable
/// shared guards, tor draws its own, as it would without the operator. The log then says why.
pub(super) fn adopt(guards_dir: &Path, master_key_dir: &Path, data_dir: &Path) {
    match try_adopt(guards_dir, master_key_dir, data_dir) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "tor starts with the shared guards"),
        Err(error) => tracing::warn!(error, "could not use the shared guards, so tor chooses its own"),
    }
}

/// Returns the number of guards that were written. It is 0 if tor has run before or there are no
/// shared guards yet.
fn try_adopt(guards_dir: &Path, master_key_dir: &Path, data_dir: &Path) -> Result<usize, String> {
    let entry = |name: &str| tor_state::read_optional(&guards_dir.join(name)).map_err(|error| error.to_string());
    let (lines, mac) = (entry(SAMPLE_ENTRY)?, entry(MAC_ENTRY)?);
    if lines.is_none() && mac.is_none() {
        return Ok(0);
    }
    let token = AgentToken::of(&master_key::read(master_key_dir, None)?);
    let sample = guards_of_data(lines.as_deref(), mac.as_deref(), &token).map_err(|error| error.to_string())?;
    if sample.is_empty() {
        return Ok(0);
    }
    let is_new = tor_state::write_first(data_dir, &sample.to_string()).map_err(|error| error.to_string())?;
    Ok(if is_new { sample.guards().len() } else { 0 })
}

/// The tor next to the publisher.
pub(super) struct OwnTor {
    pub(super) data_dir: PathBuf,
    /// The gate at which tor waits for the shared guards.
    pub(super) gate: Arc<Gate>,
    /// The name of this frontend in the Secret.
    pub(super) identity: String,
    /// The number of guards over which the pods of the service spread.
    pub(super) guards_in_use: usize,
}

/// The task that merges the reports of all tors into the Secret while this publisher leads. Before
/// there are any shared guards, the publisher that has put its name into the Secret stores those of
/// its tor, because no publisher can lead before its tor has started.
pub(super) struct GuardKeeper {
    secrets: Api<Secret>,
    secret: String,
    token: AgentToken,
    own: OwnTor,
    first: FirstDraw,
    pods: watch::Receiver<Arc<Pods>>,
    facts: watch::Receiver<Facts>,
    drawn: watch::Receiver<Option<String>>,
    news: mpsc::Receiver<GuardNews>,
    /// The time in seconds by which the dates of newly chosen guards are set back.
    shift: u64,
    clock: Clock,
    reports: SharedGuards,
    shared: watch::Sender<Option<Arc<str>>>,
    view: watch::Sender<Option<GuardView>>,
    problems: Problems,
    /// The content of the Secret, or None if it must be read.
    stored: Option<Stored>,
    /// The last usable content of the Secret, with which a deleted or damaged one is restored.
    last: GuardSample,
    complaint: Complaint,
}

/// The content of the Secret as this publisher last read or wrote it.
struct Stored {
    resource_version: Option<String>,
    /// The monotonic time until which the content is known.
    until: Duration,
    sample: GuardSample,
    /// The name of the frontend whose tor chooses the first guards.
    claimed: Option<String>,
}

/// The reason why the shared guards were not merged.
struct Failure {
    reason: String,
    /// True if the failure lasts until somebody takes action. An API server that does not answer
    /// comes back.
    is_lasting: bool,
}

impl Failure {
    fn passing(reason: String) -> Self {
        Self { reason, is_lasting: false }
    }

    fn of(error: &kube::Error) -> Self {
        const PASSING: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();
        let is_lasting = matches!(
            error,
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != PASSING
        );
        Self { reason: cause(error), is_lasting }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, is_lasting: true }
    }
}

impl GuardKeeper {
    /// Creates the task for a service. `own` is the publisher's own tor.
    pub(super) fn new(
        secrets: Api<Secret>,
        service: &str,
        token: AgentToken,
        own: OwnTor,
        (pods, facts): (watch::Receiver<Arc<Pods>>, watch::Receiver<Facts>),
    ) -> (Self, GuardLinks) {
        let (news_in, news) = mpsc::channel(QUEUE);
        let (drawn_in, drawn) = watch::channel(None);
        let (shared, shared_out) = watch::channel(None);
        let (view, view_out) = watch::channel(Some(GuardView::default()));
        let keeper = Self {
            secrets,
            secret: names::guards_secret(service),
            token,
            own,
            first: FirstDraw::default(),
            pods,
            facts,
            drawn,
            news,
            shift: u64::from_be_bytes(clock::random()) % MAX_SHIFT,
            clock: Clock::start(),
            reports: SharedGuards::default(),
            shared,
            view,
            problems: Problems::default(),
            stored: None,
            last: GuardSample::default(),
            complaint: Complaint::default(),
        };
        let agents = AgentGuards { news: news_in, shared: shared_out };
        (keeper, GuardLinks { agents, drawn: drawn_in, view: view_out })
    }

    /// Merges reports until the publisher stops.
    pub(super) async fn run(mut self) {
        loop {
            self.settle().await;
            let interval = if self.own.gate.is_closed() { INTERVAL_AT_START } else { INTERVAL };
            let mut pause = pin!(sleep(interval));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Ok(()) = self.drawn.changed() => break,
                    received = self.news.recv() => match received {
                        Some(news) => self.reports.take(news.backend, &news.report),
                        None => return,
                    },
                }
            }
        }
    }

    /// Merges the reports if this publisher leads or there are no shared guards yet.
    async fn settle(&mut self) {
        let leading = self.facts.borrow().leading;
        // A standby merges nothing for months, while pods come and go.
        self.reports.retain(&self.pods.borrow().clone());
        if !leading && self.shared.borrow().is_some() {
            // Another publisher may change the Secret.
            self.stored = None;
            self.view.send_replace(Some(GuardView::default()));
            return;
        }
        let settled = match timeout(DEADLINE, self.merge(leading)).await {
            Ok(settled) => settled,
            Err(_) => Err(Failure::passing(format!("the API server did not respond within {DEADLINE:?}"))),
        };
        match settled {
            Ok(()) => self.complaint.settle(),
            Err(failure) => self.failed(failure),
        }
    }

    fn failed(&mut self, Failure { reason, is_lasting }: Failure) {
        self.stored = None;
        let now = self.clock.now();
        if is_lasting {
            self.problems.failed(reason.clone(), now.wall);
        }
        let problem = self.problems.current(now.elapsed);
        if problem.as_ref().is_some_and(|problem| problem.kind == GuardsProblemKind::NotKept) {
            self.own.gate.open();
            self.share_own(now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        }
        self.view.send_modify(|view| view.get_or_insert_default().problem = problem);
        let what = format!("could not keep the shared guards in Secret {}", self.secret);
        self.complaint.utter(&what, &reason);
    }

    /// Gives the guards of the publisher's own tor to the backends that wait, if there are no other
    /// ones: the Secret cannot be used, but the pods can share the guards nevertheless.
    fn share_own(&self, now: u64) {
        if self.shared.borrow().is_none()
            && let Ok(own) = self.own_sample(now)
            && !own.is_empty()
        {
            self.shared.send_replace(Some(own.to_string().into()));
        }
    }

    async fn merge(&mut self, leading: bool) -> Result<(), Failure> {
        let elapsed = self.clock.now().elapsed;
        let mut stored = match self.stored.take().filter(|stored| elapsed < stored.until) {
            Some(stored) => stored,
            None => self.read().await?,
        };
        if stored.sample.is_empty() && self.own.gate.is_closed() {
            // The next turn reads the Secret again.
            return self.start_first(&stored).await;
        }
        if leading || stored.sample.is_empty() {
            let base = if stored.sample.is_empty() { &self.last } else { &stored.sample };
            let now = self.clock.now().wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let own = self.own_sample(now)?;
            let pods = self.pods.borrow().clone();
            let merged = self.reports.merged(base, &own, &pods, now);
            if merged != stored.sample {
                // The task that keeps the vanguards writes the same Secret. The next turn reads the
                // Secret again.
                let Some(written) = self.write(&stored, merged).await? else { return Ok(()) };
                stored = written;
            }
            self.problems.succeeded();
            let guards = stored.sample.guards();
            let view = GuardView {
                figures: GuardFigures {
                    shared: guards.len(),
                    preferred: self.reports.preferred(&own),
                    in_use: self.own.guards_in_use,
                    problem: None,
                },
                unlisted: guards.iter().filter(|guard| !guard.is_listed()).count(),
                problem: self.problems.current(elapsed),
            };
            self.view.send_replace(Some(view));
        }
        if !stored.sample.is_empty() {
            let lines: Arc<str> = stored.sample.to_string().into();
            self.own.gate.offer(&lines);
            self.shared.send_replace(Some(lines));
            self.last.clone_from(&stored.sample);
        }
        self.stored = Some(stored);
        Ok(())
    }

    /// Lets the publisher's own tor start and choose the first guards, unless the tor of another
    /// frontend does.
    async fn start_first(&mut self, stored: &Stored) -> Result<(), Failure> {
        let own = self.own.identity.clone();
        match self.first.decide(stored.claimed.as_deref(), &own, self.clock.now().elapsed) {
            Decision::Wait => return Ok(()),
            Decision::Draw => {}
            Decision::Claim => {
                let (version, entries) = (stored.resource_version.as_deref(), [(CLAIM_ENTRY, own)]);
                let written = guards_secret::write(&self.secrets, &self.secret, version, entries).await;
                if written.map_err(|error| Failure::of(&error))?.is_none() {
                    return Ok(());
                }
            }
        }
        tracing::info!("there are no shared guards yet, so tor chooses some for the whole service");
        self.own.gate.open();
        Ok(())
    }

    /// Returns the guards of the publisher's own tor. They are empty before tor has chosen any.
    fn own_sample(&self, now: u64) -> Result<GuardSample, String> {
        let lines = tor_state::guard_lines(&self.own.data_dir).map_err(|error| error.to_string())?;
        let written = GuardSample::parse(&lines);
        let own = match (written, &*self.drawn.borrow()) {
            (Ok(written), Some(drawn)) if written.is_empty() => {
                GuardSample::parse_entry_guards(drawn, now.saturating_sub(self.shift))
            }
            (written, _) => written,
        };
        own.map_err(|error| format!("the guards of this publisher's tor are unreadable: {error}"))
    }

    /// Reads the Secret. Content that no publisher of this service has written counts as empty. The
    /// last usable content replaces it, or else the guards of this publisher's own tor.
    async fn read(&mut self) -> Result<Stored, Failure> {
        let found = self.secrets.get_opt(&self.secret).await.map_err(|error| Failure::of(&error))?;
        let secret = found.ok_or_else(|| "the Secret does not exist; the operator creates it".to_owned())?;
        let entry = |name: &str| secret.data.as_ref()?.get(name).map(|bytes| bytes.0.as_slice());
        let read =
            guards_of_data(entry(SAMPLE_ENTRY), entry(MAC_ENTRY), &self.token).map_err(|error| error.to_string());
        // This publisher knows the guards, so somebody else has removed them.
        let read = read.and_then(|sample| {
            let is_lost = sample.is_empty() && !self.last.is_empty();
            if is_lost { Err("the guards were deleted".to_owned()) } else { Ok(sample) }
        });
        let sample = read.unwrap_or_else(|error| {
            tracing::warn!(secret = self.secret, error, "replacing the shared guards");
            let now = self.clock.now();
            self.problems.replaced(error, now.wall, now.elapsed);
            GuardSample::default()
        });
        Ok(self.stored_now(&secret, sample))
    }

    /// Writes the merged guards. Returns None if the Secret has been changed in the meantime.
    async fn write(&self, stored: &Stored, merged: GuardSample) -> Result<Option<Stored>, Failure> {
        let (entries, version) = (guards_to_data(&merged, &self.token), stored.resource_version.as_deref());
        let written = guards_secret::write(&self.secrets, &self.secret, version, entries).await;
        let Some(written) = written.map_err(|error| Failure::of(&error))? else { return Ok(None) };
        tracing::info!(
            count = merged.guards().len(),
            before = stored.sample.guards().len(),
            "stored the shared guards"
        );
        Ok(Some(self.stored_now(&written, merged)))
    }

    fn stored_now(&self, secret: &Secret, sample: GuardSample) -> Stored {
        let claimed = secret.data.as_ref().and_then(|data| String::from_utf8(data.get(CLAIM_ENTRY)?.0.clone()).ok());
        let resource_version = secret.metadata.resource_version.clone();
        Stored { resource_version, until: self.clock.now().elapsed + KNOWN, sample, claimed }
    }
}
