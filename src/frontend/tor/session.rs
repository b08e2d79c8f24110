//! Handles one connection to tor, from its authentication to its end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::fetches::{FetchQueue, Target};
use super::network::{self, ReadError, Reading, Reread};
use super::services::Services;
use super::turns::Turns;
use super::uploads::{PendingUploads, is_rejection};
use super::{Fetch, FetchError, HEARTBEAT, Lost, Order, STALE, TorNews, TorOrders, Upload};
use crate::common::complaint::Complaint;
use crate::consensus::{Fingerprint, Network, NetworkKind};
use crate::control::{Client, ControlError, Event, HsDescAction, HsDescEvent, bootstrap_percent};
use crate::frontend::clock::Clock;
use crate::frontend::pause;
use crate::merge::UploadError;
use crate::onion::OnionAddress;

/// The maximum number of waiting requests. A daemon with many services requests all of its uploads
/// at the same time.
const ORDERS: usize = 1024;

/// The interval at which `SIGNAL ACTIVE` is sent. Without client activity, tor becomes dormant
/// after 24 hours (`DormantClientTimeout`, at least ten minutes); commands on the control port do
/// not count as activity. A dormant tor does not download consensuses.
const ACTIVE: Duration = Duration::from_secs(5 * 60);

/// Tor's `REASON=` if an HSDir has no descriptor for an address.
const NOT_FOUND: &str = "NOT_FOUND";

/// An authenticated connection to tor.
pub(super) struct Session<'a> {
    services: &'a mut Services,
    clock: Clock,
    client: Client,
    events: mpsc::Receiver<Event>,
    kind: NetworkKind,
    /// The channel of requests. None until tor has bootstrapped, because uploads would fail before
    /// that.
    orders: Option<Channel>,
    /// The services that have heard of this connection.
    greeted: BTreeSet<OnionAddress>,
    turns: Turns,
    uploads: PendingUploads,
    fetches: FetchQueue,
    reading: Reading,
    reread: Reread,
    /// The last problem with tor's consensus.
    complaint: Complaint,
    /// The time of the next `SIGNAL ACTIVE`.
    active: Instant,
}

/// The channel of requests. Both ends are kept, so that services that are registered later can get
/// a sender.
struct Channel {
    sender: mpsc::Sender<(OnionAddress, Order)>,
    receiver: mpsc::Receiver<(OnionAddress, Order)>,
}

impl<'a> Session<'a> {
    /// Runs the session until the connection is lost or no service remains.
    pub(super) async fn run(
        services: &'a mut Services,
        clock: Clock,
        client: Client,
        events: mpsc::Receiver<Event>,
    ) -> Result<Infallible, Lost> {
        let testing = client.get_conf("TestingTorNetwork").await?;
        let kind = NetworkKind::from_option(&testing);
        client.set_events(&["HS_DESC", "HS_DESC_CONTENT", "NEWCONSENSUS", "NEWDESC", "STATUS_CLIENT"]).await?;
        tracing::info!(?kind, "connected to tor");
        let mut session = Session {
            services,
            clock,
            client,
            events,
            kind,
            orders: None,
            greeted: BTreeSet::new(),
            turns: Turns::default(),
            uploads: PendingUploads::default(),
            fetches: FetchQueue::default(),
            reading: Reading::default(),
            reread: Reread::default(),
            complaint: Complaint::default(),
            active: Instant::now(),
        };
        // The user need not wait until tor is bootstrapped for this explanation.
        if let Some(problem) = network::misconfiguration(&session.client).await? {
            session.complain(&problem);
        }
        // A tor that starts dormant does not bootstrap.
        session.keep_active().await?;
        session.read_bootstrap().await?;
        loop {
            session.turn().await?;
        }
    }

