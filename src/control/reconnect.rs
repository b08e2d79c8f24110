//! Keeps a control connection up: connects, tells when it is lost, connects again.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Client, Connector, ControlError, Event};

/// What became of the connection.
#[derive(Debug)]
pub enum Update {
    /// A new connection, authenticated; it knows no SETEVENTS of an earlier one.
    Connected(Client, mpsc::Receiver<Event>),
    /// There is none: the last one ended, or another attempt failed, for this reason. The next attempt follows by itself.
    Lost(ControlError),
}

/// The pause before an attempt: it doubles from `first` to `cap` with each failure in a row, and is drawn from the upper
/// half of that, so that many clients do not knock together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never more.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(5) }
    }
}

/// Starts a supervisor: the first attempt is made at once. It ends, and its connection with it (unless someone else keeps a
/// [`Client`]), when the receiver is dropped. Needs a tokio runtime.
pub fn supervise<R>(connector: Connector, backoff: Backoff, rng: R) -> mpsc::Receiver<Update>
where
    R: Rng + Send + 'static,
{
    let (updates, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = updates.closed() => {}
            () = run(&connector, backoff, rng, &updates) => {}
        }
    });
    receiver
}

async fn run<R: Rng>(connector: &Connector, backoff: Backoff, mut rng: R, updates: &mpsc::Sender<Update>) {
    let mut failures = 0;
    loop {
        let why = match connector.connect().await {
            Ok((client, events)) => {
                failures = 0;
                if updates.send(Update::Connected(client.clone(), events)).await.is_err() {
                    return;
                }
                client.closed().await;
                client.close_reason().unwrap_or(ControlError::Closed)
            }
            Err(why) => why,
        };
        tracing::debug!(%why, "no control connection");
        if updates.send(Update::Lost(why)).await.is_err() {
            return;
        }
        sleep(backoff.pause(failures, &mut rng)).await;
        failures = failures.saturating_add(1);
    }
}

impl Backoff {
    /// The pause after `failures` earlier failures in a row.
    fn pause<R: Rng>(&self, failures: u32, rng: &mut R) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let longest = self.first.saturating_mul(factor).min(self.cap);
        rng.random_range(longest / 2..=longest)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_are_drawn_from_the_upper_half() {
        let backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(5) };
        let mut rng = StdRng::seed_from_u64(7);
        for (failures, longest) in [(0, 100), (1, 200), (5, 3200), (6, 5000), (31, 5000), (32, 5000), (u32::MAX, 5000)]
        {
            let pauses: Vec<_> = (0..100).map(|_| backoff.pause(failures, &mut rng)).collect();
            let longest = Duration::from_millis(longest);
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause < longest * 6 / 10), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause > longest * 9 / 10), "{failures}: {pauses:?}");
        }
    }

    #[tokio::test]
    async fn each_failed_attempt_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let backoff = Backoff { first: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let connector = Connector::unix(directory.path().join("no-socket"));
        let mut updates = supervise(connector, backoff, StdRng::seed_from_u64(7));
        for _ in 0..3 {
            let update = updates.recv().await.unwrap();
            assert!(matches!(update, Update::Lost(ControlError::Io { .. })), "{update:?}");
        }
    }
}
