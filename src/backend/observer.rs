//! The observer, which polls tor's state once a second, more often while introduction points
//! change, and immediately after tor has created a descriptor. It also repairs an onion service
//! that has stalled, and passes the requests to close circuits to tor.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::circuits::{Cause, Circuits, CloseRequest};
use super::health::Health;
use super::paths::RunDir;
use super::points::{Points, open};
use super::pulse::Pulse;
use super::stall::{Mended, Mender};
use super::system::wall_clock;
use super::vanguards::{SharedVanguards, VanguardControl};
use super::watchdog::{Unanswered, Watchdog, WatchedClient};
use crate::common::complaint::Complaint;
use crate::common::log_limit::{Line, LogLimit};
use crate::consensus::NetworkKind;
use crate::control::{Client, Connector, ControlError, Event, HsDescAction, bootstrap_percent};
use crate::onion::OnionAddress;

/// The interval at which tor is polled.
const POLL: Duration = Duration::from_secs(1);
/// The polling interval while tor has no introduction points, on which readiness depends, and while
/// points change. Tor sends no event when it establishes or gives up a point.
const POLL_OFTEN: Duration = Duration::from_millis(250);
/// The time for which tor is polled often after its points have changed. Under many introductions,
/// tor gives up one point after another, and clients find a dead one until the publisher knows.
const CHANGING: Duration = Duration::from_secs(30);
/// The timeout of one control command. It is longer than the time after which the watchdog
/// considers a running tor frozen, because the watchdog must detect tor's silence first.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The delay before the observer reconnects to tor.
const RECONNECT: Duration = Duration::from_millis(250);

/// The state of the agent's tor as last observed.
#[derive(Debug, Clone)]
pub struct TorState {
    /// True if the control connection is open and tor answered the last command.
    pub answering: bool,
    /// Tor's bootstrap progress in percent.
    pub bootstrapped: u8,
    /// The introduction points that tor holds.
    pub points: Points,
    /// The number of frozen tor processes that the agent has killed.
    pub kills: u64,
    /// The repairs of stalled onion services since the agent started.
    pub mended: Mended,
}

/// The task that keeps [`TorState`] up to date.
#[derive(Debug)]
pub struct Observer {
    socket: PathBuf,
    connector: Connector,
    address: OnionAddress,
    state: watch::Sender<TorState>,
    pulse: Pulse,
    health: Arc<Health>,
    watchdog: Watchdog,
    /// The log of problems, which reports each problem once although the observer retries several
    /// times a second.
    complaint: Complaint,
    /// The limit for the lines about changed introduction points.
    changes: LogLimit,
    /// The time until which the points are likely to change again.
    changing_until: Instant,
    circuits: Arc<Circuits>,
    /// The limit for the lines about closed circuits, which clients can cause.
    closures: LogLimit,
    vanguards: Arc<SharedVanguards>,
}

