//! The vanguards that all tors of the service share: the agent reads them from the mounted Secret
//! when it starts, receives newer ones from the leading publisher, and makes its tor use them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::watchdog::{Unanswered, WatchedClient};
use crate::common::complaint::Complaint;
use crate::common::tor_state;
use crate::control::{Applied, LayerControl, Layers};
use crate::link::{AgentToken, Layer, VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY, Vanguards, vanguards_of_data};

/// The maximum time for which the agent waits until tor has its introduction circuits again, before
/// it reports that tor uses other vanguards.
const SETTLES: Duration = Duration::from_secs(10);
/// The words of an established introduction circuit in `GETINFO circuit-status`.
const ESTABLISHED: &str = "HS_STATE=HSSI_ESTABLISHED";

/// The vanguards of the service, as this agent knows them.
#[derive(Debug, Default)]
pub struct SharedVanguards(Option<Shared>);

#[derive(Debug)]
struct Shared {
    wanted: watch::Sender<Option<Arc<Vanguards>>>,
    /// The number of the vanguards that tor uses, or 0.
    used: watch::Sender<u64>,
}

impl SharedVanguards {
    /// Reads the vanguards from the mounted Secret. A pod without this mount shares none. If there
    /// are no usable ones, tor chooses its second hops itself until a publisher sends some. The log
    /// then says why.
    pub fn read(vanguards_dir: &Path, token_file: &Path) -> Self {
        if !vanguards_dir.is_dir() {
            return Self(None);
        }
        let wanted = try_read(vanguards_dir, token_file).unwrap_or_else(|error| {
            tracing::warn!(error, "could not use the shared vanguards, so tor chooses its own");
            Vanguards::default()
        });
        let wanted = (!wanted.is_empty()).then(|| Arc::new(wanted));
        Self(Some(Shared { wanted: watch::Sender::new(wanted), used: watch::Sender::new(0) }))
    }

    /// Takes the vanguards that the leading publisher sends.
    pub fn offer(&self, text: &str) {
        let Some(shared) = &self.0 else { return };
        match Vanguards::parse(text) {
            Ok(vanguards) if !vanguards.is_empty() => {
                shared.wanted.send_if_modified(|wanted| {
                    let is_new = wanted.as_ref().is_none_or(|wanted| wanted.id() != vanguards.id());
                    *wanted = Some(Arc::new(vanguards));
                    is_new
                });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "ignored the vanguards of a publisher"),
        }
    }

    /// Returns the number of the vanguards that tor uses, 0 if tor uses none, or None if the pods
    /// share no vanguards.
    pub fn used(&self) -> Option<u64> {
        self.0.as_ref().map(|shared| *shared.used.borrow())
    }

    /// Returns a receiver that yields the vanguards that tor should use.
    pub fn watch(&self) -> Option<watch::Receiver<Option<Arc<Vanguards>>>> {
        self.0.as_ref().map(|shared| shared.wanted.subscribe())
    }

    /// Returns the vanguards of a pod with an empty mount.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self(Some(Shared { wanted: watch::Sender::new(None), used: watch::Sender::new(0) }))
    }

    fn set_used(&self, id: u64) {
        if let Some(shared) = &self.0 {
            shared.used.send_replace(id);
        }
    }
}

fn try_read(vanguards_dir: &Path, token_file: &Path) -> Result<Vanguards, String> {
    let entry = |name: &str| tor_state::read_optional(&vanguards_dir.join(name)).map_err(|error| error.to_string());
    let (text, mac) = (entry(VANGUARDS_ENTRY)?, entry(VANGUARDS_MAC_ENTRY)?);
    if text.is_none() && mac.is_none() {
        return Ok(Vanguards::default());
    }
    let with_path = |error: &dyn std::fmt::Display| format!("{}: {error}", token_file.display());
    let token = std::fs::read(token_file).map(zeroize::Zeroizing::new).map_err(|error| with_path(&error))?;
    let token = AgentToken::from_hex(&token).map_err(|error| with_path(&error))?;
    vanguards_of_data(text.as_deref(), mac.as_deref(), &token).map_err(|error| error.to_string())
}

/// Keeps the vanguards of one tor over one control connection.
#[derive(Debug)]
pub struct VanguardControl {
    shared: Arc<SharedVanguards>,
    wanted: Option<watch::Receiver<Option<Arc<Vanguards>>>>,
    layers: LayerControl,
    /// The change for which tor has closed its introduction circuits.
    settling: Option<Settling>,
    complaint: Complaint,
}

/// A change of the vanguards that tor is carrying out.
#[derive(Debug)]
struct Settling {
    id: u64,
    since: Instant,
    /// The number of established introduction circuits before the change.
    established: usize,
}

impl VanguardControl {
    /// Creates the control for a new connection. A tor that has restarted uses no vanguards yet.
    pub fn new(shared: Arc<SharedVanguards>) -> Self {
        let wanted = shared.watch();
        shared.set_used(0);
        Self { shared, wanted, layers: LayerControl::default(), settling: None, complaint: Complaint::default() }
    }

