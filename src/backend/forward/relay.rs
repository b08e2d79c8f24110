//! Copies the data of one stream in both directions, and ends an idle stream.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until};
use tokio_util::io::InspectReader;

use super::{ForwarderPort, add};

/// The longest time that a half-closed stream may be idle. Tor closes both directions together, so
/// usually no client is waiting for the rest of the target's data. The limit keeps a target that
/// never closes its side from delaying a drain.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(15);

/// Copies data in both directions until both have ended, or until no data has been moved for the
/// port's idle timeout. `opening` is sent to the target first.
pub(super) async fn copy_both_ways(
    mut stream: UnixStream,
    opening: &[u8],
    mut target: TcpStream,
    port: &ForwarderPort,
) -> io::Result<()> {
    let activity = Activity::new();
    let count = |counter: &AtomicU64, bytes: &[u8]| {
        add(counter, bytes);
        activity.note();
    };
    let (from_tor, to_tor) = stream.split();
    let (from_target, to_target) = target.split();
    let from_tor = opening.chain(InspectReader::new(from_tor, |bytes| count(&port.bytes_in, bytes)));
    let inward = pin!(copy_then_close(from_tor, to_target));
    let outward = pin!(copy_then_close(InspectReader::new(from_target, |bytes| count(&port.bytes_out, bytes)), to_tor));
    let both = async {
        match select(inward, outward).await {
            Either::Left((ended, outward)) => finish(ended, outward, &activity).await,
            Either::Right((ended, inward)) => finish(ended, inward, &activity).await,
        }
    };
    let Some(idle_timeout) = port.idle_timeout else { return both.await };
    tokio::select! {
        ended = both => ended,
        () = activity.idle(idle_timeout) => Ok(()),
    }
}

/// Copies data in one direction until it ends, then closes the writing side.
async fn copy_then_close(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Continues to copy in the remaining direction after the other direction has ended, for as long as
/// data arrives.
async fn finish(
    ended: io::Result<()>,
    other: impl Future<Output = io::Result<()>> + Unpin,
    activity: &Activity,
) -> io::Result<()> {
    ended?;
    activity.note();
    tokio::select! {
        ended = other => ended,
        () = activity.idle(HALF_CLOSED_IDLE) => Ok(()),
    }
}

/// The time at which a stream last moved data.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// The time of the last activity in nanoseconds after the start.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::default() }
    }

    /// Records that data was moved.
    fn note(&self) {
        let nanoseconds = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.store(nanoseconds, Ordering::Relaxed);
    }

    /// Waits until the stream has been idle for the given time.
    async fn idle(&self, limit: Duration) {
        loop {
            let end = self.start + Duration::from_nanos(self.last.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}
