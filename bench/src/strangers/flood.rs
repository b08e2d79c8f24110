//! The connections of the strangers, and the probes and streams that must work at the same time.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::forwarder::rate;

/// The number of connections to each listener.
const STRANGERS: usize = 20_000;
/// The number of tasks that open these connections.
const TASKS: usize = 100;
/// The number of loopback addresses from which the strangers connect. The probes come from another
/// address, as the kubelet's probes do.
const ADDRESSES: usize = 16;
/// The data that the strangers send, in turn.
const HALVES: [&str; 3] =
    ["", "GET /livez HTTP/1.1\r\nhost: a\r\n", "POST /v1/sync HTTP/1.1\r\nhost: a\r\ncontent-length: 4096\r\n\r\n{"];
/// The time for which the strangers stay after the last one has connected.
const HOLD: Duration = Duration::from_secs(3);
/// The pause between two probes, and between two streams.
const PAUSE: Duration = Duration::from_millis(20);
/// The maximum time for a probe or for a piece of a stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// The number of streams that stay open during the whole measurement.
const HELD: usize = 20;
/// The number of bytes to transfer in each of these streams. All floods together use less.
const HELD_BYTES: u32 = 64 << 20;
/// The number of bytes to transfer in each short stream, and after a flood in each long one.
const PIECE: u32 = 64 * 1024;

/// Streams through the agent. Some are open during the whole measurement, and short ones are opened
/// during a flood.
pub(super) struct Streams {
    socket: PathBuf,
    held: Vec<UnixStream>,
    /// The number of streams that failed.
    pub(super) failed: u32,
}

impl Streams {
    /// Opens the long streams on the socket of an onion port.
    pub(super) async fn open(socket: PathBuf) -> Result<Self> {
        let mut held = Vec::new();
        for _ in 0..HELD {
            let mut stream = UnixStream::connect(&socket).await?;
            stream.write_all(&HELD_BYTES.to_be_bytes()).await?;
            stream.read_u8().await?;
            held.push(stream);
        }
        Ok(Self { socket, held, failed: 0 })
    }

    /// Reads from each long stream, and counts those that have failed.
    async fn check_held(&mut self) -> Result<()> {
        let mut piece = vec![0; usize::try_from(PIECE)?];
        for stream in &mut self.held {
            let read = timeout(PATIENCE, stream.read_exact(&mut piece)).await;
            self.failed += u32::from(!read.is_ok_and(|read| read.is_ok()));
        }
        Ok(())
    }
}

/// The result of a flood.
pub(super) struct Flooded {
    /// The time of the slowest probe.
    pub(super) slowest: Duration,
    /// The number of connections that the program had not closed at the end of the flood.
    pub(super) open: usize,
}

/// Floods a listener.
pub(super) async fn flood(port: u16, probes: u16, streams: Option<&mut Streams>) -> Result<Flooded> {
    let done = Arc::new(AtomicBool::default());
    let probing = tokio::spawn(slowest_probe(probes, done.clone()));
    let socket = streams.as_ref().map(|streams| streams.socket.clone());
    let streaming = socket.map(|socket| tokio::spawn(failed_streams(socket, done.clone())));
    let mut strangers = strangers(port).await?;
    sleep(HOLD).await;
    let open: usize = strangers.iter_mut().map(unfinished).sum();
    done.store(true, Ordering::Relaxed);
    let slowest = probing.await?;
    if let (Some(streams), Some(streaming)) = (streams, streaming) {
        streams.failed += streaming.await?;
        streams.check_held().await?;
    }
    for held in &mut strangers {
        held.shutdown().await;
    }
    Ok(Flooded { slowest, open })
}

/// Opens all connections of the strangers. Returns the tasks that hold them. Aborting a task closes
/// its connection.
async fn strangers(port: u16) -> Result<Vec<JoinSet<()>>> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(async move {
            let mut held = JoinSet::new();
            for number in 0..STRANGERS / TASKS {
                if let Some(stream) = stranger(port, task + number * TASKS).await? {
                    held.spawn(hold(stream));
                }
            }
            anyhow::Ok(held)
        });
    }
    let mut all = Vec::new();
    while let Some(held) = tasks.join_next().await {
        all.push(held??);
    }
    Ok(all)
}

/// Holds a connection until the program closes it. Then closes the stranger's end too, which would
/// otherwise keep an open file of the benchmark.
async fn hold(mut stream: TcpStream) {
    let mut answer = [0; 256];
    while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {}
}

/// Returns the number of tasks that have not ended.
fn unfinished(tasks: &mut JoinSet<()>) -> usize {
    while tasks.try_join_next().is_some() {}
    tasks.len()
}

/// Opens one connection and sends half of a request. Returns None if the program has already reset
/// the connection.
async fn stranger(port: u16, number: usize) -> Result<Option<TcpStream>> {
    let socket = TcpSocket::new_v4().context(
        "could not create a socket; if the program closes too few connections, raise the limit on open files",
    )?;
    let from = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(number % ADDRESSES)?);
    socket.bind(SocketAddr::from((from, 0)))?;
    let mut stream = match socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
        other => other.with_context(|| format!("stranger {number} could not connect to port {port}"))?,
    };
    // The program may close the connection at any time.
    let _ = stream.write_all(HALVES.get(number % HALVES.len()).unwrap_or(&"").as_bytes()).await;
    Ok(Some(stream))
}

/// Probes a program until `done` is set. Returns the time of the slowest probe; a failed probe
/// counts as [`PATIENCE`].
async fn slowest_probe(port: u16, done: Arc<AtomicBool>) -> Duration {
    let mut slowest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answered = timeout(PATIENCE, probe(port)).await.is_ok_and(|answer| answer.is_ok());
        slowest = slowest.max(if answered { begun.elapsed() } else { PATIENCE });
        sleep(PAUSE).await;
    }
    slowest
}

/// Sends a liveness probe as the kubelet does, on a new connection.
pub(super) async fn probe(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "the answer is {answer:?}");
    Ok(())
}

/// Opens one short stream after another until `done` is set. Returns the number of failed streams.
async fn failed_streams(socket: PathBuf, done: Arc<AtomicBool>) -> u32 {
    let mut failed = 0;
    while !done.load(Ordering::Relaxed) {
        let stream = async { rate(UnixStream::connect(&socket).await?, PIECE).await };
        failed += u32::from(!timeout(PATIENCE, stream).await.is_ok_and(|rate| rate.is_ok()));
        sleep(PAUSE).await;
    }
    failed
}
