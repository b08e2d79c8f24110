//! The watchdog, which kills a frozen tor. A tor is frozen if it does not answer on its control
//! socket. The kubelet starts tor again.
//!
//! A frozen tor is worse than a dead one, because relays keep acknowledging introductions for it.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::pulse::Pulse;
use crate::control::{Client, ControlError};

/// The watchdog waits for an answer in steps of this length, and counts the steps that pass without
/// one. However long the whole machine is paused, the pause therefore adds at most one step before
/// tor has a chance to answer.
const STEP: Duration = Duration::from_secs(1);
/// The number of steps without an answer after which a tor that has answered before is considered
/// frozen.
const PATIENCE: u32 = 5;
/// The number of steps without an answer after which a tor that has never answered is considered
/// frozen. A starting tor listens on its control socket before its main loop runs. It does no harm
/// while it has no introduction points.
const PATIENCE_AT_START: u32 = 60;

/// The reason why tor did not answer a command.
#[derive(Debug)]
pub enum Unanswered {
    /// Nothing listens on the control socket.
    Absent(io::Error),
    /// Tor rejected the command, or the connection broke.
    Broken(ControlError),
    /// Tor is listening but has been silent for too long.
    Frozen,
}

/// A watchdog that measures for how long the process behind the control socket has not answered.
#[derive(Debug)]
pub struct Watchdog {
    pulse: Pulse,
    tor: Option<Pid>,
    has_answered: bool,
    silent_steps: u32,
}

impl Watchdog {
    /// Creates a watchdog that beats `pulse` while it waits for tor's answer.
    pub fn new(pulse: Pulse) -> Self {
        Self { pulse, tor: None, has_answered: false, silent_steps: 0 }
    }

    /// Identifies the process that listens on `socket`. If the process is a new one, the count of
    /// steps without an answer starts over.
    pub async fn meet(&mut self, socket: &Path) -> Result<(), Unanswered> {
        let listener = async { UnixStream::connect(socket).await?.peer_cred() }.await.map_err(Unanswered::Absent)?;
        let listener = listener.pid().and_then(Pid::from_raw);
        if listener != self.tor {
            *self = Self { tor: listener, ..Self::new(self.pulse.clone()) };
        }
        Ok(())
    }

    /// Waits for tor's answer, and counts the steps that pass without one.
    pub async fn answer<T>(
        &mut self,
        question: impl Future<Output = Result<T, ControlError>>,
    ) -> Result<T, Unanswered> {
        let mut question = pin!(question);
        while self.silent_steps < self.patience() {
            self.pulse.beat();
            match timeout(STEP, &mut question).await {
                Err(_) => self.silent_steps += 1,
                // The connection's own timeout ended the wait, so tor still has not answered.
                Ok(Err(error @ ControlError::Timeout(_))) => return Err(Unanswered::Broken(error)),
                Ok(answer) => {
                    self.silent_steps = 0;
                    self.has_answered |= matches!(answer, Ok(_) | Err(ControlError::Refused { .. }));
                    return answer.map_err(Unanswered::Broken);
                }
            }
        }
        Err(Unanswered::Frozen)
    }

    /// Kills the frozen tor. Returns true if the signal was sent.
    pub fn kill(&mut self) -> bool {
        self.silent_steps = 0;
        let Some(tor) = self.tor.filter(|pid| !pid.is_init()) else {
            tracing::error!(
                "tor is frozen, but its process is not visible from this container; set shareProcessNamespace: true for the pod"
            );
            return false;
        };
        let killed = kill_process(tor, Signal::KILL);
        match killed {
            Ok(()) => tracing::warn!(pid = tor.as_raw_nonzero(), "killed a frozen tor"),
            Err(error) => tracing::error!(pid = tor.as_raw_nonzero(), %error, "could not kill a frozen tor"),
        }
        killed.is_ok()
    }

    fn patience(&self) -> u32 {
        if self.has_answered { PATIENCE } else { PATIENCE_AT_START }
    }
}

