//! The forwarder, which accepts streams from tor on unix sockets and connects them to the targets
//! of the onion service.
//!
//! Tor resolves the name in a `HiddenServicePort` only once, when it reads its configuration.
//! Therefore tor connects to a unix socket, and the forwarder resolves the name for each stream.
//!
//! If a target refuses the connection, the forwarder closes tor's socket, and tor ends the client's
//! stream immediately.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{Either, select, select_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::io::InspectReader;

use super::AgentError;
use super::connect::Connector;
use super::paths::RunDir;
use super::proxy_header;
use crate::link::{AgentConfig, ForwardedPort};
use crate::onion::OnionAddress;

/// The longest time that a connection attempt to a target may take. Tor clients give up on a stream
/// after about the same time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time that the forwarder waits for the PROXY header, which tor writes as soon as it
/// connects.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that a half-closed stream may be idle. Tor closes both directions together, so
/// usually no client is waiting for the rest of the target's data. The limit keeps a target that
/// never closes its side from delaying a drain.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(15);
/// The pause after a failed accept, for example when no file descriptor is free.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The maximum number of concurrent streams, if the limit on open files permits that many.
const MAX_STREAMS: usize = 16_384;
/// The number of open files reserved for purposes other than streams: control connections, API
/// connections and name lookups.
const OTHER_FILES: u64 = 128;

/// The listening sockets for tor, one for each port of the onion address.
#[derive(Debug)]
pub struct Forwarder {
    listeners: Vec<(UnixListener, Arc<ForwarderPort>)>,
    traffic: Arc<Traffic>,
    permits: Arc<Semaphore>,
    connector: Arc<Connector>,
}

/// The traffic counters of all forwarded ports.
#[derive(Debug, Default)]
pub struct Traffic {
    ports: Vec<Arc<ForwarderPort>>,
    open: watch::Sender<u64>,
}

/// A forwarded port of the onion address, with its counters.
#[derive(Debug)]
pub struct ForwarderPort {
    /// The port number that clients connect to.
    pub number: u16,
    /// The optional name of the port, from the object's spec.
    pub name: Option<String>,
    target: String,
    header: HeaderUse,
    /// True if the latest stream failed. Consecutive failures after the first are not logged as
    /// warnings.
    failing: AtomicBool,
    /// The number of open streams.
    pub open: AtomicU64,
    /// The number of streams accepted since the agent started.
    pub opened: AtomicU64,
    /// The number of streams refused since the agent started.
    pub connect_failures: AtomicU64,
    /// The number of bytes forwarded from clients to the target.
    pub bytes_in: AtomicU64,
    /// The number of bytes forwarded from the target to clients.
    pub bytes_out: AtomicU64,
}

/// How the forwarder handles the PROXY header at the start of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderUse {
    /// Tor writes no header.
    Absent,
    /// The forwarder removes the header.
    Removed,
    /// The forwarder marks the header with this backend's onion key and passes it on to the target.
    PassedOn(OnionAddress),
}

impl Forwarder {
    /// Creates the forwarding sockets, replacing those of an earlier agent. `backend` is this
    /// backend's own address.
    pub fn bind(
        run_dir: &RunDir,
        config: &AgentConfig,
        backend: &OnionAddress,
        max_streams: usize,
    ) -> Result<Self, AgentError> {
        let exported = AgentConfig::exports_circuit_id(&config.ports);
        let listeners = config.ports.iter().map(|port| {
            let path = run_dir.forward_socket(port.port);
            let listener = bind_fresh(&path)
                .map_err(|error| format!("cannot create the forwarding socket {}: {error}", path.display()))?;
            let header = match (exported, port.proxy_header) {
                (false, _) => HeaderUse::Absent,
                (true, false) => HeaderUse::Removed,
                (true, true) => HeaderUse::PassedOn(*backend),
            };
            Ok((listener, Arc::new(ForwarderPort::new(port, header))))
        });
        let listeners: Vec<_> = listeners.collect::<Result<_, AgentError>>()?;
        let ports = listeners.iter().map(|(_, port)| port.clone()).collect();
        let traffic = Arc::new(Traffic { ports, ..Traffic::default() });
        Ok(Self { listeners, traffic, permits: Arc::new(Semaphore::new(max_streams)), connector: Arc::default() })
    }

    /// Returns the counters of the forwarded traffic.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// Replaces the connector. Without this call, the forwarder connects to any address.
    pub fn connecting_with(self, connector: Connector) -> Self {
        Self { connector: Arc::new(connector), ..self }
    }

    /// Forwards streams forever.
    pub async fn run(self) -> Infallible {
        let accepting = self.listeners.iter().map(|(listener, port)| Box::pin(self.accept(listener, port)));
        select_all(accepting).await.0
    }

    async fn accept(&self, listener: &UnixListener, port: &Arc<ForwarderPort>) -> Infallible {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(port = port.number, %error, "could not accept a stream");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                port.failed("refused a stream", &"too many streams are open");
                continue;
            };
            let open = OpenStream::new(self.traffic.clone(), port.clone(), permit);
            let connector = self.connector.clone();
            tokio::spawn(async move { forward(stream, &open.port, &connector).await });
        }
    }
}

