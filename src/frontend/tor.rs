//! The frontend's tor: what it knows of the network, and uploads through it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::clock::{self, Clock};
use super::complaint::Complaint;
use crate::consensus::{Fingerprint, Network, NetworkKind};
use crate::control::{
    Backoff, Client, Connector, ControlError, Event, HsDescAction, HsDescEvent, Update, bootstrap_percent, supervise,
};
use crate::merge::Now;
use crate::onion::OnionAddress;

/// Before a tor that refuses what this needs is connected to again.
const RECONNECT: Duration = Duration::from_secs(1);
/// Tor's time to answer: on the Tor network all microdescriptors are some megabytes.
const ANSWER: Duration = Duration::from_secs(20);
/// How often a silent connection is tried.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// An order that waited longer than this is not carried out: this process stood still meanwhile, and may lead no more.
const STALE: Duration = Duration::from_secs(5);
/// While microdescriptors are missing (or there is no consensus) tor is asked again after so long, then ever later,
const REREAD: Duration = Duration::from_secs(1);
/// but at the latest after so long.
const REREAD_MAX: Duration = Duration::from_secs(60);
/// More than are ever in flight: one for each responsible HSDir of two periods.
const UPLOADS: usize = 256;

/// What tor tells.
#[derive(Debug)]
pub(super) enum News {
    /// There is a connection, and tor is bootstrapped. Uploads go here, as long as the connection lasts.
    Up(mpsc::Sender<Upload>),
    /// There is no connection.
    Down,
    /// A consensus, or microdescriptors of its HSDirs, came.
    Network(Arc<Network>),
    /// An upload's fate.
    Uploaded(Fingerprint, Result<(), String>),
}

/// A descriptor on its way.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) hsdir: Fingerprint,
    pub(super) descriptor: Arc<str>,
    /// When it was handed over.
    pub(super) ordered: Now,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the publisher is gone")]
    PublisherGone,
}

/// The tor beside this publisher.
pub(super) struct Tor {
    pub(super) socket: PathBuf,
    pub(super) address: OnionAddress,
    pub(super) clock: Clock,
    pub(super) news: mpsc::Sender<News>,
}

impl Tor {
    /// Keeps a connection until the publisher is gone.
    pub(super) async fn run(self) {
        let connector = Connector { command_timeout: ANSWER, ..Connector::new(&self.socket) };
        let mut complaint = Complaint::default();
        loop {
            let mut connections = supervise(connector.clone(), Backoff::default(), StdRng::from_seed(clock::random()));
            while let Some(update) = connections.recv().await {
                let (lost, connected) = match update {
                    Update::Lost(error) => (error.into(), false),
                    Update::Connected(client, events) => {
                        complaint.settle();
                        let Err(lost) = self.session(client.clone(), events).await;
                        (lost, client.close_reason().is_none())
                    }
                };
                if matches!(lost, Lost::PublisherGone) || self.news.send(News::Down).await.is_err() {
                    return;
                }
                complaint.utter("no connection to tor", &lost);
                if connected {
                    // Tor is there, but refuses what this needs: the supervisor goes, and its connection with it.
                    sleep(RECONNECT).await;
                    break;
                }
            }
        }
    }

    async fn session(&self, client: Client, events: mpsc::Receiver<Event>) -> Result<Infallible, Lost> {
        let testing = client.get_conf("TestingTorNetwork").await?;
        let kind = if testing.iter().any(|value| value == "1") { NetworkKind::Testing } else { NetworkKind::Public };
        client.set_events(&["HS_DESC", "NEWCONSENSUS", "NEWDESC", "STATUS_CLIENT"]).await?;
        tracing::info!(?kind, "connected to tor");
        let mut session = Session {
            tor: self,
            client,
            events,
            kind,
            uploads: None,
            in_flight: BTreeSet::new(),
            reading: None,
            reread: Reread::default(),
        };
        session.run().await
    }

    async fn tell(&self, news: News) -> Result<(), Lost> {
        self.news.send(news).await.map_err(|_| Lost::PublisherGone)
    }
}