/// A control connection on which the watchdog monitors every command.
pub struct WatchedClient<'a> {
    client: &'a Client,
    watchdog: &'a mut Watchdog,
}

impl<'a> WatchedClient<'a> {
    /// Combines a connection with the watchdog of its tor.
    pub fn new(client: &'a Client, watchdog: &'a mut Watchdog) -> Self {
        Self { client, watchdog }
    }

    /// Returns the connection, for commands whose answers are awaited with [`Self::answer`].
    pub fn client(&self) -> &'a Client {
        self.client
    }

    /// Waits for tor's answer to a command. Returns None if tor rejects the command.
    pub async fn answer<T>(
        &mut self,
        question: impl Future<Output = Result<T, ControlError>>,
    ) -> Result<Option<T>, Unanswered> {
        match self.watchdog.answer(question).await {
            Ok(value) => Ok(Some(value)),
            Err(Unanswered::Broken(ControlError::Refused { .. })) => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    /// Sends GETINFO for one key. Returns None if tor rejects the command.
    pub async fn get_info(&mut self, key: &str) -> Result<Option<String>, Unanswered> {
        self.answer(self.client.get_info(key)).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    type Answer = Result<u8, ControlError>;

    async fn freezes_after(dog: &mut Watchdog) -> Duration {
        let start = Instant::now();
        assert!(matches!(dog.answer(pending::<Answer>()).await, Err(Unanswered::Frozen)));
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_starting_tor_gets_more_time_than_a_tor_that_has_answered() {
        let mut dog = Watchdog::new(Pulse::new());
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(60));

        let mut dog = Watchdog::new(Pulse::new());
        assert_eq!(dog.answer(ready(Ok(1))).await.unwrap(), 1);
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_resets_the_count_of_silence() {
        let mut dog = Watchdog::new(Pulse::new());
        dog.answer(ready(Ok(1))).await.unwrap();
        for _ in 0..3 {
            let slow = async {
                sleep(Duration::from_millis(4500)).await;
                Answer::Err(ControlError::Refused { code: 551, message: "no".to_owned() })
            };
            assert!(matches!(dog.answer(slow).await, Err(Unanswered::Broken(ControlError::Refused { code: 551, .. }))));
        }
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_adds_up_across_connections() {
        let mut dog = Watchdog::new(Pulse::new());
        dog.answer(ready(Ok(1))).await.unwrap();
        let given_up = async {
            sleep(Duration::from_millis(3500)).await;
            Answer::Err(ControlError::Timeout(Duration::from_millis(3500)))
        };
        assert!(matches!(dog.answer(given_up).await, Err(Unanswered::Broken(ControlError::Timeout(_)))));
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tor_that_rejects_authentication_is_not_frozen() {
        let mut dog = Watchdog::new(Pulse::new());
        for _ in 0..100 {
            let refused = async {
                sleep(Duration::from_secs(2)).await;
                Answer::Err(ControlError::Authentication("no cookie".to_owned()))
            };
            assert!(matches!(dog.answer(refused).await, Err(Unanswered::Broken(ControlError::Authentication(_)))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pulse_beats_while_the_agent_waits_for_a_silent_tor() {
        let pulse = Pulse::new();
        freezes_after(&mut Watchdog::new(pulse.clone())).await;
        assert_eq!(pulse.last_beat().elapsed(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_new_listening_process_counts_as_a_new_tor() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let mut dog = Watchdog::new(Pulse::new());
        assert!(dog.meet(&socket).await.is_err(), "nothing listens");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        dog.meet(&socket).await.unwrap();
        assert_eq!(dog.tor.unwrap(), rustix::process::getpid());
        dog.answer(ready(Ok(1))).await.unwrap();
        dog.meet(&socket).await.unwrap();
        assert!(dog.has_answered, "the same process");
        dog.tor = Pid::from_raw(1);
        dog.meet(&socket).await.unwrap();
        assert!(!dog.has_answered, "another process");
    }
}