fn bind_fresh(path: &std::path::Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Forwards one stream. On failure, `stream` is dropped, which makes tor end the client's stream.
async fn forward(mut stream: UnixStream, port: &ForwarderPort, connector: &Connector) {
    let opening = match within(HEADER_TIMEOUT, port.take_header(&mut stream)).await {
        Ok(opening) => opening,
        Err(error) => return port.failed("refused a stream without a PROXY header", &error),
    };
    let target = match within(CONNECT_TIMEOUT, connector.connect(&port.target)).await {
        Ok(target) => target,
        Err(error) => return port.failed("could not connect to the target", &error),
    };
    port.failing.store(false, Ordering::Relaxed);
    // Tor sends small cells, so waiting for more data would only add delay.
    let _ = target.set_nodelay(true);
    if let Err(error) = copy_both_ways(stream, &opening, target, port).await {
        tracing::debug!(port = port.number, %error, "a stream ended with an error");
    }
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Copies data in both directions until both have ended. `opening` is sent to the target first.
async fn copy_both_ways(
    mut stream: UnixStream,
    opening: &[u8],
    mut target: TcpStream,
    port: &ForwarderPort,
) -> io::Result<()> {
    let moved = AtomicU64::default();
    let count = |counter: &AtomicU64, bytes: &[u8]| {
        add(counter, bytes);
        add(&moved, bytes);
    };
    let (from_tor, to_tor) = stream.split();
    let (from_target, to_target) = target.split();
    let from_tor = opening.chain(InspectReader::new(from_tor, |bytes| count(&port.bytes_in, bytes)));
    let inward = pin!(copy_then_close(from_tor, to_target));
    let outward = pin!(copy_then_close(InspectReader::new(from_target, |bytes| count(&port.bytes_out, bytes)), to_tor));
    match select(inward, outward).await {
        Either::Left((ended, outward)) => finish(ended, outward, &moved).await,
        Either::Right((ended, inward)) => finish(ended, inward, &moved).await,
    }
}

/// Copies data in one direction until it ends, then closes the writing side.
async fn copy_then_close(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Continues to copy in the remaining direction after the other direction has ended, for as long as
/// data arrives.
async fn finish(
    ended: io::Result<()>,
    mut other: impl Future<Output = io::Result<()>> + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    ended?;
    loop {
        let before = moved.load(Ordering::Relaxed);
        match timeout(HALF_CLOSED_IDLE, &mut other).await {
            Ok(ended) => return ended,
            Err(_) if moved.load(Ordering::Relaxed) == before => return Ok(()),
            Err(_) => {}
        }
    }
}

fn add(counter: &AtomicU64, bytes: &[u8]) {
    counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
}

/// A guard that counts a stream while it is open.
struct OpenStream {
    traffic: Arc<Traffic>,
    port: Arc<ForwarderPort>,
    _permit: OwnedSemaphorePermit,
}

impl OpenStream {
    fn new(traffic: Arc<Traffic>, port: Arc<ForwarderPort>, permit: OwnedSemaphorePermit) -> Self {
        port.open.fetch_add(1, Ordering::Relaxed);
        port.opened.fetch_add(1, Ordering::Relaxed);
        traffic.open.send_modify(|open| *open += 1);
        Self { traffic, port, _permit: permit }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.port.open.fetch_sub(1, Ordering::Relaxed);
        self.traffic.open.send_modify(|open| *open -= 1);
    }
}

impl Traffic {
    /// Returns the forwarded ports.
    pub fn ports(&self) -> &[Arc<ForwarderPort>] {
        &self.ports
    }

    /// Returns the total number of open streams.
    pub fn open(&self) -> u64 {
        *self.open.borrow()
    }

    /// Returns a receiver that yields the total number of open streams.
    pub fn watch_open(&self) -> watch::Receiver<u64> {
        self.open.subscribe()
    }
}

impl ForwarderPort {
    fn new(port: &ForwardedPort, header: HeaderUse) -> Self {
        Self {
            number: port.port,
            name: port.name.clone(),
            target: port.target.clone(),
            header,
            failing: AtomicBool::default(),
            open: AtomicU64::default(),
            opened: AtomicU64::default(),
            connect_failures: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
        }
    }

    /// Reads tor's header from a stream and returns the bytes to send to the target first.
    async fn take_header(&self, stream: &mut UnixStream) -> io::Result<Vec<u8>> {
        if self.header == HeaderUse::Absent {
            return Ok(Vec::new());
        }
        let (header, rest) = proxy_header::read(stream).await?;
        add(&self.bytes_in, &rest);
        Ok(match self.header {
            HeaderUse::PassedOn(backend) => [header.marked(&backend).to_string().as_bytes(), &rest].concat(),
            HeaderUse::Removed | HeaderUse::Absent => rest,
        })
    }

    /// Counts a failed stream. Clients can cause any number of failures, so only the first of
    /// several consecutive failures is logged as a warning.
    fn failed(&self, what: &str, reason: &dyn std::fmt::Display) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        let (port, target) = (self.number, &self.target);
        if self.failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(port, target, "{what}: {reason}");
        } else {
            tracing::warn!(port, target, "{what}: {reason}");
        }
    }
}

/// Returns the maximum number of concurrent streams, each of which needs two open files. Raises the
/// soft limit on open files to the hard limit first, because container runtimes start with a soft
/// limit of 1024.
pub fn stream_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "could not raise the limit on open files");
    }
    streams_within(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// Returns the maximum number of concurrent streams for this limit on open files.
fn streams_within(files: u64) -> usize {
    usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX).clamp(1, MAX_STREAMS)
}

#[cfg(test)]
mod tests;
