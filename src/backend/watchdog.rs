//! The frozen-tor rule: relays go on acknowledging introductions for a tor that is frozen, so it is worse than a dead
//! one. A tor that does not answer its control socket is ended; the kubelet starts it again.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::observer::Pulse;

/// Silence is counted in such steps of the agent's own running time: when the whole machine was paused, at most one step
/// is over before tor had a chance to answer.
const STEP: Duration = Duration::from_secs(1);
/// How many silent steps a tor has that once answered.
const PATIENCE: u32 = 5;
/// How many one has that has not answered yet: it may be starting (it listens before its main loop runs), and without
/// introduction points it does no harm.
const PATIENCE_AT_START: u32 = 60;

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
    pub async fn meet(&mut self, socket: &Path) -> std::io::Result<()> {
        let listener = UnixStream::connect(socket).await?.peer_cred()?.pid().and_then(Pid::from_raw);
        if listener != self.tor {
            *self = Self { tor: listener, ..Self::new(self.pulse.clone()) };
        }
        Ok(())
    }

    /// Waits for tor's answer: None when tor has been silent for too long.
    pub async fn answer<T>(&mut self, question: impl Future<Output = T>) -> Option<T> {
        let mut question = pin!(question);
        while self.silent_steps < self.patience() {
            self.pulse.beat();
            if let Ok(answer) = timeout(STEP, &mut question).await {
                return Some(answer);
            }
            self.silent_steps += 1;
        }
        None
    }

    /// Tor answered.
    pub fn satisfied(&mut self) {
        self.has_answered = true;
        self.silent_steps = 0;
    }

    /// Ends the silent tor; whether a signal was sent.
    pub fn kill(&mut self) -> bool {
        self.silent_steps = 0;
        let Some(tor) = self.tor.filter(|pid| !pid.is_init()) else {
            tracing::error!("tor is frozen and its process is not visible: the pod must share its process namespace");
            return false;
        };
        match kill_process(tor, Signal::KILL) {
            Ok(()) => tracing::warn!(pid = tor.as_raw_nonzero(), "tor did not answer its control socket: killed"),
            Err(error) => tracing::error!(pid = tor.as_raw_nonzero(), %error, "tor is frozen and cannot be killed"),
        }
        true
    }

    fn patience(&self) -> u32 {
        if self.has_answered { PATIENCE } else { PATIENCE_AT_START }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tor_that_starts_has_more_time_than_one_that_froze() {
        let mut dog = Watchdog::new(Pulse::new());
        let start = Instant::now();
        assert_eq!(dog.answer(pending::<()>()).await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(60));

        dog.satisfied();
        let start = Instant::now();
        assert_eq!(dog.answer(ready(1)).await, Some(1));
        assert_eq!(dog.answer(pending::<()>()).await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_adds_up_over_connections_until_tor_answers() {
        let mut dog = Watchdog::new(Pulse::new());
        dog.satisfied();
        let slow = tokio::time::sleep(Duration::from_millis(3500));
        assert_eq!(dog.answer(slow).await, Some(()), "a connection that breaks, say");
        let start = Instant::now();
        assert_eq!(dog.answer(pending::<()>()).await, None);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_silent_tor_is_a_sign_of_life() {
        let pulse = Pulse::new();
        let mut dog = Watchdog::new(pulse.clone());
        dog.answer(pending::<()>()).await;
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
        dog.satisfied();
        dog.meet(&socket).await.unwrap();
        assert!(dog.has_answered, "the same process");
        dog.tor = Pid::from_raw(1);
        dog.meet(&socket).await.unwrap();
        assert!(!dog.has_answered, "another process");
    }
}
