//! Copies the data of one stream in both directions, slows down a stream whose circuit moves too
//! many bytes, and ends an idle stream.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::ForwarderPort;
use crate::backend::circuits::CircuitPermit;

/// The longest time that a half-closed stream may be idle. Tor closes both directions together, so
/// usually no client is waiting for the rest of the target's data. The limit keeps a target that
/// never closes its side from delaying a drain.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(15);

/// Copies data in both directions until both have ended, or until no data has been moved for the
/// port's idle timeout. `opening` is sent to the target first. If there is a permit, the stream
/// pauses while its circuit has moved too many bytes.
pub(super) async fn copy_both_ways(
    mut stream: UnixStream,
    opening: &[u8],
    mut target: TcpStream,
    port: &ForwarderPort,
    permit: Option<&CircuitPermit>,
) -> io::Result<()> {
    let activity = Activity::new();
    let (from_tor, to_tor) = stream.split();
    let (from_target, to_target) = target.split();
    let from_tor = Metered { from: from_tor, counter: &port.bytes_in, activity: &activity, permit, pause: None };
    let from_target = Metered { from: from_target, counter: &port.bytes_out, activity: &activity, permit, pause: None };
    let inward = pin!(copy_then_close(opening.chain(from_tor), to_target));
    let outward = pin!(copy_then_close(from_target, to_tor));
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

/// A reader that counts the bytes it reads, and pauses while the circuit has moved too many.
struct Metered<'a, R> {
    from: R,
    counter: &'a AtomicU64,
    activity: &'a Activity,
    permit: Option<&'a CircuitPermit>,
    /// The pause that precedes the next read.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<'_, R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.from).poll_read(cx, buffer))?;
        let bytes = buffer.filled().len() - before;
        this.counter.fetch_add(bytes as u64, Ordering::Relaxed);
        // At the end of the data, no bytes are read.
        let pause = this.permit.filter(|_| bytes > 0).map_or(Duration::ZERO, |permit| permit.moved(bytes));
        if !pause.is_zero() {
            this.pause = Some(Box::pin(sleep(pause)));
        }
        // A stream that pauses is not idle.
        this.activity.note_after(pause);
        Poll::Ready(Ok(()))
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
    /// The time of the last activity in nanoseconds after the start, or the end of a pause.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::default() }
    }

    /// Records that data was moved.
    fn note(&self) {
        self.note_after(Duration::ZERO);
    }

    /// Records that data was moved and that the next data follows after a pause. The end of an
    /// earlier, longer pause is kept.
    fn note_after(&self, pause: Duration) {
        let nanoseconds = u64::try_from((self.start.elapsed() + pause).as_nanos()).unwrap_or(u64::MAX);
        self.last.fetch_max(nanoseconds, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::circuits::Circuits;
    use crate::link::CircuitLimits;

    fn permit(bytes_per_second: u32) -> CircuitPermit {
        let limits = CircuitLimits { open_streams: 8, new_streams: None, bytes_per_second: Some(bytes_per_second) };
        Circuits::new(64, Some(&limits)).take(1).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_a_fast_circuit_is_slowed_down_and_stays_complete() {
        let permit = &permit(100_000);
        let data: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
        let (counter, activity) = (&AtomicU64::default(), &Activity::new());
        let mut from = Metered { from: &data[..], counter, activity, permit: Some(permit), pause: None };
        let mut received = Vec::new();
        copy(&mut from, &mut received).await.unwrap();
        assert!(received == data);
        assert_eq!(counter.load(Ordering::Relaxed), 1_000_000);
        // The bytes of the first second pass at once.
        let took = activity.start.elapsed();
        assert!((Duration::from_secs(9)..Duration::from_millis(9100)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_pauses_is_not_idle() {
        let permit = &permit(16_384);
        let (counter, activity) = (&AtomicU64::default(), &Activity::new());
        // Another stream of the circuit has moved the bytes of the next 60 s.
        permit.moved(61 * 16_384);
        let mut from = Metered { from: &b"x"[..], counter, activity, permit: Some(permit), pause: None };
        from.read_u8().await.unwrap();
        activity.idle(Duration::from_secs(15)).await;
        let took = activity.start.elapsed();
        assert!(took >= Duration::from_secs(75), "{took:?}");
    }
}