    async fn turn(&mut self) -> Result<(), Lost> {
        let next_turn = self.turns.due(Instant::now(), self.services.count());
        tokio::select! {
            event = self.events.recv() => self.event(event.ok_or(ControlError::Closed)?).await?,
            Some((service, order)) = next(&mut self.orders) => self.order(service, order).await?,
            service = self.services.next() => self.welcome(service).await,
            () = until(next_turn) => self.next_turn().await,
            () = until(self.fetches.due(Instant::now())) => self.fetch().await?,
            () = until(self.reread.due()), if !self.reading.is_under_way() => {
                self.reread.started();
                self.reading.start(self.client.clone(), self.kind);
            }
            result = self.reading.end() => self.read(result)?,
            () = sleep_until(self.active) => self.keep_active().await?,
            () = sleep(HEARTBEAT) => self.read_bootstrap().await?,
        }
        if self.services.is_idle() { Err(Lost::Idle) } else { Ok(()) }
    }

    /// Prevents tor from becoming dormant.
    async fn keep_active(&mut self) -> Result<(), Lost> {
        self.client.signal("ACTIVE").await?;
        self.active = Instant::now() + ACTIVE;
        Ok(())
    }

    /// Reads the bootstrap phase from tor, which also checks that tor still answers.
    async fn read_bootstrap(&mut self) -> Result<(), Lost> {
        let phase = self.client.get_info("status/bootstrap-phase").await?;
        if bootstrap_percent(&phase) == Some(100) {
            self.bootstrapped().await;
        }
        Ok(())
    }

    async fn bootstrapped(&mut self) {
        if self.orders.is_some() {
            return;
        }
        tracing::info!("tor is bootstrapped");
        let (sender, receiver) = mpsc::channel(ORDERS);
        self.reread.soon(Instant::now());
        self.orders = Some(Channel { sender, receiver });
        for service in self.services.addresses() {
            self.request_turn(service).await;
        }
    }

    /// Prepares a new service, which has heard nothing yet.
    async fn welcome(&mut self, service: OnionAddress) {
        self.greeted.remove(&service);
        self.request_turn(service).await;
    }

    /// Lets the service hear the news in its turn, or at once while there is no network, because
    /// the service can publish nothing then.
    async fn request_turn(&mut self, service: OnionAddress) {
        if self.services.network.is_some() {
            self.turns.request(service);
        } else {
            self.greet(service).await;
        }
    }

    async fn next_turn(&mut self) {
        if let Some(service) = self.turns.start(Instant::now(), self.services.count()) {
            self.greet(service).await;
        }
    }

    /// Sends a service the newest network and, once for each connection, the access to tor.
    async fn greet(&mut self, service: OnionAddress) {
        let Some(Channel { sender, .. }) = &self.orders else { return };
        if self.greeted.insert(service) {
            let orders = TorOrders { service, orders: sender.clone() };
            self.services.send(service, TorNews::Up(orders)).await;
        }
        if let Some(network) = self.services.network.clone() {
            self.services.send(service, TorNews::Network(network)).await;
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::HsDesc(event) => self.hs_desc(event).await,
            Event::HsDescContent(content) => {
                // Tor sends an empty content after each failure.
                let descriptor =
                    if content.descriptor.is_empty() { Err(FetchError::Empty) } else { Ok(content.descriptor.into()) };
                self.fetched((content.address, Fingerprint(content.hsdir)), descriptor).await;
            }
            Event::NewConsensus if self.orders.is_some() => self.reread.soon(Instant::now()),
            Event::NewDescriptors => self.reread.sooner(Instant::now()),
            Event::Bootstrap(100) => self.bootstrapped().await,
            Event::NewConsensus | Event::Bootstrap(_) | Event::Other(..) => {}
        }
        Ok(())
    }

    async fn hs_desc(&mut self, event: HsDescEvent) {
        // HS_DESC_CONTENT delivers the result of a successful fetch; from HS_DESC, only failures
        // are used.
        let fetch = self.fetches.failed(&event).filter(|_| !is_rejection(&event));
        if let Some(target) = fetch {
            self.fetched(target, Err(fetch_error(event.reason))).await;
        } else if let Some((service, hsdir, result)) = self.uploads.event(&event) {
            self.services.send(service, TorNews::Uploaded(hsdir, result)).await;
        } else if event.action == HsDescAction::Failed {
            tracing::debug!(?event, "tor reported a failure that does not match any pending upload or fetch");
        }
    }

