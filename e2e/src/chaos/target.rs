//! What both services lead to: a web server on this machine, whose answers may take as long as is asked for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::node::HOST_ADDRESS;

/// The last line of every whole answer.
pub const END: &str = "end";

/// The server: it ends with this value.
#[derive(Debug)]
pub struct Target {
    address: String,
    serving: JoinHandle<()>,
}

impl Target {
    /// Listens at this machine's end of the cable to the node, where pods reach it.
    pub async fn listen() -> Result<Self> {
        let listener = TcpListener::bind((HOST_ADDRESS, 0)).await.context("the node's cable is not there")?;
        let address = listener.local_addr()?.to_string();
        let serving = tokio::spawn(async move {
            // What becomes of a stream is the client's to judge.
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        Ok(Self { address, serving })
    }

    /// `address:port`
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The path of an answer that takes so many seconds: a line for each, and [`END`].
pub fn path(seconds: u64) -> String {
    format!("/{seconds}")
}

async fn answer(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    loop {
        let mut header = String::new();
        ensure!(stream.read_line(&mut header).await? > 0, "the request ends in its header");
        if header.trim().is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).context("a request names a path")?;
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
