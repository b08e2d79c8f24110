//! The connection to tor, shared by all services of this process for the network, uploads and
//! fetches.
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
//!      ──► Down              the connection ended: all orders are cancelled; `Up` follows later
//! ```
//!
//! A frontend pod has one service. The stand-alone daemon registers each of its services, keeps the
//! `Registry` to add more on a reload, and drops a service's receiver to remove it. A service must
//! read its news, because a full channel blocks the other services.
//!
//! A fetch queries one HSDir (`HSFETCH … SERVER=`). Without `SERVER`, tor would choose an HSDir
//! itself, and would not query the same HSDir again for 15 minutes. Tor fetches only the descriptor
//! of the time period that clients currently use. Uploads follow the engine's schedule and start
//! immediately. Fetches wait in a queue (`fetches`).
//!
//! A new connection or a new network makes every service publish. The services therefore hear of
//! them in turns (`turns`).

mod drawn;
mod fetches;
mod layers;
mod network;
mod services;
mod session;
mod silence;
#[cfg(test)]
pub(super) mod testing;
mod turns;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

pub(super) use self::layers::Wanted as WantedVanguards;
pub(super) use self::services::Registry;
use self::services::Services;
use self::session::Session;
pub(super) use self::silence::Silence;
use super::clock::{self, Clock};
use crate::common::complaint::Complaint;
use crate::consensus::{Fingerprint, Network};
use crate::control::{Backoff, Connected, Connector, ControlError, NoConnection, Update, supervise};
use crate::merge::{Now, UploadError};
use crate::onion::{ClientSecretKey, OnionAddress};

/// The pause before connecting again after tor has refused a command that the publisher needs.
const RECONNECT: Duration = Duration::from_secs(1);
/// The maximum time that tor may take to answer a command. The microdescriptors of the whole Tor
/// network amount to a few megabytes.
const ANSWER: Duration = Duration::from_secs(20);
/// The time after the start during which a missing tor is not reported, because a pod starts tor
/// after the publisher.
const STARTS: Duration = Duration::from_secs(3);
/// If a session has been idle for this long, the publisher checks that tor still answers.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The maximum age of a requested upload. An older upload is dropped: this process must have been
/// suspended, and another publisher may be the leader by now.
const STALE: Duration = Duration::from_secs(5);

/// A message from the tor connection to a service.
#[derive(Debug)]
pub(super) enum TorNews {
    /// Tor is connected and bootstrapped. The handle is valid until the connection ends.
    Up(TorOrders),
    /// The connection to tor ended.
    Down,
    /// Tor has a new consensus or new microdescriptors of HSDirs.
    Network(Arc<Network>),
    /// An upload to this HSDir ended.
    Uploaded(Fingerprint, Result<(), UploadError>),
    /// A fetch ended.
    Fetched {
        /// The onion address whose descriptor was fetched.
        address: OnionAddress,
        /// The HSDir that was asked.
        hsdir: Fingerprint,
        /// The text of the descriptor, unchecked and at most 64 KiB long, or the error.
        result: Result<Arc<str>, FetchError>,
    },
}

/// The reason why a fetch returned no descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The HSDir has no descriptor for this address.
    #[error("NOT_FOUND")]
    NotFound,
    /// Tor reported another reason for the failure, or none.
    #[error("{0}")]
    Other(String),
    /// Tor refused the fetch command with this code and message.
    #[error("{0}")]
    Refused(String),
    /// The HSDir sent an empty descriptor.
    #[error("the HSDir sent an empty descriptor")]
    Empty,
    /// The fetch took too long.
    #[error("the HSDir did not answer")]
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
    /// Use this client key for the service's own descriptor.
    UseKey(ClientSecretKey),
    /// Return the list of tor's circuits (`GETINFO circuit-status`).
    Circuits(oneshot::Sender<String>),
}

/// A request to upload a descriptor of the service to an HSDir.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) hsdir: Fingerprint,
    pub(super) descriptor: Arc<str>,
    /// The time at which the upload was requested.
    pub(super) ordered: Now,
}

/// A request to fetch the descriptor of any onion service from an HSDir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    /// The onion address whose descriptor to fetch.
    pub(super) address: OnionAddress,
    pub(super) hsdir: Fingerprint,
}

impl TorOrders {
    /// Requests an upload. Returns false if the connection is lost or too many requests are
    /// waiting. In that case, the upload gets no result.
    pub(super) fn upload(&self, upload: Upload) -> bool {
        self.orders.try_send((self.service, Order::Upload(upload))).is_ok()
    }

    /// Requests a fetch. Returns false if the connection is lost or too many requests are waiting.
    /// In that case, the fetch gets no result.
    pub(super) fn fetch(&self, fetch: Fetch) -> bool {
        self.orders.try_send((self.service, Order::Fetch(fetch))).is_ok()
    }

