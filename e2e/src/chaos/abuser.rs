//! A client that abuses one circuit: it keeps hundreds of streams open, then floods the service
//! with new streams, and then reads many responses slowly.

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::target::path;
use crate::torclient::connect;

/// The number of streams that are kept open, and the number of responses that are read slowly. A
/// circuit without limits has 256 of them at most, more than the app has workers.
const STREAMS: usize = 400;
/// The number of streams of the flood that are opened at the same time.
const FLOOD: usize = 50;
/// The duration of the responses in seconds, which is longer than any part of the abuse.
const LONG: u64 = 60;

/// The circuit of the abuser.
#[derive(Debug, Clone, Copy)]
pub struct Abuser<'a> {
    /// The address of the SOCKS port of the abuser's tor.
    pub socks: &'a str,
    /// The onion address of the service.
    pub onion: &'a str,
    /// The user name that isolates the circuit from others.
    pub isolation: &'a str,
}

impl Abuser<'_> {
    /// Abuses the circuit until `end`. The flood has a fifth of the time, and the other two kinds
    /// of abuse have two fifths each. Failed streams are ignored, because the service is expected
    /// to end them.
    pub async fn abuse(self, end: Instant) {
        let part = end.saturating_duration_since(Instant::now()) / 5;
        let (flood, slow) = (end - 3 * part, end - 2 * part);
        let second = Duration::from_secs(1);
        self.many(STREAMS, second, flood, async |abuser: Self| abuser.hold(flood).await).await;
        self.many(FLOOD, second / 10, slow, async |abuser: Self| abuser.knock().await).await;
        self.many(STREAMS, second, end, async |abuser: Self| abuser.read_slowly().await).await;
    }

    /// Repeats an action `count` times at the same time until `end`. The pauses keep the abuser's
    /// own tor, on the same machine as the service, from taking all of the processors.
    async fn many(self, count: usize, pause: Duration, end: Instant, action: impl AsyncFn(Self) -> Result<()>) {
        let repeat = async || {
            while Instant::now() < end {
                let _ = action(self).await;
                sleep(pause).await;
            }
        };
        // Whatever is unfinished at the end is dropped.
        let _ = timeout_at(end, join_all((0..count).map(|_| repeat()))).await;
    }

    /// Opens a stream and requests a response that takes a minute.
    pub async fn open(self) -> Result<TcpStream> {
        let mut stream = connect(self.socks, self.onion, self.isolation).await?;
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", path(LONG), self.onion);
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    /// Keeps a stream open until `end`, or until the service ends it.
    async fn hold(self, end: Instant) -> Result<()> {
        let mut stream = self.open().await?;
        let mut page = Vec::new();
        tokio::select! {
            read = stream.read_to_end(&mut page) => { read?; }
            () = sleep_until(end) => {}
        }
        Ok(())
    }

    /// Opens a stream and drops it.
    async fn knock(self) -> Result<()> {
        self.open().await.map(drop)
    }

    /// Reads a response, one byte in a second.
    async fn read_slowly(self) -> Result<()> {
        let mut stream = self.open().await?;
        while stream.read(&mut [0]).await? > 0 {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}
