//! The web servers on this machine to which the services forward: one for our service and one for
//! the plain onion service. Each request specifies how long its response takes. Like a real app, a
//! server handles a limited number of requests at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::node::HOST_ADDRESS;

/// The last line of every complete response.
pub const END: &str = "end";
/// The number of streams that a server handles at the same time, as in Debian's configuration of
/// Apache (`MaxRequestWorkers`). Further streams wait until a worker is free.
pub const WORKERS: usize = 150;

/// The web servers' treatment of new streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// They answer requests.
    Answers,
    /// They close each stream at once.
    Refuses,
    /// They keep each stream open and send nothing, until their mood changes.
    Hangs,
}

/// The web servers, which stop when this value is dropped.
#[derive(Debug)]
pub struct Target {
    address: String,
    plain_address: String,
    mood: watch::Sender<Mood>,
    open: OpenRequests,
    serving: [JoinHandle<()>; 2],
}

impl Target {
    /// Listens on this machine's end of the link to the node, where pods can reach it.
    pub async fn listen() -> Result<Self> {
        Self::listen_at(HOST_ADDRESS).await.context("could not listen on the link to the node; run `e2e up`")
    }

    /// Listens on two ports of an address of this machine.
    pub async fn listen_at(host: &str) -> Result<Self> {
        let [ours, plain] = [TcpListener::bind((host, 0)).await?, TcpListener::bind((host, 0)).await?];
        let [address, plain_address] = [ours.local_addr()?.to_string(), plain.local_addr()?.to_string()];
        let (mood, moods) = watch::channel(Mood::Answers);
        let open = OpenRequests::default();
        // The requests of the plain service name no circuit.
        let serving = [
            tokio::spawn(serve(ours, moods.clone(), open.clone())),
            tokio::spawn(serve(plain, moods, OpenRequests::default())),
        ];
        Ok(Self { address, plain_address, mood, open, serving })
    }

    /// Returns the address of our service's server as `address:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the address of the plain onion service's server as `address:port`.
    pub fn plain_address(&self) -> &str {
        &self.plain_address
    }

    /// Changes how both servers treat new streams.
    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Returns the client of our service that has the most open requests, and their number. A
    /// client is the source address of the PROXY header.
    pub fn busiest(&self) -> Option<(String, usize)> {
        let open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().max_by_key(|(_, count)| **count).map(|(client, count)| (client.clone(), *count))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}

/// Returns the path of a response that takes the given number of seconds. The response consists of
/// one line per second, followed by [`END`].
pub fn path(seconds: u64) -> String {
    format!("/{seconds}")
}

/// The number of open requests of each client whose streams begin with a PROXY header.
#[derive(Debug, Clone, Default)]
struct OpenRequests(Arc<Mutex<BTreeMap<String, usize>>>);

/// An open request of a client.
#[derive(Debug)]
struct OpenRequest {
    all: OpenRequests,
    client: String,
}

impl OpenRequests {
    fn begin(&self, client: String) -> OpenRequest {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(client.clone()).or_default() += 1;
        OpenRequest { all: self.clone(), client }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut open = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
        }
        open.retain(|_, count| *count > 0);
    }
}

/// Serves streams with a limited number of workers. A stream without a worker waits in the
/// kernel's queue.
async fn serve(listener: TcpListener, moods: watch::Receiver<Mood>, open: OpenRequests) {
    let workers = Arc::new(Semaphore::new(WORKERS));
    while let Ok(worker) = Arc::clone(&workers).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (moods, open) = (moods.clone(), open.clone());
        tokio::spawn(async move {
            // The client evaluates the outcome of a stream, so the server ignores errors.
            let _ = treat(stream, moods, &open).await;
            drop(worker);
        });
    }
}

async fn treat(mut stream: TcpStream, mut moods: watch::Receiver<Mood>, open: &OpenRequests) -> Result<()> {
    let (reader, writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mood = *moods.borrow_and_update();
    match mood {
        Mood::Answers => {
            let request = Request::read(&mut reader).await?;
            let _open = request.client.map(|client| open.begin(client));
            tokio::select! {
                biased;
                written = answer(writer, request.seconds) => written,
                () = closed(&mut reader) => Ok(()),
            }
        }
        Mood::Refuses => Ok(()),
        Mood::Hangs => {
            tokio::select! {
                changed = moods.changed() => changed.map_err(Into::into),
                () = closed(&mut reader) => Ok(()),
            }
        }
    }
}

/// Waits until the client has closed the stream.
async fn closed(reader: &mut (impl AsyncBufRead + Unpin)) {
    while reader.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
}

/// A request for a response.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// The source address of the PROXY header, if there is one.
    client: Option<String>,
    /// The duration of the response in seconds.
    seconds: u64,
}

impl Request {
    /// Reads a request to its end, with or without a PROXY header before it.
    async fn read(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Self> {
        let mut first = String::new();
        reader.read_line(&mut first).await?;
        let client = match first.strip_prefix("PROXY TCP6 ") {
            Some(addresses) => {
                let source = addresses.split(' ').next().context("the PROXY header has no source address")?.to_owned();
                first.clear();
                reader.read_line(&mut first).await?;
                Some(source)
            }
            None => None,
        };
        loop {
            let mut header = String::new();
            ensure!(reader.read_line(&mut header).await? > 0, "the request ended in the middle of its header");
            if header.trim().is_empty() {
                break;
            }
        }
        let path = first.split(' ').nth(1).context("the request has no path")?;
        Ok(Self { client, seconds: path.trim_start_matches('/').parse()? })
    }
}

async fn answer(mut stream: impl AsyncWrite + Unpin, seconds: u64) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::torclient::get;

    const SOURCE: &str = "fc00:dead:beef:4dad::0:2a";

    async fn hold(target: &Target, proxy: &str) -> TcpStream {
        let mut stream = TcpStream::connect(target.address()).await.unwrap();
        stream.write_all(format!("{proxy}GET {} HTTP/1.0\r\n\r\n", path(600)).as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream
    }

    async fn page(address: &str) -> Result<String> {
        get(&mut TcpStream::connect(address).await?, "host", &path(0)).await
    }

    #[tokio::test]
    async fn a_client_that_holds_all_workers_keeps_others_waiting_until_it_closes_a_stream() {
        let target = Target::listen_at("127.0.0.1").await.unwrap();
        let mut held = Vec::new();
        for _ in 0..WORKERS {
            held.push(hold(&target, &format!("PROXY TCP6 {SOURCE} ::1 65535 80\r\n")).await);
        }
        assert_eq!(target.busiest(), Some((SOURCE.to_owned(), WORKERS)));
        assert_eq!(page(target.plain_address()).await.unwrap(), format!("{END}\n"));
        let mut waiting = Box::pin(page(target.address()));
        timeout(Duration::from_millis(100), &mut waiting).await.unwrap_err();
        held.pop();
        assert_eq!(timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap(), format!("{END}\n"));
        assert_eq!(target.busiest(), Some((SOURCE.to_owned(), WORKERS - 1)));
    }

    #[tokio::test]
    async fn a_stream_need_not_begin_with_a_header_of_its_client() {
        let target = Target::listen_at("127.0.0.1").await.unwrap();
        let _held = hold(&target, "").await;
        assert_eq!(target.busiest(), None);
    }
}
