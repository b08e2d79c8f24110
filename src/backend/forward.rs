//! The forwarder, which accepts streams from tor on unix sockets and connects them to the targets
//! of the onion service.
//!
//! Tor resolves the name in a `HiddenServicePort` only once, when it reads its configuration.
//! Therefore tor connects to a unix socket, and the forwarder resolves the name for each stream.
//!
//! If a target refuses the connection, the forwarder closes tor's socket, and tor ends the client's
//! stream immediately.

mod quota;
mod relay;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::select_all;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};

use super::AgentError;
use super::circuits::Circuits;
use super::connect::Connector;
use super::paths::RunDir;
use super::proxy_header;
use crate::common::log_limit::{Line, LogLimit};
use crate::link::{AgentConfig, ForwardedPort};
use crate::onion::OnionAddress;
use quota::PortQuota;

/// The longest time that a connection attempt to a target may take. Tor clients give up on a stream
/// after about the same time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time that the forwarder waits for the PROXY header, which tor writes as soon as it
/// connects.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed accept, for example when no file descriptor is free.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listening sockets for tor, one for each port of the onion address.
#[derive(Debug)]
pub struct Forwarder {
    listeners: Vec<Listener>,
    traffic: Arc<Traffic>,
    circuits: Arc<Circuits>,
    connector: Arc<Connector>,
}

