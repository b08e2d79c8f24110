//! Keeps the vanguards that all tors of the service share in the Secret of the guards, and gives
//! them to the publisher's own tor and to the backends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::agents::AgentOrders;
use super::clock::{self, Clock};
use super::guards_secret;
use super::metrics::VanguardFigures;
use super::tor::WantedVanguards;
use super::vanguard_stage::{AgentVanguards, Offer, Stage, VanguardBoard};
use crate::common::complaint::{Complaint, cause};
use crate::common::tor_state;
use crate::consensus::Network;
use crate::crd::names;
use crate::link::{
    AgentToken, Candidate, Layer, VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY, Vanguards, vanguards_of_data, vanguards_to_data,
};

/// The interval at which the dates of the vanguards are checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time for which the content of the Secret is known after it was read or written. After that,
/// it is read again, because someone may have changed or deleted the Secret.
const KNOWN: Duration = Duration::from_secs(60);
/// The minimum time between two attempts to read the Secret.
const PAUSE: Duration = Duration::from_secs(5);
/// The maximum time that the API server may take to respond.
const DEADLINE: Duration = Duration::from_secs(10);

/// The place where the vanguards are kept.
#[derive(Clone)]
pub(super) struct VanguardStore {
    secrets: Api<Secret>,
    secret: String,
    token: AgentToken,
    /// The directory with the mounted Secret.
    mount: PathBuf,
}

impl VanguardStore {
    /// Returns the store of a service whose pods share vanguards. `mount` is the directory with the
    /// mounted Secret.
    pub(super) fn new(secrets: Api<Secret>, service: &str, token: AgentToken, mount: PathBuf) -> Self {
        Self { secrets, secret: names::guards_secret(service), token, mount }
    }

    /// Reads the mounted Secret. There are no vanguards if its content is unusable.
    fn mounted(&self) -> Vanguards {
        try_read(&self.mount, &self.token).unwrap_or_else(|error| {
            tracing::warn!(error, "could not use the mounted vanguards");
            Vanguards::default()
        })
    }
}

fn try_read(mount: &Path, token: &AgentToken) -> Result<Vanguards, String> {
    let entry = |name: &str| tor_state::read_optional(&mount.join(name)).map_err(|error| error.to_string());
    let (text, mac) = (entry(VANGUARDS_ENTRY)?, entry(VANGUARDS_MAC_ENTRY)?);
    vanguards_of_data(text.as_deref(), mac.as_deref(), token).map_err(|error| error.to_string())
}

/// The links of the task that keeps the vanguards.
pub(super) struct VanguardLinks {
    pub(super) agents: AgentVanguards,
    /// The vanguards for the publisher's own tor. None if the pods share no vanguards.
    pub(super) wanted: Option<WantedVanguards>,
    /// The figures for the metrics.
    pub(super) figures: watch::Receiver<VanguardFigures>,
}

impl VanguardLinks {
    /// Returns the links of a publisher whose pods share no vanguards.
    pub(super) fn unused() -> Self {
        let agents = AgentVanguards { offers: watch::channel(Offer::default()).1, board: VanguardBoard::default() };
        Self { agents, wanted: None, figures: watch::channel(VanguardFigures::default()).1 }
    }
}

/// The task that keeps the vanguards. The leader chooses and replaces them. Another publisher reads
/// them again when a backend uses others.
pub(super) struct VanguardKeeper {
    store: VanguardStore,
    orders: watch::Receiver<AgentOrders>,
    board: VanguardBoard,
    clock: Clock,
    rng: StdRng,
    stage: Stage,
    offers: watch::Sender<Offer>,
    wanted: watch::Sender<Option<Arc<Vanguards>>>,
    figures: watch::Sender<VanguardFigures>,
    /// The content of the Secret, or None if it must be read.
    stored: Option<Stored>,
    /// The last usable vanguards, with which a deleted or damaged Secret is restored.
    last: Vanguards,
    /// The network by which the vanguards were chosen.
    network: Option<Arc<Network>>,
    /// The monotonic time before which the Secret is not read again.
    next_read: Duration,
    complaint: Complaint,
}

