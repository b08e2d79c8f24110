//! The forwarder: from tor's unix sockets to the targets.
//!
//! tor resolves the name in a `HiddenServicePort` once, when it reads its configuration; so tor is given a unix socket,
//! and the name is resolved here, for each stream.
//!
//! A target that refuses is passed on by closing tor's socket: tor tells the client at once that the stream has ended.

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

use super::Failure;
use super::paths::RunDir;
use super::proxy_header;
use crate::link::{AgentConfig, ForwardedPort};
use crate::onion::OnionAddress;

/// A target that does not answer: tor clients give up on a stream after about as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// tor writes its header as soon as it has connected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream with one end closed may be quiet. tor closes both directions at once, so mostly nobody waits for
/// what a target might still say; a target that never closes must not hold up a drain.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(15);
/// How long to wait after an accept that failed, for want of file descriptors say.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Streams at once, where the limit on open files allows.
const MAX_STREAMS: usize = 16_384;
/// Open files that are not streams': sockets of tor's and publishers' connections, name lookups.
const OTHER_FILES: u64 = 128;

/// Listens for tor, a socket for each port.
#[derive(Debug)]
pub struct Forwarder {
    listeners: Vec<(UnixListener, Arc<Port>)>,
    traffic: Arc<Traffic>,
    permits: Arc<Semaphore>,
}

/// What went through.
#[derive(Debug, Default)]
pub struct Traffic {
    ports: Vec<Arc<Port>>,
    open: watch::Sender<u64>,
}

/// A port of the onion address, with its counters.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    pub name: Option<String>,
    target: String,
    header: HeaderUse,
    /// The last stream failed: further failures are not worth a warning each.
    troubled: AtomicBool,
    pub open: AtomicU64,
    pub opened: AtomicU64,
    pub connect_failures: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

/// What becomes of the PROXY header at the start of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderUse {
    /// tor writes none.
    Absent,
    /// It is taken away.
    TakenAway,
    /// The target gets it, with this backend's mark.
    PassedOn(OnionAddress),
}

impl Forwarder {
    /// Makes the sockets. What an earlier agent left in their place is removed. `backend` is this backend's own address.
    pub fn bind(
        run_dir: &RunDir,
        config: &AgentConfig,
        backend: &OnionAddress,
        max_streams: usize,
    ) -> Result<Self, Failure> {
        let exported = AgentConfig::exports_circuit_id(&config.ports);
        let listeners = config.ports.iter().map(|port| {
            let path = run_dir.forward_socket(port.port);
            let listener = bind_fresh(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let header = match (exported, port.proxy_header) {
                (false, _) => HeaderUse::Absent,
                (true, false) => HeaderUse::TakenAway,
                (true, true) => HeaderUse::PassedOn(*backend),
            };
            Ok((listener, Arc::new(Port::new(port, header))))
        });
        let listeners: Vec<_> = listeners.collect::<Result<_, Failure>>()?;
        let ports = listeners.iter().map(|(_, port)| port.clone()).collect();
        let traffic = Arc::new(Traffic { ports, ..Traffic::default() });
        Ok(Self { listeners, traffic, permits: Arc::new(Semaphore::new(max_streams)) })
    }

    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    pub async fn run(self) -> Infallible {
        let accepting = self.listeners.iter().map(|(listener, port)| Box::pin(self.accept(listener, port)));
        select_all(accepting).await.0
    }

    async fn accept(&self, listener: &UnixListener, port: &Arc<Port>) -> Infallible {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(port = port.number, %error, "cannot take a stream");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                port.failed("a stream is refused", &"too many are open");
                continue;
            };
            let open = OpenStream::new(self.traffic.clone(), port.clone(), permit);
            tokio::spawn(async move { forward(stream, &open.port).await });
        }
    }
}

fn bind_fresh(path: &std::path::Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Dropping `stream` is what tells tor that the target refused.
async fn forward(mut stream: UnixStream, port: &Port) {
    let opening = match within(HEADER_TIMEOUT, port.take_header(&mut stream)).await {
        Ok(opening) => opening,
        Err(error) => return port.failed("a stream is refused", &error),
    };
    let target = match within(CONNECT_TIMEOUT, TcpStream::connect(&port.target)).await {
        Ok(target) => target,
        Err(error) => return port.failed("cannot connect to the target", &error),
    };
    port.troubled.store(false, Ordering::Relaxed);
    // tor has small cells of its own: waiting for more would only delay.
    let _ = target.set_nodelay(true);
    if let Err(error) = copy_both_ways(stream, &opening, target, port).await {
        tracing::debug!(port = port.number, %error, "a stream broke");
    }
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// `opening` is what the target gets before all else.
async fn copy_both_ways(mut stream: UnixStream, opening: &[u8], mut target: TcpStream, port: &Port) -> io::Result<()> {
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

/// One direction; passes the end on.
async fn copy_then_close(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// One direction ended: the other may go on as long as something moves.
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

/// Counts a stream while it lives.
struct OpenStream {
    traffic: Arc<Traffic>,
    port: Arc<Port>,
    _permit: OwnedSemaphorePermit,
}

impl OpenStream {
    fn new(traffic: Arc<Traffic>, port: Arc<Port>, permit: OwnedSemaphorePermit) -> Self {
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
    pub fn ports(&self) -> &[Arc<Port>] {
        &self.ports
    }

    /// Open streams of all ports.
    pub fn open(&self) -> u64 {
        *self.open.borrow()
    }

    pub fn watch_open(&self) -> watch::Receiver<u64> {
        self.open.subscribe()
    }
}

impl Port {
    fn new(port: &ForwardedPort, header: HeaderUse) -> Self {
        Self {
            number: port.port,
            name: port.name.clone(),
            target: port.target.clone(),
            header,
            troubled: AtomicBool::default(),
            open: AtomicU64::default(),
            opened: AtomicU64::default(),
            connect_failures: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
        }
    }

    /// Takes tor's header off a stream; gives what the target gets first.
    async fn take_header(&self, stream: &mut UnixStream) -> io::Result<Vec<u8>> {
        if self.header == HeaderUse::Absent {
            return Ok(Vec::new());
        }
        let (header, rest) = proxy_header::read(stream).await?;
        add(&self.bytes_in, &rest);
        Ok(match self.header {
            HeaderUse::PassedOn(backend) => [header.marked(&backend).to_string().as_bytes(), &rest].concat(),
            HeaderUse::TakenAway | HeaderUse::Absent => rest,
        })
    }

    /// Counts a stream that came to nothing. Clients can cause any number of them: only the first in a row is a warning.
    fn failed(&self, what: &str, reason: &dyn std::fmt::Display) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        let (port, target) = (self.number, &self.target);
        if self.troubled.swap(true, Ordering::Relaxed) {
            tracing::debug!(port, target, "{what}: {reason}");
        } else {
            tracing::warn!(port, target, "{what}: {reason}");
        }
    }
}

/// How many streams at once: raises the soft limit on open files as far as allowed (container runtimes give 1024 of many
/// more), and leaves each stream its two files.
pub fn stream_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX).clamp(1, MAX_STREAMS)
}

#[cfg(test)]
mod tests;
