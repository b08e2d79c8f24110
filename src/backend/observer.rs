//! The observer: asks tor once a second what it holds, and at once when tor made a descriptor.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::paths::RunDir;
use super::points::{Points, open};
use super::system::wall_clock;
use super::watchdog::Watchdog;
use crate::control::{Client, ControlError, Event, HsDescAction};
use crate::onion::OnionAddress;

/// How often tor is asked.
const POLL: Duration = Duration::from_secs(1);
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
    address: OnionAddress,
    state: watch::Sender<TorState>,
    pulse: Pulse,
    watchdog: Watchdog,
    /// The last thing that went wrong, so that it is logged once.
    complaint: Option<String>,
}

/// Why there is no connection to tor.
enum Lost {
    /// Nobody listens, or the connection broke.
    Broken(String),
    /// Tor is there and does not answer.
    Frozen,
}

impl Observer {
    /// `boot` is random per agent start.
    pub fn new(run_dir: &RunDir, address: OnionAddress, boot: u64) -> Self {
        let state = TorState { answering: false, bootstrapped: 0, points: Points::new(boot), kills: 0 };
        let pulse = Pulse::new();
        Self {
            socket: run_dir.control_socket(),
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
        let socket = self.socket.clone();
        self.watchdog.meet(&socket).await.map_err(|error| Lost::Broken(error.to_string()))?;
        let (client, mut events) = self.answered(Client::connect_unix(&socket, None)).await?;
        self.answered(client.set_events(&["HS_DESC"])).await?;
        self.complaint = None;
        tracing::info!("connected to tor");
        let mut tick = interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.next_occasion(&mut tick, &mut events).await?;
            self.look(&client).await?;
        }
    }

    /// Waits until it is time to ask tor again.
    async fn next_occasion(
        &self,
        tick: &mut tokio::time::Interval,
        events: &mut mpsc::Receiver<Event>,
    ) -> Result<(), Lost> {
        loop {
            tokio::select! {
                _ = tick.tick() => return Ok(()),
                event = events.recv() => match event {
                    None => return Err(ControlError::Closed.into()),
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
            bootstrapped = phase.as_deref().and_then(progress).unwrap_or(0);
        }
        let key = format!("hs/service/desc/id/{}", self.address.identifier());
        let opened = match self.get_info(client, &key).await? {
            // Tor has no descriptor yet.
            None => None,
            Some(text) => match open(text, &self.address, wall_clock()) {
                Ok(opened) => Some(opened),
                Err(error) => {
                    self.complain(&format!("tor's own descriptor is of no use: {error}"));
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

    /// GETINFO; None when tor refuses the question.
    async fn get_info(&mut self, client: &Client, key: &str) -> Result<Option<String>, Lost> {
        let answer = self.watchdog.answer(client.get_info(key)).await.ok_or(Lost::Frozen)?;
        let answer = match answer {
            Err(ControlError::Refused { .. }) => None,
            other => Some(other?),
        };
        self.watchdog.satisfied();
        Ok(answer)
    }

    async fn answered<T>(&mut self, question: impl Future<Output = Result<T, ControlError>>) -> Result<T, Lost> {
        let answer = self.watchdog.answer(question).await.ok_or(Lost::Frozen)??;
        self.watchdog.satisfied();
        Ok(answer)
    }

    /// Without tor there are no points: nobody must be sent here.
    fn lost(&mut self, lost: Lost) {
        let killed = match lost {
            Lost::Frozen => self.watchdog.kill(),
            Lost::Broken(error) => {
                self.complain(&format!("no connection to tor: {error}"));
                false
            }
        };
        self.state.send_modify(|state| {
            (state.answering, state.bootstrapped) = (false, 0);
            state.points.clear();
            state.kills += u64::from(killed);
        });
    }

    fn complain(&mut self, complaint: &str) {
        if self.complaint.as_deref() != Some(complaint) {
            tracing::warn!("{complaint}");
            self.complaint = Some(complaint.to_owned());
        }
    }
}

impl From<ControlError> for Lost {
    fn from(error: ControlError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The percentage of `NOTICE BOOTSTRAP PROGRESS=45 TAG=… SUMMARY="…"`.
fn progress(phase: &str) -> Option<u8> {
    phase.split_ascii_whitespace().find_map(|word| word.strip_prefix("PROGRESS="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tor 0.4.9.11 answers.
    #[test]
    fn reads_the_bootstrap_phase() {
        assert_eq!(progress(r#"NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done""#), Some(100));
        assert_eq!(progress(r#"NOTICE BOOTSTRAP PROGRESS=0 TAG=starting SUMMARY="Starting""#), Some(0));
        assert_eq!(progress("NOTICE BOOTSTRAP PROGRESS=x"), None);
        assert_eq!(progress(""), None);
    }
}
