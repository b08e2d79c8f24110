//! Open-loop traffic: requests begin by the clock, whatever became of those before. Each goes to our service and, by the same client at
//! the same moment, to the plain one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::interval;

use super::clients::Clients;
use super::fault::Needs;
use super::request::{Client, Request, Whose};

/// How often a request begins, where nothing else is needed.
pub const EVERY: Duration = Duration::from_millis(250);
/// One request of so many is by a fresh client.
const FRESH_ONE_OF: usize = 3;
/// One request of so many is a long stream, where streams are asked for.
const STREAM_ONE_OF: usize = 5;
/// Their lengths in seconds, by turns.
const STREAM_SECONDS: [u64; 5] = [60, 20, 45, 5, 30];

/// The two services' addresses.
#[derive(Debug, Clone)]
pub struct Onions {
    /// The product's.
    pub ours: String,
    /// The plain one's.
    pub plain: String,
}

/// Traffic that goes on.
#[derive(Debug)]
pub struct Traffic {
    stop: oneshot::Sender<()>,
    begun: Arc<AtomicUsize>,
    work: JoinHandle<Result<Vec<Request>>>,
}

impl Traffic {
    /// Begins, at the pace and with the long answers that are needed.
    pub fn start(clients: Arc<Clients>, onions: Onions, needs: Needs) -> Self {
        let (stop, stopped) = oneshot::channel();
        let begun = Arc::new(AtomicUsize::new(0));
        let work = tokio::spawn(work(clients, onions, needs, Arc::clone(&begun), stopped));
        Self { stop, begun, work }
    }

    /// How many requests have begun at each service.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Begins no more, and waits for those under way.
    pub async fn finish(self) -> Result<Vec<Request>> {
        ensure!(self.stop.send(()).is_ok() || self.work.is_finished(), "the traffic ended by itself");
        self.work.await?
    }
}

async fn work(
    clients: Arc<Clients>,
    onions: Onions,
    needs: Needs,
    begun: Arc<AtomicUsize>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Vec<Request>> {
    // A tick that comes late is made up for: it is the default, and what open-loop means.
    let mut clock = interval(needs.every);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = clock.tick() => {}
        }
        let number = begun.fetch_add(1, Ordering::Relaxed);
        let seconds = if needs.streams { stream_seconds(number) } else { 0 };
        under_way.spawn(pair(Arc::clone(&clients), onions.clone(), number, seconds));
    }
    let mut requests = Vec::new();
    while let Some(pair) = under_way.join_next().await {
        requests.extend(pair??);
    }
    Ok(requests)
}

/// The same request to both services.
async fn pair(clients: Arc<Clients>, onions: Onions, number: usize, seconds: u64) -> Result<[Request; 2]> {
    let both = async |client: Client, socks: &str| {
        let isolation = format!("request {number}");
        let (ours, plain) = tokio::join!(
            Request::make(Whose::Ours, client, socks, &onions.ours, &isolation, seconds),
            Request::make(Whose::Plain, client, socks, &onions.plain, &isolation, seconds),
        );
        [ours, plain]
    };
    let fresh = if number.is_multiple_of(FRESH_ONE_OF) { clients.take() } else { None };
    let Some(mut fresh) = fresh else {
        // Also when no client is free to forget: it is counted as what it is.
        return Ok(both(Client::Cached, clients.cached(number)).await);
    };
    fresh.forget().await?;
    let requests = both(Client::Fresh, fresh.socks()).await;
    clients.give_back(fresh);
    Ok(requests)
}

/// Neither fresh nor cached clients get all of the long ones.
fn stream_seconds(number: usize) -> u64 {
    if number.is_multiple_of(STREAM_ONE_OF) { STREAM_SECONDS[number / STREAM_ONE_OF % STREAM_SECONDS.len()] } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_and_cached_clients_ask_for_streams_of_all_lengths() {
        for remainder in 0..FRESH_ONE_OF {
            for seconds in STREAM_SECONDS {
                let found = (0..1000).any(|n| n % FRESH_ONE_OF == remainder && stream_seconds(n) == seconds);
                assert!(found, "no stream of {seconds} s among every third from {remainder}");
            }
        }
    }
}
