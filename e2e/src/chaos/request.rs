//! A request that a client sends to an onion service, and its outcome.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, timeout};

use super::target::{END, path};
use crate::torclient::connect;

/// The time that a client waits for a response to begin. After that, the request has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// One of the two services to which clients send requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// The service that the operator runs.
    Ours,
    /// The plain onion service with which ours is compared.
    Plain,
}

/// What a client knows about the service when a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// The client has no descriptor of the service and must fetch it first.
    Fresh,
    /// The client has a descriptor of the service from an earlier request.
    Cached,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response arrived.
    Done,
    /// The response never began.
    Failed(String),
    /// The response began but was cut off.
    Cut(String),
}

/// A finished request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The requested service.
    pub service: ServiceKind,
    /// The kind of client that made the request.
    pub client: ClientKind,
    /// The requested duration of the response in seconds, or 0 for a short page.
    pub seconds: u64,
    /// The time at which the request began.
    pub started: Instant,
    /// The time until the response began or the client gave up.
    pub waited: Duration,
    /// The outcome of the request.
    pub outcome: Outcome,
}

impl Request {
    /// Makes a request for a response that takes the given number of seconds. Requests with
    /// different `isolation` values share no circuit.
    pub async fn make(
        service: ServiceKind,
        client: ClientKind,
        socks: &str,
        onion: &str,
        isolation: &str,
        seconds: u64,
    ) -> Self {
        let started = Instant::now();
        let answer = timeout(PATIENCE, begin(socks, onion, isolation, seconds)).await;
        let waited = started.elapsed();
        let outcome = match answer.context("no answer").and_then(|answer| answer) {
            Err(error) => Outcome::Failed(format!("{error:#}")),
            Ok(answer) => {
                let rest = timeout(PATIENCE + Duration::from_secs(seconds), finish(answer)).await;
                match rest.context("the rest of the response did not arrive in time").and_then(|rest| rest) {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::Cut(format!("{error:#}")),
                }
            }
        };
        Self { service, client, seconds, started, waited, outcome }
    }
}

/// A response that has begun.
pub(super) type Answer = BufReader<tokio::net::TcpStream>;

/// Requests a response that takes the given number of seconds, and returns once it has begun.
pub(super) async fn begin(socks: &str, onion: &str, isolation: &str, seconds: u64) -> Result<Answer> {
    let mut stream = connect(socks, onion, isolation).await?;
    let request = format!("GET {} HTTP/1.0\r\nHost: {onion}\r\n\r\n", path(seconds));
    stream.write_all(request.as_bytes()).await?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status).await?;
    ensure!(!status.is_empty(), "the stream ended before the response began");
    ensure!(status.starts_with("HTTP/1.0 200 "), "the target answered {status:?}");
    Ok(answer)
}

/// Reads the rest of a response. Returns an error if the response was cut off.
pub(super) async fn finish(mut answer: Answer) -> Result<()> {
    let mut rest = String::new();
    answer.read_to_string(&mut rest).await?;
    let last = rest.lines().last().unwrap_or_default();
    ensure!(last == END, "the response was cut off after {last:?}");
    Ok(())
}
