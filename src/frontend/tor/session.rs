//! One connection: from authentication to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::fetches::{Fetches, Matter};
use super::network::{ReadError, Reading, Reread};
use super::services::Services;
use super::uploads::{Uploads, is_rejection};
use super::{Fetch, HEARTBEAT, Lost, News, Order, Orders, STALE, Upload};
use crate::consensus::{Fingerprint, Network, NetworkKind};
use crate::control::{Client, ControlError, Event, HsDescAction, HsDescEvent, bootstrap_percent};
use crate::frontend::clock::{self, Clock};
use crate::onion::OnionAddress;

/// Orders that wait: all uploads of a large set of services are ordered at once.
const ORDERS: usize = 1024;

/// How often tor is told that it is in use: it goes dormant after 24 hours without a client (`DormantClientTimeout`, ten minutes at
/// least), and what the control port asks of it is no use. A dormant one downloads no consensus.
const ACTIVE: Duration = Duration::from_secs(5 * 60);

pub(super) struct Session<'a> {
    services: &'a mut Services,
    clock: Clock,
    client: Client,
    events: mpsc::Receiver<Event>,
    kind: NetworkKind,
    /// None until tor is bootstrapped: what is posted earlier fails.
    orders: Option<Channel>,
    uploads: Uploads,
    fetches: Fetches,
    reading: Reading,
    reread: Reread,
    /// When to tell tor again that it is in use.
    active: Instant,
}

/// Both ends, so that services that come later get one, too.
struct Channel {
    sender: mpsc::Sender<(OnionAddress, Order)>,
    receiver: mpsc::Receiver<(OnionAddress, Order)>,
}

impl<'a> Session<'a> {
    /// Runs until the connection is lost, or nobody is left to serve.
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
            uploads: Uploads::default(),
            fetches: Fetches::default(),
            reading: Reading::default(),
            reread: Reread::default(),
            active: Instant::now(),
        };
        // One that starts dormant does not even bootstrap.
        session.keep_active().await?;
        session.look_at_bootstrap().await?;
        loop {
            session.turn().await?;
        }
    }

    async fn turn(&mut self) -> Result<(), Lost> {
        tokio::select! {
            event = self.events.recv() => self.event(event.ok_or(ControlError::Closed)?).await?,
            Some((service, order)) = next(&mut self.orders) => self.order(service, order).await?,
            service = self.services.next() => self.welcome(service).await,
            () = until(self.fetches.due(Instant::now())) => self.fetch().await?,
            () = until(self.reread.due()), if !self.reading.goes_on() => {
                self.reread.started();
                self.reading.start(self.client.clone(), self.kind);
            }
            result = self.reading.end() => self.read(result).await?,
            () = sleep_until(self.active) => self.keep_active().await?,
            () = sleep(HEARTBEAT) => self.look_at_bootstrap().await?,
        }
        if self.services.nobody_is_left() { Err(Lost::Idle) } else { Ok(()) }
    }

    async fn keep_active(&mut self) -> Result<(), Lost> {
        self.client.signal("ACTIVE").await?;
        self.active = Instant::now() + ACTIVE;
        Ok(())
    }

    /// Also finds out whether tor still answers.
    async fn look_at_bootstrap(&mut self) -> Result<(), Lost> {
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
        self.services.tell_all(|service| News::Up(Orders { service, orders: sender.clone() })).await;
        self.orders = Some(Channel { sender, receiver });
    }

    /// A service that came later learns what the others know.
    async fn welcome(&mut self, service: OnionAddress) {
        if let Some(Channel { sender, .. }) = &self.orders {
            self.services.tell(service, News::Up(Orders { service, orders: sender.clone() })).await;
        }
        if let Some(network) = self.services.network.clone() {
            self.services.tell(service, News::Network(network)).await;
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::HsDesc(event) => self.hs_desc(event).await,
            Event::HsDescContent(content) => {
                // After a failure comes a content that is empty.
                let descriptor = if content.descriptor.is_empty() {
                    Err("an empty descriptor".to_owned())
                } else {
                    Ok(content.descriptor.into())
                };
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
        // What a fetch brings, HS_DESC_CONTENT tells; only its failure is told here.
        let fetch = self.fetches.failed(&event).filter(|_| !is_rejection(&event));
        if let Some(matter) = fetch {
            self.fetched(matter, Err(event.reason.unwrap_or_else(|| "FAILED".to_owned()))).await;
        } else if let Some((service, hsdir, result)) = self.uploads.event(&event) {
            self.services.tell(service, News::Uploaded(hsdir, result)).await;
        } else if event.action == HsDescAction::Failed {
            tracing::debug!(?event, "a failure of nothing that is on its way");
        }
    }

    async fn order(&mut self, service: OnionAddress, order: Order) -> Result<(), Lost> {
        match order {
            Order::Upload(upload) => self.post(service, upload).await,
            Order::Fetch(Fetch { address, hsdir }) => {
                self.fetches.order(service, (address, hsdir));
                Ok(())
            }
        }
    }

    async fn post(&mut self, service: OnionAddress, upload: Upload) -> Result<(), Lost> {
        let Upload { hsdir, descriptor, ordered } = upload;
        let failed = |reason| News::Uploaded(hsdir, Err(reason));
        if clock::gap(ordered, self.clock.now()) > STALE {
            self.services.tell(service, failed("the order is stale".to_owned())).await;
            return Ok(());
        }
        self.uploads.started(service, hsdir);
        match self.client.hs_post(&[hsdir.0], &service, &descriptor).await {
            // 552: tor does not know the HSDir; 554: it cannot read the descriptor.
            Err(ControlError::Refused { code, message }) => {
                self.uploads.ended(service, hsdir);
                self.services.tell(service, failed(format!("{code} {message}"))).await;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Ends the fetches that take too long, and starts the one that is due.
    async fn fetch(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        while let Some(((address, hsdir), askers)) = self.fetches.expired(now) {
            self.services.tell_fetched(askers, address, hsdir, &Err("no answer".to_owned())).await;
        }
        let Some(matter @ (address, hsdir)) = self.fetches.start(now) else { return Ok(()) };
        match self.client.hs_fetch(&address, &[hsdir.0]).await {
            // 552: tor does not know the HSDir.
            Err(ControlError::Refused { code, message }) => {
                self.fetched(matter, Err(format!("{code} {message}"))).await;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn fetched(&mut self, matter: Matter, result: Result<Arc<str>, String>) {
        let askers = self.fetches.ended(matter);
        self.services.tell_fetched(askers, matter.0, matter.1, &result).await;
    }

    async fn read(&mut self, result: Result<Network, ReadError>) -> Result<(), Lost> {
        match result {
            Ok(network) => {
                let (hsdirs, missing) = network.hsdir_count();
                tracing::debug!(hsdirs, missing, "read the consensus");
                self.reread.done(missing > 0, Instant::now());
                let network = Arc::new(network);
                self.services.network = Some(network.clone());
                self.services.tell_all(|_| News::Network(network.clone())).await;
                Ok(())
            }
            Err(ReadError::Lost(error)) => Err(error.into()),
            Err(ReadError::Useless(error)) => {
                tracing::warn!(error, "tor has no consensus that can be used");
                self.reread.done(true, Instant::now());
                Ok(())
            }
        }
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
