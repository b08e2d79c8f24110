//! Reads the consensus and the microdescriptors from tor, once for all services.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::consensus::{Network, NetworkKind};
use crate::control::{Client, ControlError};

/// The pause before the network is first read again if the consensus or some microdescriptors are
/// missing. Each further pause is twice as long as the previous one.
const REREAD: Duration = Duration::from_secs(1);
/// The maximum pause before an incomplete network is read again.
const REREAD_MAX: Duration = Duration::from_secs(60);

/// The schedule by which the consensus and the microdescriptors are read again.
#[derive(Debug, Default)]
pub(super) struct Reread {
    due: Option<Instant>,
    /// The pause after the next incomplete read.
    pause: Duration,
}

impl Reread {
    /// Returns the time of the next scheduled read, if any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Schedules an immediate read, because there is a new consensus.
    pub(super) fn soon(&mut self, now: Instant) {
        (self.due, self.pause) = (Some(now), REREAD);
    }

    /// Brings a scheduled read forward, because tor has received other descriptors. The missing
    /// microdescriptors may have arrived at the same time.
    pub(super) fn sooner(&mut self, now: Instant) {
        self.due = self.due.map(|due| due.min(now + REREAD));
    }

    /// Records that a read has started.
    pub(super) fn started(&mut self) {
        self.due = None;
    }

    /// Schedules another read if this one was incomplete, because tor has no event for
    /// microdescriptors.
    pub(super) fn done(&mut self, incomplete: bool, now: Instant) {
        if incomplete && self.due.is_none() {
            self.due = Some(now + self.pause);
            self.pause = (2 * self.pause).min(REREAD_MAX);
        }
    }
}

/// The reason why the network could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The connection was lost.
    Lost(ControlError),
    /// Tor's response contains no usable consensus.
    Useless(String),
}

/// The read that is in progress, if any.
#[derive(Debug, Default)]
pub(super) struct Reading(Option<JoinHandle<Result<Network, ReadError>>>);

impl Reading {
    /// Returns true while a read is in progress.
    pub(super) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Starts reading the network.
    pub(super) fn start(&mut self, client: Client, kind: NetworkKind) {
        self.0 = Some(tokio::spawn(read(client, kind)));
    }

    /// Waits for the read to end. Waits forever if none is in progress.
    pub(super) async fn end(&mut self) -> Result<Network, ReadError> {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let result = task.await.unwrap_or_else(|error| Err(ReadError::Useless(error.to_string())));
        self.0 = None;
        result
    }
}

/// The explanation for a tor that never has a usable consensus, because its user has chosen so.
const NO_MICRODESCRIPTORS: &str = "tor's torrc contains UseMicrodescriptors 0, but the publisher needs microdescriptors; set \
                                   UseMicrodescriptors 1 and reload tor";

/// Returns the explanation if tor's torrc forbids microdescriptors. The consensus does not reveal
/// this, because such a tor may have an old one on its disk.
pub(super) async fn misconfiguration(client: &Client) -> Result<Option<&'static str>, ControlError> {
    match client.get_conf("UseMicrodescriptors").await {
        Ok(values) => Ok((values == ["0"]).then_some(NO_MICRODESCRIPTORS)),
        // A tor that does not know the option has no other kind of descriptors.
        Err(ControlError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(client: Client, kind: NetworkKind) -> Result<Network, ReadError> {
    if let Some(problem) = misconfiguration(&client).await.map_err(ReadError::Lost)? {
        return Err(ReadError::Useless(problem.to_owned()));
    }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tor_that_fetches_no_microdescriptors_is_explained() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (client, _events) = Client::over(ours, Duration::from_secs(20));
        let tor = tokio::spawn(async move {
            let mut command = [0; 64];
            let length = theirs.read(&mut command).await.unwrap();
            theirs.write_all(b"250 UseMicrodescriptors=0\r\n").await.unwrap();
            (theirs, String::from_utf8_lossy(&command[..length]).into_owned())
        });
        let error = read(client, NetworkKind::Public).await.unwrap_err();
        assert!(matches!(&error, ReadError::Useless(text) if text.contains("set UseMicrodescriptors 1")), "{error:?}");
        assert_eq!(tor.await.unwrap().1, "GETCONF UseMicrodescriptors\r\n");
    }

    #[tokio::test]
    async fn an_incomplete_network_is_read_again_with_growing_pauses() {
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
        assert_eq!(reread.due(), Some(now), "a consensus that arrives during a read is read at once");
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
