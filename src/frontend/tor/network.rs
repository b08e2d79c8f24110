//! Reads the consensus and the microdescriptors from tor, once for all services.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::consensus::{Network, NetworkKind};
use crate::control::{Client, ControlError};

/// While microdescriptors are missing (or there is no consensus) tor is asked again after so long, then ever later,
const REREAD: Duration = Duration::from_secs(1);
/// but at the latest after so long.
const REREAD_MAX: Duration = Duration::from_secs(60);

/// When consensus and microdescriptors are to be read again.
#[derive(Debug, Default)]
pub(super) struct Reread {
    due: Option<Instant>,
    /// After the next incomplete reading.
    pause: Duration,
}

impl Reread {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is a new consensus.
    pub(super) fn soon(&mut self, now: Instant) {
        (self.due, self.pause) = (Some(now), REREAD);
    }

    /// Descriptors came: they may be among the missing ones.
    pub(super) fn sooner(&mut self, now: Instant) {
        self.due = self.due.map(|due| due.min(now + REREAD));
    }

    pub(super) fn started(&mut self) {
        self.due = None;
    }

    /// Tor tells nobody that microdescriptors came: while some are missing it is asked again and again, ever more rarely.
    pub(super) fn done(&mut self, incomplete: bool, now: Instant) {
        if incomplete && self.due.is_none() {
            self.due = Some(now + self.pause);
            self.pause = (2 * self.pause).min(REREAD_MAX);
        }
    }
}

/// Why there is no network.
#[derive(Debug)]
pub(super) enum ReadError {
    Lost(ControlError),
    Useless(String),
}

/// A reading that goes on, if one does.
#[derive(Debug, Default)]
pub(super) struct Reading(Option<JoinHandle<Result<Network, ReadError>>>);

impl Reading {
    pub(super) fn goes_on(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn start(&mut self, client: Client, kind: NetworkKind) {
        self.0 = Some(tokio::spawn(read(client, kind)));
    }

    /// Waits for the end of the reading; without one for ever.
    pub(super) async fn end(&mut self) -> Result<Network, ReadError> {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let result = task.await.unwrap_or_else(|error| Err(ReadError::Useless(error.to_string())));
        self.0 = None;
        result
    }
}

async fn read(client: Client, kind: NetworkKind) -> Result<Network, ReadError> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(reread.due(), Some(now), "a consensus that arrives during a reading is read at once");
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
