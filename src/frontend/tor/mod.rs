//! The connection to tor that all services of this process share: the network, uploads and fetches.
//!
//! ```text
//! let (tor, registry) = Tor::new(connector, clock);
//! spawn(tor.run());                  // ends when every service and every Registry is dropped
//! registry.register(address, news);  // for each service; a new channel replaces the old one
//!
//! news ──► Up(orders)        tor is bootstrapped: orders.upload(…), orders.fetch(…)
//!      ──► Network(network)  a consensus, read once and shared by all services
//!      ──► Uploaded(…)       the result of one upload, unless the connection ends first
//!      ──► Fetched {…}       the result of one fetch, unless the connection ends first
//!      ──► Down              the connection ended: all orders are void, and `Up` follows later
//! ```
//!
//! A frontend pod has one service. The stand-alone daemon registers each of its services, keeps the
//! `Registry` to add others on a reload, and drops a service's receiver to remove it. A service
//! must read its news, because a full channel holds up the other services.
//!
//! A fetch asks one HSDir (`HSFETCH … SERVER=`). Without `SERVER` tor would choose one, and would
//! refuse to ask any HSDir again for 15 minutes. Tor asks only for the descriptor of the time
//! period that clients use now. Uploads follow the engine's schedule and start at once. Fetches
//! wait in a queue (`fetches`).

mod fetches;
mod network;
mod services;
mod session;
#[cfg(test)]
mod testing;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

pub(super) use self::services::Registry;
use self::services::Services;
use self::session::Session;
use super::clock::{self, Clock};
use crate::common::complaint::Complaint;
use crate::consensus::{Fingerprint, Network};
use crate::control::{Backoff, Connector, ControlError, Update, supervise};
use crate::merge::{Now, UploadError};
use crate::onion::OnionAddress;

/// The pause before connecting again to a tor that refuses a command that the publisher needs.
const RECONNECT: Duration = Duration::from_secs(1);
/// The longest time that tor may take to answer. The microdescriptors of the whole Tor network are
/// a few megabytes.
const ANSWER: Duration = Duration::from_secs(20);
/// The time after the start during which a missing tor is not reported, because a pod starts its
/// tor after the publisher.
const STARTS: Duration = Duration::from_secs(3);
/// The silence on a connection after which the publisher checks that tor still answers.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The age from which an ordered upload is dropped: this process was suspended in the meantime, and
/// another publisher may lead now.
const STALE: Duration = Duration::from_secs(5);

/// A message from the connection to a service.
#[derive(Debug)]
pub(super) enum TorNews {
    /// Tor is connected and bootstrapped. The orders are valid until the connection ends.
    Up(TorOrders),
    /// The connection ended.
    Down,
    /// Tor has a new consensus, or new microdescriptors of its HSDirs.
    Network(Arc<Network>),
    /// An upload to this HSDir ended.
    Uploaded(Fingerprint, Result<(), UploadError>),
    /// A fetch ended.
    Fetched {
        /// The onion address of the descriptor.
        address: OnionAddress,
        /// The HSDir that was asked.
        hsdir: Fingerprint,
        /// The descriptor's text, unchecked, of at most 64 KiB.
        result: Result<Arc<str>, FetchError>,
    },
}

/// The reason why a fetch returned no descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The HSDir has no descriptor of this address.
    #[error("NOT_FOUND")]
    NotFound,
    /// Tor reported another reason.
    #[error("{0}")]
    Other(String),
    /// Tor refused the command, with this code and message.
    #[error("{0}")]
    Refused(String),
    /// The HSDir sent an empty descriptor.
    #[error("an empty descriptor")]
    Empty,
    /// The fetch took too long.
    #[error("no answer")]
    NoAnswer,
}

/// A service's access to tor, valid until the connection ends.
#[derive(Debug, Clone)]
pub(super) struct TorOrders {
    service: OnionAddress,
    orders: mpsc::Sender<(OnionAddress, Order)>,
}

#[derive(Debug)]
enum Order {
    Upload(Upload),
    Fetch(Fetch),
}

/// A descriptor of the service to send to an HSDir.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) hsdir: Fingerprint,
    pub(super) descriptor: Arc<str>,
    /// The time of the order.
    pub(super) ordered: Now,
}

/// A descriptor, of any onion service, to fetch from an HSDir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    /// The onion address of the descriptor.
    pub(super) address: OnionAddress,
    pub(super) hsdir: Fingerprint,
}

impl TorOrders {
    /// Orders an upload. Returns false if the connection is lost or too many orders wait; then
    /// there will be no result.
    pub(super) fn upload(&self, upload: Upload) -> bool {
        self.orders.try_send((self.service, Order::Upload(upload))).is_ok()
    }

    /// Orders a fetch. Returns false if the connection is lost or too many orders wait; then there
    /// will be no result.
    pub(super) fn fetch(&self, fetch: Fetch) -> bool {
        self.orders.try_send((self.service, Order::Fetch(fetch))).is_ok()
    }
}

/// The reason why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("no service is left to serve")]
    Idle,
}

/// The connection to tor, which is established again whenever it is lost.
pub(super) struct Tor {
    connector: Connector,
    clock: Clock,
    services: Services,
    silent: watch::Sender<bool>,
}

impl Tor {
    /// Creates the connection and the registry of its services.
    pub(super) fn new(connector: Connector, clock: Clock) -> (Self, Registry) {
        let (services, registry) = Services::new();
        let connector = Connector { command_timeout: ANSWER, ..connector };
        (Self { connector, clock, services, silent: watch::Sender::new(false) }, registry)
    }

    /// Reports through `silent` whether tor accepts connections without answering, because it is
    /// frozen or deadlocked. A tor that is missing, or waits for the network, is not silent.
    pub(super) fn reporting_silence(self, silent: watch::Sender<bool>) -> Self {
        Self { silent, ..self }
    }

    /// Serves until every service and every [`Registry`] is dropped.
    pub(super) async fn run(mut self) {
        let mut complaint = Complaint::default();
        let (begun, mut met) = (Instant::now(), false);
        loop {
            let mut connections =
                supervise(self.connector.clone(), Backoff::default(), StdRng::from_seed(clock::random()));
            while let Some(update) = connections.recv().await {
                let (lost, connected) = match update {
                    Update::Lost(error) => (error.into(), false),
                    Update::Connected(client, events) => {
                        met = true;
                        self.silent.send_replace(false);
                        complaint.settle();
                        let Err(lost) = Session::run(&mut self.services, self.clock, client.clone(), events).await;
                        (lost, client.close_reason().is_none())
                    }
                };
                if let Some(silent) = silence(&lost) {
                    self.silent.send_replace(silent);
                }
                self.services.send_all(|_| TorNews::Down).await;
                if self.services.is_idle() {
                    return;
                }
                if met || begun.elapsed() > STARTS || !is_absent(&lost) {
                    complaint.utter("no connection to tor", &lost);
                }
                if connected {
                    // Tor refused a command: dropping the supervisor closes the connection.
                    sleep(RECONNECT).await;
                    break;
                }
            }
        }
    }
}

fn is_absent(lost: &Lost) -> bool {
    matches!(lost, Lost::Control(ControlError::Io { .. }))
}

/// Returns true if the reason for the loss of a connection shows that tor is silent, false if it
/// shows that tor is not, and None if it shows neither.
fn silence(lost: &Lost) -> Option<bool> {
    match lost {
        Lost::Control(ControlError::Timeout(_)) => Some(true),
        _ if is_absent(lost) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
