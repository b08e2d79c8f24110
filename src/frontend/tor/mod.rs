//! One connection to tor, for all the services of this process: what tor knows of the network, uploads, and fetches.
//!
//! ```text
//! let (tor, registry) = Tor::new(connector, clock);
//! spawn(tor.run());                                   // until nobody is left: no service, and no Registry
//! registry.register(address, news);                   // one for each service; any time, also again with another channel
//!
//! news ──► Up(orders)        tor is there and bootstrapped: orders.upload(…), orders.fetch(…)
//!      ──► Network(network)  read once, shared by all; told anew with each consensus
//!      ──► Uploaded(…)       the fate of one upload: each that was handed over has one, unless the connection ends
//!      ──► Fetched {…}       the end of one fetch, likewise
//!      ──► Down              the connection ended: orders and their fates are void, and `Up` follows
//! ```
//!
//! In a frontend pod there is one service; the stand-alone daemon registers each of its own, keeps the `Registry` to add
//! others on a reload, and drops a service's receiver to take it away. A service must read its news: one that does not holds
//! up the others (they are loops that never block; channels hold what comes meanwhile).
//!
//! A fetch asks one HSDir (`HSFETCH … SERVER=`). Without `SERVER` tor would choose one, and refuse to ask all of them again for
//! 15 minutes. Tor asks for the descriptor of the time period that clients use now, and for no other. Uploads are ordered by
//! the engine's schedule and go out at once; fetches wait in a queue (`fetches`).

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
use crate::merge::Now;
use crate::onion::OnionAddress;

/// Before a tor that refuses what this needs is connected to again.
const RECONNECT: Duration = Duration::from_secs(1);
/// Tor's time to answer: on the Tor network all microdescriptors are some megabytes.
const ANSWER: Duration = Duration::from_secs(20);
/// A pod's tor is started after the publisher: one that is not there so early is no trouble.
const STARTS: Duration = Duration::from_secs(3);
/// How often a silent connection is tried.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// An upload that waited longer than this is not carried out: this process stood still meanwhile, and may lead no more.
const STALE: Duration = Duration::from_secs(5);

/// What tor tells a service.
#[derive(Debug)]
pub(super) enum News {
    /// There is a connection, and tor is bootstrapped. Orders go here, as long as the connection lasts.
    Up(Orders),
    /// There is no connection.
    Down,
    /// A consensus, or microdescriptors of its HSDirs, came.
    Network(Arc<Network>),
    /// An upload's fate.
    Uploaded(Fingerprint, Result<(), String>),
    /// What a fetch brought: the descriptor's text, unchecked, at most 64 KiB.
    Fetched {
        /// Whose descriptor.
        address: OnionAddress,
        /// From where.
        hsdir: Fingerprint,
        /// The text, or why there is none: tor's `REASON=`, a refusal, or no answer in time.
        result: Result<Arc<str>, String>,
    },
}

/// Where a service's orders go.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    service: OnionAddress,
    orders: mpsc::Sender<(OnionAddress, Order)>,
}

#[derive(Debug)]
enum Order {
    Upload(Upload),
    Fetch(Fetch),
}

/// A descriptor of the service on its way.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) hsdir: Fingerprint,
    pub(super) descriptor: Arc<str>,
    /// When it was handed over.
    pub(super) ordered: Now,
}

/// A descriptor of any service to ask an HSDir for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Whose.
    pub(super) address: OnionAddress,
    pub(super) hsdir: Fingerprint,
}

impl Orders {
    /// Hands an upload over; false where the connection is gone, or too many orders wait. Then it has no fate.
    pub(super) fn upload(&self, upload: Upload) -> bool {
        self.orders.try_send((self.service, Order::Upload(upload))).is_ok()
    }

    /// Hands a fetch over, likewise.
    pub(super) fn fetch(&self, fetch: Fetch) -> bool {
        self.orders.try_send((self.service, Order::Fetch(fetch))).is_ok()
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("no service is left")]
    Idle,
}

/// The connection, kept up.
pub(super) struct Tor {
    connector: Connector,
    clock: Clock,
    services: Services,
    silent: watch::Sender<bool>,
}

impl Tor {
    /// By this connector, which is given the time that tor needs for long answers.
    pub(super) fn new(connector: Connector, clock: Clock) -> (Self, Registry) {
        let (services, registry) = Services::new();
        let connector = Connector { command_timeout: ANSWER, ..connector };
        (Self { connector, clock, services, silent: watch::Sender::new(false) }, registry)
    }

    /// Tells here whether tor takes connections and does not answer: frozen, or dead-locked. One that is not there, or waits for
    /// the network, is not silent.
    pub(super) fn telling_silence(self, silent: watch::Sender<bool>) -> Self {
        Self { silent, ..self }
    }

    /// Keeps a connection until nobody is left to serve.
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
                self.services.tell_all(|_| News::Down).await;
                if self.services.nobody_is_left() {
                    return;
                }
                if met || begun.elapsed() > STARTS || !is_absent(&lost) {
                    complaint.utter("no connection to tor", &lost);
                }
                if connected {
                    // Tor is there, but refuses what this needs: the supervisor goes, and its connection with it.
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

/// What a lost connection tells; one that just broke off tells nothing.
fn silence(lost: &Lost) -> Option<bool> {
    match lost {
        Lost::Control(ControlError::Timeout(_)) => Some(true),
        _ if is_absent(lost) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
