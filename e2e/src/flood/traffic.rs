//! Honest open-loop traffic to one service: requests begin at a fixed rate, whatever the outcome of
//! earlier ones.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::chaos::clients::Clients;
use crate::chaos::request::{ClientKind, Request, ServiceKind};

/// One in this many requests is made by a fresh client.
const FRESH_ONE_OF: usize = 3;

/// Sends requests in this interval until `end`, and waits for those in progress.
pub async fn send(clients: &Arc<Clients>, onion: &str, every: Duration, end: Instant) -> Result<Vec<Request>> {
    // tokio catches up on missed ticks by default, as open-loop traffic requires.
    let mut clock = interval(every);
    let mut under_way = JoinSet::new();
    loop {
        clock.tick().await;
        if Instant::now() >= end {
            break;
        }
        under_way.spawn(request(Arc::clone(clients), onion.to_owned(), under_way.len()));
    }
    let mut requests = Vec::new();
    while let Some(request) = under_way.join_next().await {
        requests.push(request??);
    }
    Ok(requests)
}

/// Sends one request. If no client can be reset at the moment, a client with a descriptor sends it.
async fn request(clients: Arc<Clients>, onion: String, number: usize) -> Result<Request> {
    let send = async |client: ClientKind, socks: &str| {
        Request::make(ServiceKind::Ours, client, socks, &onion, &format!("{onion} {number}"), 0).await
    };
    let fresh = if number.is_multiple_of(FRESH_ONE_OF) { clients.take() } else { None };
    let Some(mut fresh) = fresh else { return Ok(send(ClientKind::Cached, clients.cached(number)).await) };
    fresh.forget().await?;
    let request = send(ClientKind::Fresh, fresh.socks()).await;
    clients.give_back(fresh);
    Ok(request)
}
