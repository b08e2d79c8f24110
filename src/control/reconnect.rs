//! Keeps a control connection open: connects, reports a lost connection, and connects again.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Connected, Connector, ControlError, NoConnection};

/// A change of the connection's state.
#[derive(Debug)]
pub enum Update {
    /// A new, authenticated connection is open. It does not inherit the event subscriptions of an
    /// earlier connection.
    Connected(Connected),
    /// There is no connection: the last connection ended or a new attempt failed, for the given
    /// reason. The supervisor tries again automatically.
    Lost(NoConnection),
}

/// The backoff between connection attempts. The longest pause doubles from `first` up to `cap` with
/// each consecutive failure. The actual pause is chosen at random between half of the longest pause
/// and the longest pause, so that many clients do not connect at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause after the first failure.
    pub first: Duration,
    /// The longest pause after any failure.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(5) }
    }
}

/// Starts a supervisor that keeps a control connection open. The first attempt to connect begins
/// immediately. When the receiver is dropped, the supervisor ends and closes its connection, unless
/// another [`Client`](super::Client) handle keeps the connection open. Requires a tokio runtime.
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
        let why = match connector.open().await {
            Ok(connected) => {
                failures = 0;
                let (client, endpoint) = (connected.client.clone(), connected.endpoint.clone());
                if updates.send(Update::Connected(connected)).await.is_err() {
                    return;
                }
                client.closed().await;
                NoConnection::at(endpoint, client.close_reason().unwrap_or(ControlError::Closed))
            }
            Err(why) => why,
        };
        tracing::debug!(%why, "no control connection to tor");
        if updates.send(Update::Lost(why)).await.is_err() {
            return;
        }
        sleep(backoff.pause(failures, &mut rng)).await;
        failures = failures.saturating_add(1);
    }
}

impl Backoff {
    /// Returns the pause after a failure. `failures` is the number of consecutive failures before
    /// this one.
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
    fn pauses_double_up_to_the_cap_and_are_chosen_from_the_upper_half() {
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
    async fn every_failed_attempt_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let backoff = Backoff { first: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let connector = Connector::unix(directory.path().join("no-socket"));
        let mut updates = supervise(connector, backoff, StdRng::seed_from_u64(7));
        for _ in 0..3 {
            let update = updates.recv().await.unwrap();
            let Update::Lost(why) = update else { panic!("connected to nothing") };
            assert!(matches!(why.reason, ControlError::Io { .. }), "{why}");
            assert!(why.to_string().starts_with(&format!("unix:{}/no-socket: ", directory.path().display())), "{why}");
        }
    }
}