/// The listening socket of one port.
#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    port: Arc<ForwarderPort>,
    quota: PortQuota,
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
    /// A stream without data in either direction for this long is closed. If None, a stream may be
    /// idle forever.
    idle_timeout: Option<Duration>,
    /// The limit for the warnings about failed streams, which clients can cause.
    failures: LogLimit,
    /// Notified when a stream cannot connect to the target, so that the target is checked at once.
    pub doubt: Arc<Notify>,
    /// The time after which a connection attempt is a reason to check the target.
    slow_after: Duration,
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
        let exported = AgentConfig::exports_circuit_id(&config.ports, config.circuit_limits.is_some());
        let quotas = quota::divide(max_streams, config.ports.len());
        let listeners = config.ports.iter().zip(quotas).map(|(port, quota)| {
            let path = run_dir.forward_socket(port.port);
            let socket = bind_fresh(&path)
                .map_err(|error| format!("cannot create the forwarding socket {}: {error}", path.display()))?;
            let header = match (exported, port.proxy_header) {
                (false, _) => HeaderUse::Absent,
                (true, false) => HeaderUse::Removed,
                (true, true) => HeaderUse::PassedOn(*backend),
            };
            Ok(Listener { socket, port: Arc::new(ForwarderPort::new(port, header)), quota })
        });
        let listeners: Vec<_> = listeners.collect::<Result<_, AgentError>>()?;
        let ports = listeners.iter().map(|listener| listener.port.clone()).collect();
        let traffic = Arc::new(Traffic { ports, ..Traffic::default() });
        let circuits = Circuits::new(max_streams, config.circuit_limits.as_ref());
        Ok(Self { listeners, traffic, circuits, connector: Arc::default() })
    }

    /// Returns the counters of the forwarded traffic.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// Returns the circuits of the clients.
    pub fn circuits(&self) -> Arc<Circuits> {
        self.circuits.clone()
    }

    /// Replaces the connector. Without this call, the forwarder connects to any address.
    pub fn connecting_with(self, connector: Arc<Connector>) -> Self {
        Self { connector, ..self }
    }

    /// Forwards streams forever.
    pub async fn run(self) -> Infallible {
        let accepting = self.listeners.iter().map(|listener| Box::pin(self.accept(listener)));
        select_all(accepting).await.0
    }

    async fn accept(&self, Listener { socket, port, quota }: &Listener) -> Infallible {
        let log = LogLimit::default();
        loop {
            let stream = match socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if let Some(Line { suppressed }) = log.line() {
                        tracing::warn!(port = port.number, %error, suppressed, "could not accept a stream");
                    }
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(permit) = quota.take() else {
                port.failed("refused a stream", &"too many streams are open");
                continue;
            };
            let open = OpenStream::new(self.traffic.clone(), port.clone(), permit);
            let (circuits, connector) = (self.circuits.clone(), self.connector.clone());
            tokio::spawn(async move { forward(stream, &open.port, &circuits, &connector).await });
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
async fn forward(mut stream: UnixStream, port: &ForwarderPort, circuits: &Arc<Circuits>, connector: &Connector) {
    let opening = match within(HEADER_TIMEOUT, port.take_header(&mut stream)).await {
        Ok(opening) => opening,
        Err(error) => return port.failed("refused a stream without a PROXY header", &error),
    };
    // The permit is held until the stream ends. Without a header, the circuit is unknown.
    let permit = match opening.circuit.map(|circuit| circuits.take(circuit)).transpose() {
        Ok(permit) => permit,
        // The target is not at fault, so the breach is not counted as a failure of the port.
        Err(breach) => return port.log_failure("refused a stream", &breach),
    };
    let target = match within(CONNECT_TIMEOUT, port.connect(connector)).await {
        Ok(target) => target,
        Err(error) => return port.failed("could not connect to the target", &error),
    };
    // Tor sends small cells, so waiting for more data would only add delay.
    let _ = target.set_nodelay(true);
    if let Err(error) = relay::copy_both_ways(stream, &opening.bytes, target, port, permit.as_ref()).await {
        tracing::debug!(port = port.number, %error, "a stream ended with an error");
    }
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
            idle_timeout: port.idle_timeout_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            failures: LogLimit::default(),
            doubt: Arc::default(),
            slow_after: Duration::from_secs(port.check.timeout_seconds.into()),
            open: AtomicU64::default(),
            opened: AtomicU64::default(),
            connect_failures: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
        }
    }

    /// Reads tor's header from a stream.
    async fn take_header(&self, stream: &mut UnixStream) -> io::Result<Opening> {
        if self.header == HeaderUse::Absent {
            return Ok(Opening { circuit: None, bytes: Vec::new() });
        }
        let (header, rest) = proxy_header::read(stream).await?;
        add(&self.bytes_in, &rest);
        let bytes = match self.header {
            HeaderUse::PassedOn(backend) => [header.marked(&backend).to_string().as_bytes(), &rest].concat(),
            HeaderUse::Removed | HeaderUse::Absent => rest,
        };
        Ok(Opening { circuit: Some(header.circuit()), bytes })
    }

    /// Connects to the target. A failed attempt, and one that takes long, cause a check of the
    /// target.
    async fn connect(&self, connector: &Connector) -> io::Result<TcpStream> {
        let mut attempt = pin!(connector.connect(&self.target));
        let Ok(result) = timeout(self.slow_after, &mut attempt).await else {
            self.doubt.notify_one();
            return attempt.await;
        };
        if result.is_err() {
            self.doubt.notify_one();
        }
        result
    }

    /// Counts a failed stream. Clients can cause any number of failures, so only some of them are
    /// logged as warnings.
    fn failed(&self, what: &str, reason: &dyn std::fmt::Display) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.log_failure(what, reason);
    }

    fn log_failure(&self, what: &str, reason: &dyn std::fmt::Display) {
        let (port, target) = (self.number, &self.target);
        if let Some(Line { suppressed }) = self.failures.line() {
            tracing::warn!(port, target, suppressed, "{what}: {reason}");
        } else {
            tracing::debug!(port, target, "{what}: {reason}");
        }
    }
}

/// The beginning of a stream.
struct Opening {
    /// The number of the client's circuit, if tor writes a PROXY header.
    circuit: Option<u32>,
    /// The bytes to send to the target first.
    bytes: Vec<u8>,
}

#[cfg(test)]
mod tests;