impl Observer {
    /// Creates an observer for the tor whose control socket is in `run_dir`. `boot` is a random
    /// number that is chosen whenever the agent starts. `circuits` holds the requests to close
    /// circuits.
    pub fn new(run_dir: &RunDir, address: OnionAddress, boot: u64, circuits: Arc<Circuits>) -> Self {
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
            health: Arc::default(),
            complaint: Complaint::default(),
            changes: LogLimit::default(),
            changing_until: Instant::now(),
            circuits,
            closures: LogLimit::default(),
            vanguards: Arc::default(),
        }
    }

    /// Makes the observer keep tor's vanguards.
    pub fn using(self, vanguards: Arc<SharedVanguards>) -> Self {
        Self { vanguards, ..self }
    }

    /// Makes the observer end tor when the health of the targets demands it.
    pub fn heeding(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// Returns a receiver that yields the observed state.
    pub fn watch(&self) -> watch::Receiver<TorState> {
        self.state.subscribe()
    }

    /// Returns the heartbeat of the observer's loop.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Observes tor forever, and reconnects whenever the connection is lost.
    pub async fn run(mut self) -> Infallible {
        loop {
            let Err(reason) = self.observe_connection().await;
            self.connection_lost(reason);
            sleep(RECONNECT).await;
            self.pulse.beat();
        }
    }

    /// Connects to tor and observes it until the connection is lost.
    async fn observe_connection(&mut self) -> Result<Infallible, Unanswered> {
        self.watchdog.meet(&self.socket).await?;
        let (client, mut events) = self.watchdog.answer(self.connector.connect()).await?;
        self.watchdog.answer(client.set_events(&["HS_DESC"])).await?;
        let testing = self.watchdog.answer(client.get_conf("TestingTorNetwork")).await?;
        let mut mender = Mender::new(self.address, NetworkKind::from_option(&testing));
        let mut vanguards = VanguardControl::new(self.vanguards.clone());
        self.circuits.forget();
        self.complaint.settle();
        tracing::info!("connected to tor");
        loop {
            self.poll(&client).await?;
            let has_consensus = self.state.borrow().bootstrapped == 100;
            vanguards.check(&mut WatchedClient::new(&client, &mut self.watchdog), has_consensus).await?;
            self.mend(&client, &mut mender).await?;
            self.wait_for_next_poll(&client, &mut events, &mut vanguards).await?;
        }
    }

    /// Waits until the polling interval ends, tor reports a new descriptor or the vanguards change,
    /// and closes circuits meanwhile.
    async fn wait_for_next_poll(
        &mut self,
        client: &Client,
        events: &mut mpsc::Receiver<Event>,
        vanguards: &mut VanguardControl,
    ) -> Result<(), Unanswered> {
        let starting = self.state.borrow().points.count() == 0;
        let often = starting || Instant::now() < self.changing_until;
        let mut pause = pin!(sleep(if often { POLL_OFTEN } else { POLL }));
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                event = events.recv() => match event {
                    None => return Err(Unanswered::Broken(ControlError::Closed)),
                    Some(Event::HsDesc(event))
                        if event.action == HsDescAction::Created && event.address == Some(self.address) =>
                    {
                        return Ok(());
                    }
                    Some(_) => {}
                },
                () = vanguards.changed() => return Ok(()),
                request = self.circuits.next_request() => self.close_circuit(client, request).await?,
            }
        }
    }

    /// Asks tor to close a circuit. The circuit may have ended meanwhile.
    async fn close_circuit(&mut self, client: &Client, request: CloseRequest) -> Result<(), Unanswered> {
        let number = request.circuit.to_string();
        let mut tor = WatchedClient::new(client, &mut self.watchdog);
        let closed = tor.answer(client.close_used_circuit(&number)).await?.is_some();
        if closed && let Some(Line { suppressed }) = self.closures.line() {
            match request.cause {
                Cause::Limits => tracing::info!(suppressed, "closed a circuit that breached its limits repeatedly"),
                Cause::Request => tracing::info!(suppressed, "closed a circuit at the request of the app"),
            }
        }
        self.circuits.answered(request, closed);
        Ok(())
    }

    /// Reads tor's bootstrap progress and descriptor into the state.
    async fn poll(&mut self, client: &Client) -> Result<(), Unanswered> {
        let mut tor = WatchedClient::new(client, &mut self.watchdog);
        let mut bootstrapped = self.state.borrow().bootstrapped;
        if bootstrapped < 100 {
            let phase = tor.get_info("status/bootstrap-phase").await?;
            bootstrapped = phase.as_deref().and_then(bootstrap_percent).unwrap_or(0);
        }
        // Tor rejects this command while it has no descriptor.
        let text = tor.get_info(&format!("hs/service/desc/id/{}", self.address.identifier())).await?;
        let opened = text.and_then(|text| match open(text, &self.address, wall_clock()) {
            Ok(opened) => Some(opened),
            Err(error) => {
                self.complaint.utter("tor's own descriptor is invalid", &error);
                None
            }
        });
        self.state.send_modify(|state| {
            (state.answering, state.bootstrapped) = (true, bootstrapped);
            let changed = match opened {
                Some(opened) => state.points.observe(opened),
                None => state.points.clear(),
            };
            if !changed {
                return;
            }
            self.changing_until = Instant::now() + CHANGING;
            if let Some(Line { suppressed }) = self.changes.line() {
                tracing::info!(count = state.points.count(), suppressed, "introduction points changed");
            }
        });
        Ok(())
    }

    /// Repairs a stalled onion service. A tor that has not bootstrapped yet is left alone, because
    /// it is waiting for the network.
    async fn mend(&mut self, client: &Client, mender: &mut Mender) -> Result<(), Unanswered> {
        let state = self.state.borrow().clone();
        if state.bootstrapped < 100 {
            return Ok(());
        }
        let mut tor = WatchedClient::new(client, &mut self.watchdog);
        if self.health.should_end_tor() {
            tracing::warn!("no target is reachable here, but other backends reach them; terminating tor");
            tor.answer(tor.client().signal("HALT")).await?;
            return Ok(());
        }
        let done = mender.check(&mut tor, &state.points).await?;
        if done != Mended::default() {
            self.state.send_modify(|state| state.mended += done);
        }
        Ok(())
    }

    /// Clears the state after the connection was lost. Without tor there are no introduction
    /// points, so clients must not be sent to this backend.
    fn connection_lost(&mut self, reason: Unanswered) {
        if self.state.borrow().answering {
            self.circuits.forget();
        } else {
            self.circuits.fail_requests();
        }
        let mut killed = false;
        match reason {
            // Tor may not have started yet.
            Unanswered::Absent(error) => {
                self.complaint.mention("tor is not listening", &format!("{}: {error}", self.socket.display()));
            }
            Unanswered::Broken(error) => self.complaint.utter("no connection to tor", &error),
            Unanswered::Frozen => killed = self.watchdog.kill(),
        }
        self.state.send_modify(|state| {
            (state.answering, state.bootstrapped) = (false, 0);
            state.points.clear();
            state.kills += u64::from(killed);
        });
    }
}