    /// Makes tor use a client key for the service's own descriptor. Returns false if the connection
    /// is lost or too many requests are waiting.
    pub(super) fn use_key(&self, key: ClientSecretKey) -> bool {
        self.orders.try_send((self.service, Order::UseKey(key))).is_ok()
    }

    /// Returns true if both handles belong to the same connection.
    pub(super) fn same_connection(&self, other: &Self) -> bool {
        self.orders.same_channel(&other.orders)
    }

    /// Returns the list of tor's circuits in the format of control-spec, or None if tor does not
    /// return it.
    pub(super) async fn circuits(&self) -> Option<String> {
        let (answer, circuits) = oneshot::channel();
        self.orders.try_send((self.service, Order::Circuits(answer))).ok()?;
        circuits.await.ok()
    }
}

/// The reason why the connection to tor ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("no services remain to be published")]
    Idle,
}

/// The connection to tor, which is re-established whenever it is lost.
pub(super) struct Tor {
    connector: Connector,
    clock: Clock,
    services: Services,
    silence: watch::Sender<Silence>,
    drawn: Option<watch::Sender<Option<String>>>,
    vanguards: Option<WantedVanguards>,
}

impl Tor {
    /// Creates the connection and the registry of its services.
    pub(super) fn new(connector: Connector, clock: Clock) -> (Self, Registry) {
        let (services, registry) = Services::new();
        let connector = Connector { command_timeout: ANSWER, ..connector };
        let silence = watch::Sender::new(Silence::None);
        (Self { connector, clock, services, silence, drawn: None, vanguards: None }, registry)
    }

    /// Makes the connection report through `silence` whether tor seems to be frozen or deadlocked,
    /// that is, whether tor accepts connections without answering. A tor that is missing or waiting
    /// for the network is not silent.
    pub(super) fn reporting_silence(self, silence: watch::Sender<Silence>) -> Self {
        Self { silence, ..self }
    }

    /// Makes the connection pass on tor's entry guards, as `GETINFO entry-guards` lists them, as
    /// soon as tor has some.
    pub(super) fn reporting_guards(self, drawn: watch::Sender<Option<String>>) -> Self {
        Self { drawn: Some(drawn), ..self }
    }

    /// Makes tor use these vanguards. With None, tor chooses its second hops itself.
    pub(super) fn using_vanguards(self, vanguards: Option<WantedVanguards>) -> Self {
        Self { vanguards, ..self }
    }

    /// Runs the connection until every service and every [`Registry`] is dropped.
    pub(super) async fn run(mut self) {
        let mut complaint = Complaint::default();
        let (begun, mut met) = (Instant::now(), false);
        loop {
            let mut connections =
                supervise(self.connector.clone(), Backoff::default(), StdRng::from_seed(clock::random()));
            while let Some(update) = connections.recv().await {
                let (lost, connected) = match update {
                    Update::Lost(lost) => (Some(lost), false),
                    Update::Connected(Connected { client, events, endpoint }) => {
                        met = true;
                        self.silence.send_replace(Silence::None);
                        complaint.settle();
                        let session = Session::run(&mut self.services, self.clock, client.clone(), events);
                        let Err(lost) = tokio::select! {
                            ended = session => ended,
                            never = silence::monitor(&client, &self.silence) => match never {},
                            never = drawn::watch(&client, self.drawn.as_ref()) => match never {},
                            never = layers::keep(&client, self.vanguards.as_ref()) => match never {},
                        };
                        let lost = match lost {
                            Lost::Control(reason) => Some(NoConnection::at(endpoint, reason)),
                            Lost::Idle => None,
                        };
                        (lost, client.close_reason().is_none())
                    }
                };
                if let Some(silence) = lost.as_ref().and_then(|lost| silence_of(&lost.reason)) {
                    self.silence.send_replace(silence);
                }
                self.services.send_all(|_| TorNews::Down).await;
                if self.services.is_idle() {
                    return;
                }
                if let Some(lost) = lost
                    && (met || begun.elapsed() > STARTS || !is_absent(&lost.reason))
                {
                    complaint.utter("no connection to tor", &lost);
                }
                if connected {
                    // Tor refused a command. Dropping the supervisor closes the connection.
                    sleep(RECONNECT).await;
                    break;
                }
            }
        }
    }
}

fn is_absent(lost: &ControlError) -> bool {
    matches!(lost, ControlError::Io { .. })
}

/// Returns what the reason why a connection was lost proves about tor's silence. Returns None if
/// the reason proves nothing.
fn silence_of(lost: &ControlError) -> Option<Silence> {
    match lost {
        ControlError::Timeout(_) => Some(Silence::Long),
        _ if is_absent(lost) => Some(Silence::None),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
