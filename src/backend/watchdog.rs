//! The frozen-tor rule: relays go on acknowledging introductions for a tor that is frozen, so it is worse than a dead
//! one. A tor that does not answer its control socket is ended; the kubelet starts it again.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::observer::Pulse;
use crate::control::ControlError;

/// Silence is counted in such steps of the agent's own running time: when the whole machine was paused, at most one step
/// is over before tor had a chance to answer.
const STEP: Duration = Duration::from_secs(1);
/// How many silent steps a tor has that once answered.
const PATIENCE: u32 = 5;
/// How many one has that has not answered yet: it may be starting (it listens before its main loop runs), and without
/// introduction points it does no harm.
const PATIENCE_AT_START: u32 = 60;

/// Why a question to tor has no answer.
#[derive(Debug)]
pub enum Lost {
    /// Nobody listens.
    Absent(io::Error),
    /// Tor refuses, or the connection broke.
    Broken(ControlError),
    /// Tor is there and has been silent for too long.
    Frozen,
}

/// Which tor listens, and how long it has been silent.
#[derive(Debug)]
pub struct Watchdog {
    pulse: Pulse,
    tor: Option<Pid>,
    has_answered: bool,
    silent_steps: u32,
}

impl Watchdog {
    pub fn new(pulse: Pulse) -> Self {
        Self { pulse, tor: None, has_answered: false, silent_steps: 0 }
    }

    /// Learns which process listens on `socket`.
    pub async fn meet(&mut self, socket: &Path) -> Result<(), Lost> {
        let listener = async { UnixStream::connect(socket).await?.peer_cred() }.await.map_err(Lost::Absent)?;
        let listener = listener.pid().and_then(Pid::from_raw);
        if listener != self.tor {
            *self = Self { tor: listener, ..Self::new(self.pulse.clone()) };
        }
        Ok(())
    }

    /// Waits for tor's answer.
    pub async fn answer<T>(&mut self, question: impl Future<Output = Result<T, ControlError>>) -> Result<T, Lost> {
        let mut question = pin!(question);
        while self.silent_steps < self.patience() {
            self.pulse.beat();
            match timeout(STEP, &mut question).await {
                Err(_) => self.silent_steps += 1,
                // The connection gave up before us: still no answer.
                Ok(Err(error @ ControlError::Timeout(_))) => return Err(Lost::Broken(error)),
                Ok(answer) => {
                    self.silent_steps = 0;
                    self.has_answered |= matches!(answer, Ok(_) | Err(ControlError::Refused { .. }));
                    return answer.map_err(Lost::Broken);
                }
            }
        }
        Err(Lost::Frozen)
    }

    /// Ends the silent tor; whether it could be done.
    pub fn kill(&mut self) -> bool {
        self.silent_steps = 0;
        let Some(tor) = self.tor.filter(|pid| !pid.is_init()) else {
            tracing::error!("tor is frozen and its process is not visible: the pod must share its process namespace");
            return false;
        };
        let killed = kill_process(tor, Signal::KILL);
        match killed {
            Ok(()) => tracing::warn!(pid = tor.as_raw_nonzero(), "tor did not answer its control socket: killed"),
            Err(error) => tracing::error!(pid = tor.as_raw_nonzero(), %error, "tor is frozen and cannot be killed"),
        }
        killed.is_ok()
    }

    fn patience(&self) -> u32 {
        if self.has_answered { PATIENCE } else { PATIENCE_AT_START }
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
        assert!(matches!(dog.answer(pending::<Answer>()).await, Err(Lost::Frozen)));
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tor_that_starts_has_more_time_than_one_that_froze() {
        let mut dog = Watchdog::new(Pulse::new());
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(60));

        let mut dog = Watchdog::new(Pulse::new());
        assert_eq!(dog.answer(ready(Ok(1))).await.unwrap(), 1);
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_an_answer() {
        let mut dog = Watchdog::new(Pulse::new());
        dog.answer(ready(Ok(1))).await.unwrap();
        for _ in 0..3 {
            let slow = async {
                sleep(Duration::from_millis(4500)).await;
                Answer::Err(ControlError::Refused { code: 551, message: "no".to_owned() })
            };
            assert!(matches!(dog.answer(slow).await, Err(Lost::Broken(ControlError::Refused { code: 551, .. }))));
        }
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_adds_up_over_connections() {
        let mut dog = Watchdog::new(Pulse::new());
        dog.answer(ready(Ok(1))).await.unwrap();
        let given_up = async {
            sleep(Duration::from_millis(3500)).await;
            Answer::Err(ControlError::Timeout(Duration::from_millis(3500)))
        };
        assert!(matches!(dog.answer(given_up).await, Err(Lost::Broken(ControlError::Timeout(_)))));
        assert_eq!(freezes_after(&mut dog).await, Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tor_that_does_not_let_us_in_is_not_frozen() {
        let mut dog = Watchdog::new(Pulse::new());
        for _ in 0..100 {
            let refused = async {
                sleep(Duration::from_secs(2)).await;
                Answer::Err(ControlError::Authentication("no cookie".to_owned()))
            };
            assert!(matches!(dog.answer(refused).await, Err(Lost::Broken(ControlError::Authentication(_)))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_silent_tor_is_a_sign_of_life() {
        let pulse = Pulse::new();
        freezes_after(&mut Watchdog::new(pulse.clone())).await;
        assert_eq!(pulse.last_beat().elapsed(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_new_listener_is_a_new_tor() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let mut dog = Watchdog::new(Pulse::new());
        assert!(dog.meet(&socket).await.is_err(), "nobody listens");
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