    async fn order(&mut self, service: OnionAddress, order: Order) -> Result<(), Lost> {
        match order {
            Order::Upload(upload) => self.post(service, upload).await,
            Order::Fetch(Fetch { address, hsdir }) => {
                self.fetches.order(service, (address, hsdir));
                Ok(())
            }
            Order::UseKey(key) => match self.client.add_client_key(&service, &key).await {
                Err(ControlError::Refused { code, message }) => {
                    tracing::warn!(code, reason = message, "tor refused the probe's client key");
                    Ok(())
                }
                other => Ok(other?),
            },
            Order::Circuits(answer) => match self.client.get_info("circuit-status").await {
                // Nobody waits for the answer if the probe's time is over.
                Ok(circuits) => {
                    _ = answer.send(circuits);
                    Ok(())
                }
                // Dropping `answer` tells the probe that there is no list.
                Err(ControlError::Refused { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }

    async fn post(&mut self, service: OnionAddress, upload: Upload) -> Result<(), Lost> {
        let Upload { hsdir, descriptor, ordered } = upload;
        let failed = |error| TorNews::Uploaded(hsdir, Err(error));
        if pause::length(ordered, self.clock.now()) > STALE {
            self.services.send(service, failed(UploadError::Stale)).await;
            return Ok(());
        }
        self.uploads.started(service, hsdir);
        match self.client.hs_post(&[hsdir.0], &service, &descriptor).await {
            // 552: tor does not know the HSDir; 554: tor cannot parse the descriptor.
            Err(ControlError::Refused { code, message }) => {
                self.uploads.ended(service, hsdir);
                self.services.send(service, failed(UploadError::Refused(format!("{code} {message}")))).await;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Ends the fetches that have taken too long, and starts the one that is due.
    async fn fetch(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        while let Some(((address, hsdir), askers)) = self.fetches.expired(now) {
            self.services.send_fetched(askers, address, hsdir, &Err(FetchError::NoAnswer)).await;
        }
        let Some(target @ (address, hsdir)) = self.fetches.start(now) else { return Ok(()) };
        match self.client.hs_fetch(&address, &[hsdir.0]).await {
            // 552: tor does not know the HSDir.
            Err(ControlError::Refused { code, message }) => {
                self.fetched(target, Err(FetchError::Refused(format!("{code} {message}")))).await;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn fetched(&mut self, target: Target, result: Result<Arc<str>, FetchError>) {
        let askers = self.fetches.ended(target);
        self.services.send_fetched(askers, target.0, target.1, &result).await;
    }

    /// Logs why tor's consensus cannot be used, unless this was the last problem, too.
    fn complain(&mut self, problem: &dyn Display) {
        self.complaint.utter("tor has no usable consensus", problem);
    }

    fn read(&mut self, result: Result<Network, ReadError>) -> Result<(), Lost> {
        match result {
            Ok(network) => {
                self.complaint.settle();
                let (hsdirs, missing) = network.hsdir_count();
                tracing::debug!(hsdirs, missing, "read the consensus");
                self.reread.done(missing > 0, Instant::now());
                self.services.network = Some(Arc::new(network));
                for service in self.services.addresses() {
                    self.turns.request(service);
                }
                Ok(())
            }
            Err(ReadError::Lost(error)) => Err(error.into()),
            Err(ReadError::Useless(error)) => {
                self.complain(&error);
                self.reread.done(true, Instant::now());
                Ok(())
            }
        }
    }
}

/// Converts tor's `REASON=` to an error.
fn fetch_error(reason: Option<String>) -> FetchError {
    match reason {
        Some(reason) if reason == NOT_FOUND => FetchError::NotFound,
        other => FetchError::Other(other.unwrap_or_else(|| "FAILED".to_owned())),
    }
}

async fn next(channel: &mut Option<Channel>) -> Option<(OnionAddress, Order)> {
    match channel {
        Some(channel) => channel.receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
