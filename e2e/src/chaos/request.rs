//! One request of a client, and what became of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, timeout};

use super::target::{END, path};
use crate::torclient::connect;

/// How long a client waits for an answer to begin; then the request has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of the two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The product's.
    Ours,
    /// The plain onion service beside it.
    Plain,
}

/// What the client knew of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Nothing: it fetches the descriptor first.
    Fresh,
    /// A descriptor from before.
    Cached,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer came.
    Done,
    /// No answer began.
    Failed(String),
    /// An answer began, and did not end as it should.
    Cut(String),
}

/// A request that is over.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to.
    pub whose: Whose,
    /// By whom.
    pub client: Client,
    /// How many seconds the answer was to take; 0: a page.
    pub seconds: u64,
    /// When it began.
    pub started: Instant,
    /// How long until the answer began, or was given up.
    pub waited: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Request {
    /// Asks a service for an answer of so many seconds, on circuits of its own for each `isolation`.
    pub async fn make(whose: Whose, client: Client, socks: &str, onion: &str, isolation: &str, seconds: u64) -> Self {
        let started = Instant::now();
        let answer = timeout(PATIENCE, begin(socks, onion, isolation, seconds)).await;
        let waited = started.elapsed();
        let outcome = match answer.context("no answer").and_then(|answer| answer) {
            Err(error) => Outcome::Failed(format!("{error:#}")),
            Ok(answer) => {
                let rest = timeout(PATIENCE + Duration::from_secs(seconds), finish(answer)).await;
                match rest.context("the rest did not come").and_then(|rest| rest) {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::Cut(format!("{error:#}")),
                }
            }
        };
        Self { whose, client, seconds, started, waited, outcome }
    }
}

type Answer = BufReader<tokio::net::TcpStream>;

async fn begin(socks: &str, onion: &str, isolation: &str, seconds: u64) -> Result<Answer> {
    let mut stream = connect(socks, onion, isolation).await?;
    let request = format!("GET {} HTTP/1.0\r\nHost: {onion}\r\n\r\n", path(seconds));
    stream.write_all(request.as_bytes()).await?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status).await?;
    ensure!(!status.is_empty(), "the stream ended before an answer");
    ensure!(status.starts_with("HTTP/1.0 200 "), "the target answered {status:?}");
    Ok(answer)
}

async fn finish(mut answer: Answer) -> Result<()> {
    let mut rest = String::new();
    answer.read_to_string(&mut rest).await?;
    let last = rest.lines().last().unwrap_or_default();
    ensure!(last == END, "it ended after {last:?}");
    Ok(())
}
