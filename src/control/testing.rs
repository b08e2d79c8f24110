//! A scripted tor for tests, which acts as the other end of a control connection.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Client, Event};

/// A timeout that only a hanging test exceeds.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Tor's end of a connection.
pub(super) struct Peer {
    pub(super) stream: BufReader<DuplexStream>,
}

impl Peer {
    pub(super) async fn read_line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.unwrap().unwrap();
        line
    }

    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }
}

pub(super) fn connect(command_timeout: Duration) -> (Client, mpsc::Receiver<Event>, Peer) {
    let (ours, theirs) = duplex(4096);
    let (client, events) = Client::over(ours, command_timeout);
    (client, events, Peer { stream: BufReader::new(theirs) })
}
