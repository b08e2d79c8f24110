//! Keeps the entry guards that all tors of the service share in their Secret, and gives them to the
//! publisher's own tor before its first start.

mod shared;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use self::shared::SharedGuards;
use super::clock::{self, Clock};
use super::master_key;
use super::metrics::GuardFigures;
use super::pods::Pods;
use super::status::Facts;
use crate::common::complaint::{Complaint, cause};
use crate::common::tor_state;
use crate::crd::{PUBLISHER_MANAGER, names};
use crate::link::{AgentToken, GuardReport, GuardSample, MAC_ENTRY, SAMPLE_ENTRY, guards_of_data, guards_to_data};
use crate::merge::BackendId;

/// The interval at which the reports are merged. Tor writes a change of its guards within 30 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// The time for which the content of the Secret is known after it was read or written. After that,
/// it is read again, because someone may have changed or deleted the Secret.
const KNOWN: Duration = Duration::from_secs(60);
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
    /// The numbers of guards, for the metrics.
    pub(super) figures: watch::Receiver<GuardFigures>,
}

impl GuardLinks {
    /// Returns the links of a publisher whose guards nobody keeps.
    pub(super) fn unused() -> Self {
        let agents = AgentGuards { news: mpsc::channel(1).0, shared: watch::channel(None).1 };
        Self { agents, drawn: watch::Sender::new(None), figures: watch::channel(GuardFigures::default()).1 }
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

/// The task that merges the reports of all tors into the Secret while this publisher leads. Before
/// there are any shared guards, the first publisher whose tor has chosen some stores them, because
/// no publisher can lead before its tor has started.
pub(super) struct GuardKeeper {
    secrets: Api<Secret>,
    secret: String,
    token: AgentToken,
    /// The data directory of the publisher's own tor.
    data_dir: PathBuf,
    pods: watch::Receiver<Arc<Pods>>,
    facts: watch::Receiver<Facts>,
    drawn: watch::Receiver<Option<String>>,
    news: mpsc::Receiver<GuardNews>,
    /// The time in seconds by which the dates of newly chosen guards are set back.
    shift: u64,
    clock: Clock,
    reports: SharedGuards,
    shared: watch::Sender<Option<Arc<str>>>,
    figures: watch::Sender<GuardFigures>,
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
}

impl GuardKeeper {
    /// Creates the task for a service. `data_dir` is the data directory of the publisher's own tor.
    pub(super) fn new(
        secrets: Api<Secret>,
        service: &str,
        token: AgentToken,
        data_dir: PathBuf,
        (pods, facts): (watch::Receiver<Arc<Pods>>, watch::Receiver<Facts>),
    ) -> (Self, GuardLinks) {
        let (news_in, news) = mpsc::channel(QUEUE);
        let (drawn_in, drawn) = watch::channel(None);
        let (shared, shared_out) = watch::channel(None);
        let (figures, figures_out) = watch::channel(GuardFigures::default());
        let keeper = Self {
            secrets,
            secret: names::guards_secret(service),
            token,
            data_dir,
            pods,
            facts,
            drawn,
            news,
            shift: u64::from_be_bytes(clock::random()) % MAX_SHIFT,
            clock: Clock::start(),
            reports: SharedGuards::default(),
            shared,
            figures,
            stored: None,
            last: GuardSample::default(),
            complaint: Complaint::default(),
        };
        let agents = AgentGuards { news: news_in, shared: shared_out };
        (keeper, GuardLinks { agents, drawn: drawn_in, figures: figures_out })
    }

    /// Merges reports until the publisher stops.
    pub(super) async fn run(mut self) {
        loop {
            self.settle().await;
            let mut pause = pin!(sleep(INTERVAL));
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
            self.figures.send_replace(GuardFigures::default());
            return;
        }
        let settled = match timeout(DEADLINE, self.merge(leading)).await {
            Ok(settled) => settled,
            Err(_) => Err(format!("the API server did not respond within {DEADLINE:?}")),
        };
        match settled {
            Ok(()) => self.complaint.settle(),
            Err(reason) => {
                self.stored = None;
                let what = format!("could not keep the shared guards in Secret {}", self.secret);
                self.complaint.utter(&what, &reason);
            }
        }
    }

    async fn merge(&mut self, leading: bool) -> Result<(), String> {
        let elapsed = self.clock.now().elapsed;
        let mut stored = match self.stored.take().filter(|stored| elapsed < stored.until) {
            Some(stored) => stored,
            None => self.read().await?,
        };
        if leading || stored.sample.is_empty() {
            let base = if stored.sample.is_empty() { &self.last } else { &stored.sample };
            let now = self.clock.now().wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let own = self.own_sample(now)?;
            let pods = self.pods.borrow().clone();
            let merged = self.reports.merged(base, &own, &pods, now);
            if merged != stored.sample {
                stored = self.write(&stored, merged).await?;
            }
            let (shared, preferred) = (stored.sample.guards().len(), self.reports.preferred(&own));
            self.figures.send_replace(GuardFigures { shared, preferred });
        }
        if !stored.sample.is_empty() {
            self.shared.send_replace(Some(stored.sample.to_string().into()));
            self.last.clone_from(&stored.sample);
        }
        self.stored = Some(stored);
        Ok(())
    }

    /// Returns the guards of the publisher's own tor. They are empty before tor has chosen any.
    fn own_sample(&self, now: u64) -> Result<GuardSample, String> {
        let lines = tor_state::guard_lines(&self.data_dir).map_err(|error| error.to_string())?;
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
    async fn read(&self) -> Result<Stored, String> {
        let found = self.secrets.get_opt(&self.secret).await.map_err(|error| cause(&error))?;
        let secret = found.ok_or("the Secret does not exist; the operator creates it")?;
        let entry = |name: &str| secret.data.as_ref()?.get(name).map(|bytes| bytes.0.as_slice());
        let sample = guards_of_data(entry(SAMPLE_ENTRY), entry(MAC_ENTRY), &self.token).unwrap_or_else(|error| {
            tracing::warn!(secret = self.secret, %error, "replacing the shared guards");
            GuardSample::default()
        });
        Ok(self.stored_now(secret.metadata.resource_version, sample))
    }

    /// Writes the merged guards, unless the Secret has been changed in the meantime.
    async fn write(&self, stored: &Stored, merged: GuardSample) -> Result<Stored, String> {
        let entries = guards_to_data(&merged, &self.token).into_iter();
        let data: Map<String, Value> =
            entries.map(|(name, text)| (name.to_owned(), json!(ByteString(text.into_bytes())))).collect();
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": stored.resource_version}, "data": data}));
        let parameters = PatchParams { field_manager: Some(PUBLISHER_MANAGER.to_owned()), ..PatchParams::default() };
        let written = self.secrets.patch(&self.secret, &parameters, &patch).await.map_err(|error| cause(&error))?;
        tracing::info!(
            count = merged.guards().len(),
            before = stored.sample.guards().len(),
            "stored the shared guards"
        );
        Ok(self.stored_now(written.metadata.resource_version, merged))
    }

    fn stored_now(&self, resource_version: Option<String>, sample: GuardSample) -> Stored {
        Stored { resource_version, until: self.clock.now().elapsed + KNOWN, sample }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::frontend::pods::Pod;
    use crate::link::Guard;
    use crate::onion::MasterKey;

    /// Only the leader merges reports. A standby may run for months while pods come and go.
    #[tokio::test]
    async fn a_standby_forgets_the_reports_of_pods_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let client = kube::Client::new(axum::Router::new(), "shop");
        let token = AgentToken::derive(&MasterKey::generate(&mut StdRng::seed_from_u64(1)));
        let pod = Pod { name: "a".to_owned(), agent: None, ready: true, terminating: false };
        let backend = BackendId("a".to_owned());
        let (pods, seen) = watch::channel(Arc::new(Pods::from([(backend.clone(), pod)])));
        let watched = (seen, watch::channel(Facts::default()).1);
        let (mut keeper, _links) =
            GuardKeeper::new(Api::default_namespaced(client), "web", token, dir.path().to_owned(), watched);
        keeper.shared.send_replace(Some("".into()));
        let lines = "Guard in=default rsa_id=0707070707070707070707070707070707070707 sampled_on=2026-09-21T14:13:20 \
                     listed=1\n";
        keeper.reports.take(backend, &GuardReport { id: 1, lines: lines.to_owned() });
        keeper.settle().await;
        assert_eq!(keeper.reports.preferred(&GuardSample::default()), 1);
        pods.send_replace(Arc::default());
        keeper.settle().await;
        assert_eq!(keeper.reports.preferred(&GuardSample::default()), 0);
    }

    /// The frontend's tor adopts guards only if they belong to the mounted master key.
    #[test]
    fn a_new_tor_starts_with_the_guards_of_its_own_service() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["key", "guards", "data"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let key = |seed| MasterKey::generate(&mut StdRng::seed_from_u64(seed));
        let adopted = || {
            adopt(&path("guards"), &path("key"), &path("data"));
            tor_state::guard_lines(&path("data")).unwrap()
        };
        assert_eq!(adopted(), "", "there are no shared guards yet");
        let guard = Guard {
            identity: [7; 20],
            nickname: String::new(),
            sampled_on: 1_790_000_000,
            sampled_by: String::new(),
            unlisted_since: None,
            confirmed_on: Some(1_790_000_005),
        };
        let sample = GuardSample::new(vec![guard]).unwrap();
        for (name, content) in guards_to_data(&sample, &AgentToken::derive(&key(1))) {
            std::fs::write(path("guards").join(name), content).unwrap();
        }
        assert_eq!(adopted(), "", "without a key nothing can be checked");
        for (seed, expected) in [(2, String::new()), (1, sample.to_string())] {
            std::fs::write(path("key").join("hs_ed25519_secret_key"), key(seed).to_tor_secret_key_file()).unwrap();
            assert_eq!(adopted(), expected, "{seed}");
        }
    }
}
