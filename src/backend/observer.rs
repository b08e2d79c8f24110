//! The observer: asks tor once a second what it holds, and at once when tor made a descriptor. Has a tor helped whose onion
//! service stands still.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::paths::RunDir;
use super::points::{Points, open};
use super::stall::{Mended, Mender};
use super::system::wall_clock;
use super::watchdog::{Lost, Watchdog};
use crate::consensus::NetworkKind;
use crate::control::{Client, Connector, ControlError, Event, HsDescAction, bootstrap_percent};
use crate::onion::OnionAddress;

/// How often tor is asked.
const POLL: Duration = Duration::from_secs(1);
/// How often while it has no introduction points: their coming is no event, and readiness waits for them.
const POLL_AT_START: Duration = Duration::from_millis(250);
/// Longer than the watchdog's patience with a tor that once answered: it is the watchdog who counts tor's silence.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// How soon a lost connection is tried again.
const RECONNECT: Duration = Duration::from_millis(250);

/// What the agent knows of its tor.
#[derive(Debug, Clone)]
pub struct TorState {
    /// There is a control connection, and the last question was answered.
    pub answering: bool,
    /// Percent.
    pub bootstrapped: u8,
    /// Its introduction points.
    pub points: Points,
    /// How often a frozen tor was ended.
    pub kills: u64,
    /// How often one was helped whose onion service stood still.
    pub mended: Mended,
}

/// Says that the observer's loop turns.
#[derive(Debug, Clone)]
pub struct Pulse(watch::Sender<Instant>);

impl Pulse {
    pub fn new() -> Self {
        Self(watch::Sender::new(Instant::now()))
    }

    pub fn beat(&self) {
        self.0.send_replace(Instant::now());
    }

    pub fn last_beat(&self) -> Instant {
        *self.0.borrow()
    }
}

/// The task that keeps [`TorState`].
#[derive(Debug)]
pub struct Observer {
    socket: PathBuf,
    connector: Connector,
    address: OnionAddress,
    state: watch::Sender<TorState>,
    pulse: Pulse,
    watchdog: Watchdog,
    /// The last thing that went wrong, so that it is logged once.
    complaint: Option<String>,
}

impl Observer {
    /// `boot` is random per agent start.
    pub fn new(run_dir: &RunDir, address: OnionAddress, boot: u64) -> Self {
        let points = Points::new(boot);
        let state = TorState { answering: false, bootstrapped: 0, points, kills: 0, mended: Mended::default() };
        let pulse = Pulse::new();
        Self {
            socket: run_dir.control_socket(),
            connector: Connector { command_timeout: COMMAND_TIMEOUT, ..Connector::unix(run_dir.control_socket()) },
            address,
            state: watch::Sender::new(state),
            watchdog: Watchdog::new(pulse.clone()),
            pulse,
            complaint: None,
        }
    }

    pub fn watch(&self) -> watch::Receiver<TorState> {
        self.state.subscribe()
    }

    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    pub async fn run(mut self) -> Infallible {
        loop {
            let Err(lost) = self.connection().await;
            self.lost(lost);
            sleep(RECONNECT).await;
            self.pulse.beat();
        }
    }

    /// One connection, from connecting to losing it.
    async fn connection(&mut self) -> Result<Infallible, Lost> {
        self.watchdog.meet(&self.socket).await?;
        let (client, mut events) = self.watchdog.answer(self.connector.connect()).await?;
        self.watchdog.answer(client.set_events(&["HS_DESC"])).await?;
        let testing = self.watchdog.answer(client.get_conf("TestingTorNetwork")).await?;
        let mut mender = Mender::new(self.address, NetworkKind::from_option(&testing));
        self.complaint = None;
        tracing::info!("connected to tor");
        loop {
            self.look(&client).await?;
            self.mend(&client, &mut mender).await?;
            self.next_occasion(&mut events).await?;
        }
    }

    /// Waits until it is time to ask tor again.
    async fn next_occasion(&self, events: &mut mpsc::Receiver<Event>) -> Result<(), Lost> {
        let starting = self.state.borrow().points.count() == 0;
        let mut pause = pin!(sleep(if starting { POLL_AT_START } else { POLL }));
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                event = events.recv() => match event {
                    None => return Err(Lost::Broken(ControlError::Closed)),
                    Some(Event::HsDesc(event))
                        if event.action == HsDescAction::Created && event.address == Some(self.address) =>
                    {
                        return Ok(());
                    }
                    Some(_) => {}
                },
            }
        }
    }

    async fn look(&mut self, client: &Client) -> Result<(), Lost> {
        let mut bootstrapped = self.state.borrow().bootstrapped;
        if bootstrapped < 100 {
            let phase = self.get_info(client, "status/bootstrap-phase").await?;
            bootstrapped = phase.as_deref().and_then(bootstrap_percent).unwrap_or(0);
        }
        let key = format!("hs/service/desc/id/{}", self.address.identifier());
        let opened = match self.get_info(client, &key).await? {
            // Tor has no descriptor yet.
            None => None,
            Some(text) => match open(text, &self.address, wall_clock()) {
                Ok(opened) => Some(opened),
                Err(error) => {
                    let complaint = format!("tor's own descriptor is of no use: {error}");
                    if self.is_news(&complaint) {
                        tracing::warn!("{complaint}");
                    }
                    None
                }
            },
        };
        self.state.send_modify(|state| {
            (state.answering, state.bootstrapped) = (true, bootstrapped);
            let changed = match opened {
                Some(opened) => state.points.observe(opened),
                None => state.points.clear(),
            };
            if changed {
                tracing::info!(count = state.points.count(), "introduction points changed");
            }
        });
        Ok(())
    }

    /// One that is not bootstrapped yet waits for the network.
    async fn mend(&mut self, client: &Client, mender: &mut Mender) -> Result<(), Lost> {
        let state = self.state.borrow().clone();
        if state.bootstrapped < 100 {
            return Ok(());
        }
        let done = mender.look(client, &mut self.watchdog, &state.points).await?;
        if done != Mended::default() {
            self.state.send_modify(|state| state.mended += done);
        }
        Ok(())
    }

    /// GETINFO; None when tor refuses the question.
    async fn get_info(&mut self, client: &Client, key: &str) -> Result<Option<String>, Lost> {
        match self.watchdog.answer(client.get_info(key)).await {
            Ok(value) => Ok(Some(value)),
            Err(Lost::Broken(ControlError::Refused { .. })) => Ok(None),
            Err(lost) => Err(lost),
        }
    }

    /// Without tor there are no points: nobody must be sent here.
    fn lost(&mut self, lost: Lost) {
        let mut killed = false;
        match lost {
            Lost::Absent(error) => {
                let complaint = format!("tor is not there: {}: {error}", self.socket.display());
                if self.is_news(&complaint) {
                    tracing::info!("{complaint}");
                }
            }
            Lost::Broken(error) => {
                let complaint = format!("no connection to tor: {error}");
                if self.is_news(&complaint) {
                    tracing::warn!("{complaint}");
                }
            }
            Lost::Frozen => killed = self.watchdog.kill(),
        }
        self.state.send_modify(|state| {
            (state.answering, state.bootstrapped) = (false, 0);
            state.points.clear();
            state.kills += u64::from(killed);
        });
    }

    /// What goes wrong is tried again several times a second; it is logged once.
    fn is_news(&mut self, complaint: &str) -> bool {
        let new = self.complaint.as_deref() != Some(complaint);
        if new {
            self.complaint = Some(complaint.to_owned());
        }
        new
    }
}