/// The content of the Secret as this publisher last read or wrote it.
struct Stored {
    resource_version: Option<String>,
    /// The monotonic time until which the content is known.
    until: Duration,
    vanguards: Vanguards,
}

impl VanguardKeeper {
    /// Creates the task of a service.
    pub(super) fn new(store: VanguardStore, orders: watch::Receiver<AgentOrders>) -> (Self, VanguardLinks) {
        let mounted = store.mounted();
        let (offers, offers_out) = watch::channel(Offer::default());
        let (wanted, wanted_out) = watch::channel((!mounted.is_empty()).then(|| Arc::new(mounted.clone())));
        let (figures, figures_out) = watch::channel(VanguardFigures::default());
        let board = VanguardBoard::default();
        let keeper = Self {
            store,
            orders,
            board: board.clone(),
            clock: Clock::start(),
            rng: StdRng::from_seed(clock::random()),
            stage: Stage::default(),
            offers,
            wanted,
            figures,
            stored: None,
            last: mounted,
            network: None,
            next_read: Duration::ZERO,
            complaint: Complaint::default(),
        };
        let agents = AgentVanguards { offers: offers_out, board };
        (keeper, VanguardLinks { agents, wanted: Some(wanted_out), figures: figures_out })
    }

    /// Keeps the vanguards until the publisher stops.
    pub(super) async fn run(mut self) {
        loop {
            let settled = match timeout(DEADLINE, self.settle()).await {
                Ok(settled) => settled,
                Err(_) => Err(format!("the API server did not respond within {DEADLINE:?}")),
            };
            match settled {
                Ok(()) => self.complaint.settle(),
                Err(reason) => {
                    self.stored = None;
                    let what = format!("could not keep the shared vanguards in Secret {}", self.store.secret);
                    self.complaint.utter(&what, &reason);
                }
            }
            sleep(INTERVAL).await;
        }
    }

    async fn settle(&mut self) -> Result<(), String> {
        let orders = self.orders.borrow().clone();
        self.board.retain(&orders.pods);
        let result = if orders.leading { self.lead(&orders).await } else { self.follow().await };
        // A mounted Secret may be older than what the backends use.
        if self.stored.is_some() && !self.last.is_empty() {
            let offer = self.stage.offer(&self.last, &orders.pods, &self.board, self.clock.now().elapsed);
            self.offers.send_if_modified(|known| {
                let changed = *known != offer;
                *known = offer;
                changed
            });
        }
        self.report(orders.leading);
        result
    }

    /// Replaces the vanguards whose time is over. Without a network or an API server, the last ones
    /// stay in use.
    async fn lead(&mut self, orders: &AgentOrders) -> Result<(), String> {
        let now = self.clock.now();
        let stored = match self.stored.take().filter(|stored| now.elapsed < stored.until) {
            Some(stored) => stored,
            // The last attempt has failed.
            None if now.elapsed < self.next_read => return Ok(()),
            None => self.read().await?,
        };
        let Some(network) = &orders.network else {
            self.use_now(&stored.vanguards);
            self.stored = Some(stored);
            return Ok(());
        };
        let wall = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let base = if stored.vanguards.is_empty() { &self.last } else { &stored.vanguards };
        let is_due = *base != stored.vanguards || base.is_empty() || is_expired(base, wall);
        let is_known = self.network.as_ref().is_some_and(|known| Arc::ptr_eq(known, network));
        if !is_due && is_known {
            self.use_now(&stored.vanguards);
            self.stored = Some(stored);
            return Ok(());
        }
        let candidates = network.middles().iter();
        let candidates: Vec<_> =
            candidates.map(|middle| Candidate { identity: middle.relay.0, weight: middle.weight }).collect();
        let maintained = base.maintained(&candidates, wall, &mut self.rng).map_err(|error| error.to_string())?;
        let stored = if maintained == stored.vanguards {
            stored
        } else {
            // The task that keeps the guards writes the same Secret.
            let Some(written) = self.write(&stored, maintained).await? else {
                self.next_read = Duration::ZERO;
                return Ok(());
            };
            written
        };
        self.network = Some(network.clone());
        self.use_now(&stored.vanguards);
        self.stored = Some(stored);
        Ok(())
    }

