//! Open-loop traffic: requests begin at a fixed rate, whatever the outcome of earlier ones. With
//! each request to our service, the same client also sends one to the plain onion service.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::interval;

use super::clients::Clients;
use super::needs::Needs;
use super::request::{ClientKind, Request, ServiceKind};

/// One in this many requests is made by a fresh client.
const FRESH_ONE_OF: usize = 3;
/// One in this many requests is for a stream, if the fault needs streams.
const STREAM_ONE_OF: usize = 5;
/// The durations of the streams in seconds, used in turn.
const STREAM_SECONDS: [u64; 5] = [60, 20, 45, 5, 30];

/// The onion addresses of the two services.
#[derive(Debug, Clone)]
pub struct Onions {
    /// The address of our service.
    pub ours: String,
    /// The address of the plain onion service.
    pub plain: String,
}

/// Traffic that is in progress.
#[derive(Debug)]
pub struct Traffic {
    stop: oneshot::Sender<()>,
    begun: Arc<AtomicUsize>,
    work: JoinHandle<Result<Vec<Request>>>,
}

impl Traffic {
    /// Starts the traffic at the rate and with the streams that the fault needs. No stream takes
    /// more than `longest_stream` seconds.
    pub fn start(clients: Arc<Clients>, onions: Onions, needs: Needs, longest_stream: u64) -> Self {
        let (stop, stopped) = oneshot::channel();
        let begun = Arc::new(AtomicUsize::new(0));
        let work = tokio::spawn(work(clients, onions, needs, longest_stream, Arc::clone(&begun), stopped));
        Self { stop, begun, work }
    }

    /// Returns the number of requests to each service that have begun.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Stops sending new requests, and waits for those in progress.
    pub async fn finish(self) -> Result<Vec<Request>> {
        ensure!(self.stop.send(()).is_ok() || self.work.is_finished(), "the traffic task ended unexpectedly");
        self.work.await?
    }
}

async fn work(
    clients: Arc<Clients>,
    onions: Onions,
    needs: Needs,
    longest_stream: u64,
    begun: Arc<AtomicUsize>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Vec<Request>> {
    // tokio catches up on missed ticks by default, as open-loop traffic requires.
    let mut clock = interval(needs.every);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = clock.tick() => {}
        }
        let number = begun.fetch_add(1, Ordering::Relaxed);
        let seconds = if needs.streams { stream_seconds(number).min(longest_stream) } else { 0 };
        under_way.spawn(pair(Arc::clone(&clients), onions.clone(), number, seconds));
    }
    let mut requests = Vec::new();
    while let Some(pair) = under_way.join_next().await {
        requests.extend(pair??);
    }
    Ok(requests)
}

/// Sends the same request to both services.
async fn pair(clients: Arc<Clients>, onions: Onions, number: usize, seconds: u64) -> Result<[Request; 2]> {
    let both = async |client: ClientKind, socks: &str| {
        let isolation = format!("request {number}");
        let (ours, plain) = tokio::join!(
            Request::make(ServiceKind::Ours, client, socks, &onions.ours, &isolation, seconds),
            Request::make(ServiceKind::Plain, client, socks, &onions.plain, &isolation, seconds),
        );
        [ours, plain]
    };
    let fresh = if number.is_multiple_of(FRESH_ONE_OF) { clients.take() } else { None };
    let Some(mut fresh) = fresh else {
        // If no client can be reset at the moment, a cached client makes the request, and the
        // request is recorded as such.
        return Ok(both(ClientKind::Cached, clients.cached(number)).await);
    };
    fresh.forget().await?;
    let requests = both(ClientKind::Fresh, fresh.socks()).await;
    clients.give_back(fresh);
    Ok(requests)
}

/// Returns the duration in seconds of the stream that request `number` opens, or 0 for a short
/// page. Both fresh and cached clients get streams of all durations.
fn stream_seconds(number: usize) -> u64 {
    if number.is_multiple_of(STREAM_ONE_OF) { STREAM_SECONDS[number / STREAM_ONE_OF % STREAM_SECONDS.len()] } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_and_cached_clients_request_streams_of_all_durations() {
        for remainder in 0..FRESH_ONE_OF {
            for seconds in STREAM_SECONDS {
                let found = (0..1000).any(|n| n % FRESH_ONE_OF == remainder && stream_seconds(n) == seconds);
                assert!(found, "no stream of {seconds} s among the requests with remainder {remainder}");
            }
        }
    }
}