/// One connection.
struct Session<'a> {
    tor: &'a Tor,
    client: Client,
    events: mpsc::Receiver<Event>,
    kind: NetworkKind,
    /// None until tor is bootstrapped: what is posted earlier fails.
    uploads: Option<mpsc::Receiver<Upload>>,
    in_flight: BTreeSet<Fingerprint>,
    reading: Option<JoinHandle<Result<Network, ReadError>>>,
    reread: Reread,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<Infallible, Lost> {
        self.look_at_bootstrap().await?;
        loop {
            tokio::select! {
                event = self.events.recv() => self.event(event.ok_or(ControlError::Closed)?).await?,
                Some(upload) = next(&mut self.uploads) => self.post(upload).await?,
                () = until(self.reread.due()), if self.reading.is_none() => self.start_reading(),
                result = ended(&mut self.reading) => {
                    self.reading = None;
                    self.read(result).await?;
                }
                () = sleep(HEARTBEAT) => self.look_at_bootstrap().await?,
            }
        }
    }

    /// Also finds out whether tor still answers.
    async fn look_at_bootstrap(&mut self) -> Result<(), Lost> {
        let phase = self.client.get_info("status/bootstrap-phase").await?;
        if bootstrap_percent(&phase) == Some(100) { self.bootstrapped().await } else { Ok(()) }
    }

    async fn bootstrapped(&mut self) -> Result<(), Lost> {
        if self.uploads.is_some() {
            return Ok(());
        }
        tracing::info!("tor is bootstrapped");
        let (sender, uploads) = mpsc::channel(UPLOADS);
        self.uploads = Some(uploads);
        self.reread.soon(Instant::now());
        self.tor.tell(News::Up(sender)).await
    }

    async fn event(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::HsDesc(event) => {
                if let Some((hsdir, result)) = fate(&event, &self.tor.address)
                    && self.in_flight.remove(&hsdir)
                {
                    self.tor.tell(News::Uploaded(hsdir, result)).await?;
                }
            }
            Event::NewConsensus if self.uploads.is_some() => self.reread.soon(Instant::now()),
            Event::NewDescriptors => self.reread.sooner(Instant::now()),
            Event::Bootstrap(100) => self.bootstrapped().await?,
            Event::NewConsensus | Event::Bootstrap(_) | Event::Other(..) => {}
        }
        Ok(())
    }

    async fn post(&mut self, upload: Upload) -> Result<(), Lost> {
        let Upload { hsdir, descriptor, ordered } = upload;
        if clock::gap(ordered, self.tor.clock.now()) > STALE {
            return self.tor.tell(News::Uploaded(hsdir, Err("the order is stale".to_owned()))).await;
        }
        self.in_flight.insert(hsdir);
        match self.client.hs_post(&[hsdir.0], &self.tor.address, &descriptor).await {
            // 552: tor does not know the HSDir; 554: it cannot read the descriptor.
            Err(ControlError::Refused { code, message }) => {
                self.in_flight.remove(&hsdir);
                self.tor.tell(News::Uploaded(hsdir, Err(format!("{code} {message}")))).await
            }
            other => Ok(other?),
        }
    }

    fn start_reading(&mut self) {
        self.reread.started();
        self.reading = Some(tokio::spawn(read_network(self.client.clone(), self.kind)));
    }

    async fn read(&mut self, result: Result<Network, ReadError>) -> Result<(), Lost> {
        match result {
            Ok(network) => {
                let (hsdirs, missing) = network.hsdir_count();
                tracing::debug!(hsdirs, missing, "read the consensus");
                self.reread.done(missing > 0, Instant::now());
                self.tor.tell(News::Network(Arc::new(network))).await
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

/// When consensus and microdescriptors are to be read again.
#[derive(Debug, Default)]
struct Reread {
    due: Option<Instant>,
    /// After the next incomplete reading.
    pause: Duration,
}

impl Reread {
    fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is a new consensus.
    fn soon(&mut self, now: Instant) {
        (self.due, self.pause) = (Some(now), REREAD);
    }

    /// Descriptors came: they may be among the missing ones.
    fn sooner(&mut self, now: Instant) {
        self.due = self.due.map(|due| due.min(now + REREAD));
    }

    fn started(&mut self) {
        self.due = None;
    }

    /// Tor tells nobody that microdescriptors came: while some are missing it is asked again and again, ever more rarely.
    fn done(&mut self, incomplete: bool, now: Instant) {
        if incomplete && self.due.is_none() {
            self.due = Some(now + self.pause);
            self.pause = (2 * self.pause).min(REREAD_MAX);
        }
    }
}

/// Why there is no network.
#[derive(Debug)]
enum ReadError {
    Lost(ControlError),
    Useless(String),
}

async fn read_network(client: Client, kind: NetworkKind) -> Result<Network, ReadError> {
    let get = |key| {
        let client = client.clone();
        async move {
            match client.get_info(key).await {
                Err(refused @ ControlError::Refused { .. }) => Err(ReadError::Useless(refused.to_string())),
                other => other.map_err(ReadError::Lost),
            }
        }
    };
    let consensus = get("dir/status-vote/current/consensus-microdesc").await?;
    let microdescriptors = get("md/all").await?;
    let parse = move || Network::parse(&consensus, &microdescriptors, kind);
    match tokio::task::spawn_blocking(parse).await {
        Ok(network) => network.map_err(|error| ReadError::Useless(error.to_string())),
        Err(error) => Err(ReadError::Useless(error.to_string())),
    }
}

/// What an event says of an upload of ours. (Fetches fail with FAILED, too: the caller knows what is in flight.)
fn fate(event: &HsDescEvent, address: &OnionAddress) -> Option<(Fingerprint, Result<(), String>)> {
    let hsdir = Fingerprint(event.hsdir?);
    if event.address.is_some_and(|other| other != *address) {
        return None;
    }
    match event.action {
        HsDescAction::Uploaded => Some((hsdir, Ok(()))),
        HsDescAction::Failed => Some((hsdir, Err(event.reason.clone().unwrap_or_else(|| "FAILED".to_owned())))),
        _ => None,
    }
}

async fn next<T>(receiver: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn ended(reading: &mut Option<JoinHandle<Result<Network, ReadError>>>) -> Result<Network, ReadError> {
    match reading {
        Some(task) => task.await.unwrap_or_else(|error| Err(ReadError::Useless(error.to_string()))),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: HsDescAction, reason: Option<&str>) -> HsDescEvent {
        let reason = reason.map(str::to_owned);
        HsDescEvent { action, address: None, hsdir: Some([7; 20]), descriptor_id: None, reason }
    }

    fn address() -> OnionAddress {
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap()
    }

    #[test]
    fn fates_of_uploads() {
        let hsdir = Fingerprint([7; 20]);
        assert_eq!(fate(&event(HsDescAction::Uploaded, None), &address()), Some((hsdir, Ok(()))));
        let rejected = Some("UPLOAD_REJECTED");
        let failed = Some((hsdir, Err("UPLOAD_REJECTED".to_owned())));
        assert_eq!(fate(&event(HsDescAction::Failed, rejected), &address()), failed);
        assert_eq!(fate(&event(HsDescAction::Upload, None), &address()), None);
        let nowhere = HsDescEvent { hsdir: None, ..event(HsDescAction::Uploaded, None) };
        assert_eq!(fate(&nowhere, &address()), None);
        let other = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion".parse().unwrap();
        let others = HsDescEvent { address: Some(other), ..event(HsDescAction::Uploaded, None) };
        assert_eq!(fate(&others, &address()), None);
    }

    #[tokio::test]
    async fn reading_again() {
        let now = Instant::now();
        let mut reread = Reread::default();
        reread.sooner(now);
        assert_eq!(reread.due(), None, "nothing is missing");
        reread.soon(now);
        reread.started();
        reread.done(true, now);
        assert_eq!(reread.due(), Some(now + REREAD));
        reread.started();
        reread.done(true, now);
        assert_eq!(reread.due(), Some(now + 2 * REREAD));
        reread.sooner(now);
        assert_eq!(reread.due(), Some(now + REREAD));
        reread.started();
        reread.soon(now);
        reread.done(true, now);
        assert_eq!(reread.due(), Some(now), "a consensus that came during the reading is read at once");
        reread.started();
        reread.done(false, now);
        assert_eq!(reread.due(), None);
        for _ in 0..20 {
            reread.done(true, now);
            assert!(reread.due().is_some_and(|due| due <= now + REREAD_MAX));
            reread.started();
        }
    }
}