    /// Reads the vanguards again if there are none, or if a backend uses others: the leader has
    /// replaced some.
    async fn follow(&mut self) -> Result<(), String> {
        let elapsed = self.clock.now().elapsed;
        // Another publisher may change the Secret.
        self.stored = None;
        let is_old = self.last.is_empty() || self.board.knows_others(self.last.id());
        if is_old && elapsed >= self.next_read {
            let stored = self.read().await?;
            self.use_now(&stored.vanguards);
        }
        Ok(())
    }

    /// Makes the publisher's own tor use the vanguards.
    fn use_now(&mut self, vanguards: &Vanguards) {
        if vanguards.is_empty() {
            return;
        }
        if self.last != *vanguards {
            self.last.clone_from(vanguards);
        }
        self.wanted.send_if_modified(|wanted| {
            let is_new = wanted.as_ref().is_none_or(|wanted| wanted.id() != vanguards.id());
            if is_new {
                *wanted = Some(Arc::new(vanguards.clone()));
            }
            is_new
        });
    }

    fn report(&self, leading: bool) {
        let sizes = Layer::ALL.map(|layer| if leading { self.last.of(layer).len() } else { 0 });
        let outdated = if leading { self.board.others(self.last.id()).len() } else { 0 };
        self.figures.send_modify(|figures| {
            *figures = VanguardFigures { shared: true, sizes, outdated, ..*figures };
        });
    }

    /// Reads the Secret. Content that no publisher of this service has written counts as empty. The
    /// last usable vanguards replace it, or else new ones.
    async fn read(&mut self) -> Result<Stored, String> {
        self.next_read = self.clock.now().elapsed + PAUSE;
        let name = &self.store.secret;
        let found = self.store.secrets.get_opt(name).await.map_err(|error| cause(&error))?;
        let secret = found.ok_or("the Secret does not exist; the operator creates it")?;
        let entry = |name: &str| secret.data.as_ref()?.get(name).map(|bytes| bytes.0.as_slice());
        let read = vanguards_of_data(entry(VANGUARDS_ENTRY), entry(VANGUARDS_MAC_ENTRY), &self.store.token);
        let vanguards = read.unwrap_or_else(|error| {
            tracing::warn!(secret = name, %error, "cannot use the stored vanguards");
            Vanguards::default()
        });
        Ok(self.stored_now(secret.metadata.resource_version, vanguards))
    }

    /// Writes the vanguards. Returns None if the Secret has been changed in the meantime.
    async fn write(&mut self, stored: &Stored, vanguards: Vanguards) -> Result<Option<Stored>, String> {
        let (entries, version) = (vanguards_to_data(&vanguards, &self.store.token), stored.resource_version.as_deref());
        let written = guards_secret::write(&self.store.secrets, &self.store.secret, version, entries).await;
        let Some(written) = written.map_err(|error| cause(&error))? else { return Ok(None) };
        let replaced = Layer::ALL.map(|layer| replaced(&self.last, &vanguards, layer));
        self.figures.send_modify(|figures| {
            figures.replaced.iter_mut().zip(replaced).for_each(|(count, more)| *count += more);
        });
        tracing::info!(second = replaced[0], third = replaced[1], "stored the shared vanguards, with new relays");
        Ok(Some(self.stored_now(written.metadata.resource_version, vanguards)))
    }

    fn stored_now(&self, resource_version: Option<String>, vanguards: Vanguards) -> Stored {
        Stored { resource_version, until: self.clock.now().elapsed + KNOWN, vanguards }
    }
}

/// Returns true if the time of a relay is over.
fn is_expired(vanguards: &Vanguards, now: u64) -> bool {
    Layer::ALL.iter().flat_map(|layer| vanguards.of(*layer)).any(|relay| relay.expires <= now)
}

/// Returns the number of relays of a layer that are new.
fn replaced(old: &Vanguards, new: &Vanguards, layer: Layer) -> u64 {
    let known: BTreeSet<_> = old.identities(layer).into_iter().collect();
    new.of(layer).iter().filter(|relay| !known.contains(&relay.identity)).count() as u64
}

#[cfg(test)]
mod tests;
