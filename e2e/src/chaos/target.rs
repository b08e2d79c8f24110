//! The web server on this machine to which both services forward. Each request specifies how long
//! its response takes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::node::HOST_ADDRESS;

/// The last line of every complete response.
pub const END: &str = "end";

/// How the web server treats new streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It answers requests.
    Answers,
    /// It closes each stream at once.
    Refuses,
    /// It keeps each stream open and sends nothing, until its mood changes.
    Hangs,
}

/// The web server, which stops when this value is dropped.
#[derive(Debug)]
pub struct Target {
    address: String,
    mood: watch::Sender<Mood>,
    serving: JoinHandle<()>,
}

impl Target {
    /// Listens on this machine's end of the link to the node, where pods can reach it.
    pub async fn listen() -> Result<Self> {
        Self::listen_at(HOST_ADDRESS).await.context("could not listen on the link to the node; run `e2e up`")
    }

    /// Listens on any port of an address of this machine.
    pub async fn listen_at(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let (mood, moods) = watch::channel(Mood::Answers);
        let serving = tokio::spawn(async move {
            // The client evaluates the outcome of a stream, so the server ignores errors.
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(treat(stream, moods.clone()));
            }
        });
        Ok(Self { address, mood, serving })
    }

    /// Returns the server's address as `address:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Changes how the server treats new streams.
    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns the path of a response that takes the given number of seconds. The response consists of
/// one line per second, followed by [`END`].
pub fn path(seconds: u64) -> String {
    format!("/{seconds}")
}

async fn treat(stream: TcpStream, mut moods: watch::Receiver<Mood>) -> Result<()> {
    let mood = *moods.borrow_and_update();
    match mood {
        Mood::Answers => answer(stream).await,
        Mood::Refuses => Ok(()),
        Mood::Hangs => {
            moods.changed().await?;
            drop(stream);
            Ok(())
        }
    }
}

async fn answer(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    loop {
        let mut header = String::new();
        ensure!(stream.read_line(&mut header).await? > 0, "the request ended in the middle of its header");
        if header.trim().is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).context("the request has no path")?;
    let seconds: u64 = path.trim_start_matches('/').parse()?;
    let start = Instant::now();
    stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n").await?;
    for second in 1..=seconds {
        stream.write_all(format!("{second}\n").as_bytes()).await?;
        sleep_until(start + Duration::from_secs(second)).await;
    }
    stream.write_all(format!("{END}\n").as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