    /// Waits until a publisher has sent other vanguards.
    pub async fn changed(&mut self) {
        match &mut self.wanted {
            // The sender lives as long as this value.
            Some(wanted) => _ = wanted.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Makes tor use the wanted vanguards, and checks that tor still uses them. A tor that has no
    /// consensus yet cannot know their relays.
    pub async fn check(&mut self, tor: &mut WatchedClient<'_>, has_consensus: bool) -> Result<(), Unanswered> {
        let Some(wanted) = self.wanted.as_mut().and_then(|wanted| wanted.borrow_and_update().clone()) else {
            return Ok(());
        };
        let id = wanted.id();
        let is_new = self.shared.used() != Some(id) && self.settling.as_ref().is_none_or(|settling| settling.id != id);
        let established = if is_new { established(tor).await? } else { 0 };
        let layers = layers(&wanted);
        let applied = tor.answer(self.layers.apply(tor.client(), &layers)).await?;
        match applied {
            Some(Applied::Now) => {
                let (second, third) = (wanted.of(Layer::Second).len(), wanted.of(Layer::Third).len());
                tracing::info!(second, third, "tor uses the shared vanguards");
                self.complaint.settle();
                self.settling = Some(Settling { id, since: Instant::now(), established });
            }
            Some(Applied::Before) if self.settling.is_none() => self.shared.set_used(id),
            Some(Applied::Before) => {}
            Some(Applied::TooFewKnown) if !has_consensus => {}
            refused => {
                let reason = refused.and_then(Applied::problem).unwrap_or("tor rejects the options");
                self.complaint.utter("tor does not use the shared vanguards", &reason);
                self.settling = None;
                self.shared.set_used(0);
            }
        }
        self.settle(tor).await
    }

    /// Reports the use of other vanguards once tor has its introduction circuits again. The
    /// publisher lets the other half of the backends wait for that, so that clients always find a
    /// reachable introduction point.
    async fn settle(&mut self, tor: &mut WatchedClient<'_>) -> Result<(), Unanswered> {
        let Some(Settling { id, since, established: before }) = self.settling else { return Ok(()) };
        if established(tor).await? >= before || since.elapsed() >= SETTLES {
            self.settling = None;
            self.shared.set_used(id);
        }
        Ok(())
    }
}

/// Returns the layers for tor.
fn layers(vanguards: &Vanguards) -> Layers {
    Layers { relays: Layer::ALL.map(|layer| vanguards.identities(layer)), least: Layer::ALL.map(Layer::least) }
}

/// Returns the number of tor's established introduction circuits.
async fn established(tor: &mut WatchedClient<'_>) -> Result<usize, Unanswered> {
    let circuits = tor.get_info("circuit-status").await?.unwrap_or_default();
    Ok(circuits.lines().filter(|line| line.contains(ESTABLISHED)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Vanguard, vanguards_to_data};

    fn vanguards(first: u8) -> Vanguards {
        let relays = |numbers: std::ops::Range<u8>| {
            numbers.map(|number| Vanguard { identity: [number; 20], expires: 9_000_000_000 }).collect()
        };
        Vanguards::new(relays(first..first + 4), relays(first + 4..first + 10)).unwrap()
    }

    fn wanted(shared: &SharedVanguards) -> Option<u64> {
        shared.watch()?.borrow().as_ref().map(|vanguards| vanguards.id())
    }

    /// Mounts vanguards that the publishers of a service wrote, and reads them with another token.
    fn mounted(writer: u8, reader: u8) -> SharedVanguards {
        let dir = tempfile::tempdir().unwrap();
        let token = AgentToken::from_hex(&[writer; 64]).unwrap();
        for (name, content) in vanguards_to_data(&vanguards(1), &token) {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        std::fs::write(dir.path().join("token"), [reader; 64]).unwrap();
        SharedVanguards::read(dir.path(), &dir.path().join("token"))
    }

    #[test]
    fn only_vanguards_of_the_own_service_are_used() {
        assert_eq!(wanted(&mounted(b'7', b'7')), Some(vanguards(1).id()));
        let foreign = mounted(b'8', b'7');
        assert_eq!((wanted(&foreign), foreign.used()), (None, Some(0)));
    }

    #[test]
    fn a_pod_without_the_mount_shares_no_vanguards() {
        let dir = tempfile::tempdir().unwrap();
        let shared = SharedVanguards::read(&dir.path().join("missing"), &dir.path().join("token"));
        shared.offer(&vanguards(1).to_string());
        assert_eq!((wanted(&shared), shared.used()), (None, None));
    }

    #[test]
    fn a_publisher_replaces_the_vanguards() {
        let shared = mounted(b'7', b'7');
        for damaged in ["", "onionbalance-vanguards 1\n", "onionbalance-vanguards 2\n"] {
            shared.offer(damaged);
            assert_eq!(wanted(&shared), Some(vanguards(1).id()), "{damaged:?}");
        }
        shared.offer(&vanguards(20).to_string());
        assert_eq!(wanted(&shared), Some(vanguards(20).id()));
        assert_eq!(shared.used(), Some(0), "tor does not use them yet");
    }
}
