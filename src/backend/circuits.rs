//! The rendezvous circuits of clients, as tor's PROXY header names them, and their limits.
//!
//! A client can open as many streams on a circuit as it likes. Streams beyond a limit end at once,
//! and a circuit that breaches its limits repeatedly is closed. The bytes of a circuit are only
//! slowed down, because a fast download is no abuse.
//!
//! A circuit is remembered for a while after its last stream. Otherwise a client could evade the
//! limits by ending its streams, and the app could not ask for a circuit that it finds in a log.

mod bucket;
mod closing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::link::CircuitLimits;
use bucket::{Bucket, Rate};
use closing::CloseQueue;
pub use closing::{Cause, CloseRequest};

/// The part of all streams that one circuit may have open, as a divisor.
const CIRCUIT_SHARE: usize = 8;
/// A circuit may breach its limits 20 times, and one breach is forgiven each second. A browser that
/// tries a few more streams than allowed does not reach this number.
const BREACHES: Rate = Rate::new(1, 20);
/// The maximum number of circuits that are remembered. Each takes about 128 bytes.
const MAX_CIRCUITS: usize = 100_000;
/// The number of circuits below which nothing is forgotten early.
const FEW_CIRCUITS: usize = 1024;
/// The time for which a circuit without streams is remembered, in nanoseconds.
const REMEMBERED: u64 = 600 * 1_000_000_000;
/// The longest time that the app waits for tor to close a circuit. It is shorter than a publisher's
/// patience with an agent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The circuits of all clients. Memory is bounded, however many circuits there are.
#[derive(Debug)]
pub struct Circuits {
    start: Instant,
    limits: Limits,
    table: Mutex<Table>,
    queue: CloseQueue,
    counters: Counters,
}

/// The numbers that the metrics show.
#[derive(Debug, Default)]
pub struct Counters {
    /// The number of streams refused because too many streams of their circuit were open.
    pub open_breaches: AtomicU64,
    /// The number of streams refused because their circuit opened streams too fast.
    pub rate_breaches: AtomicU64,
    /// The number of pauses of streams whose circuit moved too many bytes.
    pub pauses: AtomicU64,
    /// The number of circuits closed after repeated breaches.
    pub closed_by_limits: AtomicU64,
    /// The number of circuits closed at the request of the app.
    pub closed_by_request: AtomicU64,
}

#[derive(Debug)]
struct Limits {
    open: usize,
    streams: Option<Rate>,
    bytes: Option<Rate>,
    /// True if circuits are closed after repeated breaches.
    closes: bool,
}

/// A limit that a new stream would breach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Too many streams are open.
    #[error("too many streams of one circuit are open")]
    OpenStreams,
    /// Too many streams were opened in a short time.
    #[error("one circuit opens streams too fast")]
    NewStreams,
}

/// The outcome of the app's request to close a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// Tor closed the circuit.
    Closed,
    /// No such circuit has had a stream lately, or tor no longer has the circuit.
    Unknown,
    /// Tor did not answer in time.
    NoAnswer,
}

#[derive(Debug)]
struct Table {
    circuits: HashMap<u32, Circuit>,
    /// The number of circuits at which forgotten ones are removed.
    sweep_at: usize,
    /// The number of times that all circuits were forgotten.
    era: u64,
}

/// The state of one circuit. Times are nanoseconds after the start.
#[derive(Debug, Default)]
struct Circuit {
    open: usize,
    streams: Bucket,
    breaches: Bucket,
    pace: Option<Arc<Pace>>,
    /// The time until which the circuit is remembered if it has no streams.
    remembered_until: u64,
}

impl Circuit {
    fn is_forgotten(&self, now: u64) -> bool {
        self.open == 0
            && self.remembered_until <= now
            && self.streams.is_full(now)
            && self.pace.as_ref().is_none_or(|pace| pace.bucket().is_full(now))
    }
}

impl Table {
    fn new() -> Self {
        Self { circuits: HashMap::new(), sweep_at: FEW_CIRCUITS, era: 0 }
    }

    /// Returns the state of a circuit, and makes room for a new one first.
    fn circuit(&mut self, number: u32, now: u64) -> &mut Circuit {
        if self.circuits.len() >= self.sweep_at && !self.circuits.contains_key(&number) {
            self.sweep(now);
        }
        self.circuits.entry(number).or_default()
    }

    /// Removes the circuits that need not be remembered. If too many remain, only those with open
    /// streams are kept, whose number is limited by the streams of the backend. The next sweep
    /// follows after at least as many new circuits as this one has kept, so a circuit costs
    /// constant time on average.
    fn sweep(&mut self, now: u64) {
        self.circuits.retain(|_, circuit| !circuit.is_forgotten(now));
        if self.circuits.len() > MAX_CIRCUITS / 2 {
            self.circuits.retain(|_, circuit| circuit.open > 0);
        }
        self.sweep_at = (2 * self.circuits.len()).clamp(FEW_CIRCUITS, MAX_CIRCUITS);
        self.circuits.shrink_to(self.sweep_at);
    }
}

impl Circuits {
    /// Creates the state, given the maximum number of streams of all circuits and the limits of the
    /// configuration. Without limits, a circuit may use an eighth of all streams.
    pub fn new(max_streams: usize, limits: Option<&CircuitLimits>) -> Arc<Self> {
        let share = (max_streams / CIRCUIT_SHARE).max(1);
        let open = limits.map_or(share, |limits| share.min(usize::try_from(limits.open_streams).unwrap_or(share)));
        let streams = limits.and_then(|limits| limits.new_streams);
        let limits = Limits {
            open,
            streams: streams.map(|rate| Rate::new(rate.per_second, rate.burst)),
            // A full second of bytes may pass at once.
            bytes: limits.and_then(|limits| limits.bytes_per_second).map(|bytes| Rate::new(bytes, bytes)),
            closes: limits.is_some(),
        };
        Arc::new(Self {
            start: Instant::now(),
            limits,
            table: Mutex::new(Table::new()),
            queue: CloseQueue::default(),
            counters: Counters::default(),
        })
    }

    /// Returns a permit for a stream of this circuit, which is held until the stream ends, or the
    /// limit that the stream would breach.
    pub fn take(self: &Arc<Self>, number: u32) -> Result<CircuitPermit, Breach> {
        let now = self.now();
        let mut table = self.table();
        let circuit = table.circuit(number, now);
        circuit.remembered_until = now.saturating_add(REMEMBERED);
        if circuit.open >= self.limits.open {
            return Err(self.breached(Breach::OpenStreams, number, circuit, now));
        }
        if self.limits.streams.is_some_and(|rate| !circuit.streams.take(rate, now)) {
            return Err(self.breached(Breach::NewStreams, number, circuit, now));
        }
        circuit.open += 1;
        let pace =
            self.limits.bytes.map(|rate| circuit.pace.get_or_insert_with(|| Pace::new(rate, self.start)).clone());
        Ok(CircuitPermit { circuits: self.clone(), number, era: table.era, pace })
    }

    /// Counts a breach, and requests to close the circuit if there were too many. If the request is
    /// not accepted, the next breach repeats it.
    fn breached(&self, breach: Breach, number: u32, circuit: &mut Circuit, now: u64) -> Breach {
        let counter = match breach {
            Breach::OpenStreams => &self.counters.open_breaches,
            Breach::NewStreams => &self.counters.rate_breaches,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let request = || CloseRequest { circuit: number, cause: Cause::Limits, answer: None };
        if self.limits.closes && !circuit.breaches.take(BREACHES, now) && self.queue.push(request()) {
            circuit.breaches = Bucket::default();
        }
        breach
    }

    /// Closes a circuit at the request of the app. Only circuits that have had a stream lately are
    /// closed, because tor numbers all kinds of circuits alike, and begins again when it restarts.
    pub async fn close(&self, number: u32) -> Closure {
        if !self.knows(number) {
            return Closure::Unknown;
        }
        let (answer, answered) = oneshot::channel();
        let request = CloseRequest { circuit: number, cause: Cause::Request, answer: Some(answer) };
        if !self.queue.push(request) {
            return Closure::NoAnswer;
        }
        match timeout(CLOSE_TIMEOUT, answered).await {
            Ok(Ok(true)) => Closure::Closed,
            Ok(Ok(false)) => Closure::Unknown,
            Ok(Err(_)) | Err(_) => Closure::NoAnswer,
        }
    }

    /// Waits for the next request to close a circuit.
    pub async fn next_request(&self) -> CloseRequest {
        self.queue.next().await
    }

    /// Records tor's answer to a request: true if tor closed the circuit.
    pub fn answered(&self, request: CloseRequest, closed: bool) {
        if closed {
            let counter = match request.cause {
                Cause::Limits => &self.counters.closed_by_limits,
                Cause::Request => &self.counters.closed_by_request,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(answer) = request.answer {
            // The app may have stopped waiting.
            let _ = answer.send(closed);
        }
    }

    /// Forgets all requests and all circuits, because the connection to tor was lost or is new. Tor
    /// may have restarted, and then gives their numbers to other circuits.
    pub fn forget(&self) {
        self.fail_requests();
        let mut table = self.table();
        *table = Table { era: table.era + 1, ..Table::new() };
    }

    /// Drops all requests to close circuits, because no tor is connected.
    pub fn fail_requests(&self) {
        self.queue.clear();
    }

    /// Returns the numbers that the metrics show.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the number of circuits with open streams.
    pub fn open(&self) -> usize {
        self.table().circuits.values().filter(|circuit| circuit.open > 0).count()
    }

    fn knows(&self, number: u32) -> bool {
        let now = self.now();
        self.table().circuits.get(&number).is_some_and(|circuit| circuit.open > 0 || circuit.remembered_until > now)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        nanoseconds_since(self.start)
    }
}

fn nanoseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A permit for a stream of a circuit, which is returned when this value is dropped.
#[derive(Debug)]
pub struct CircuitPermit {
    circuits: Arc<Circuits>,
    number: u32,
    /// The era in which the stream began. In another era, the number may stand for another circuit.
    era: u64,
    pace: Option<Arc<Pace>>,
}

impl CircuitPermit {
    /// Counts bytes of the stream. Returns for how long the stream must pause.
    pub fn moved(&self, bytes: usize) -> Duration {
        let pause = self.pace.as_ref().map_or(Duration::ZERO, |pace| pace.moved(bytes as u64));
        if !pause.is_zero() {
            self.circuits.counters.pauses.fetch_add(1, Ordering::Relaxed);
        }
        pause
    }
}

impl Drop for CircuitPermit {
    fn drop(&mut self) {
        let now = self.circuits.now();
        let mut table = self.circuits.table();
        if table.era == self.era
            && let Some(circuit) = table.circuits.get_mut(&self.number)
        {
            circuit.open = circuit.open.saturating_sub(1);
            circuit.remembered_until = now.saturating_add(REMEMBERED);
        }
    }
}

/// The bytes that the streams of one circuit may move together.
#[derive(Debug)]
struct Pace {
    rate: Rate,
    start: Instant,
    bucket: Mutex<Bucket>,
}

impl Pace {
    fn new(rate: Rate, start: Instant) -> Arc<Self> {
        Arc::new(Self { rate, start, bucket: Mutex::default() })
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, bytes: u64) -> Duration {
        let now = nanoseconds_since(self.start);
        self.bucket().owe(self.rate, bytes, now)
    }
}

#[cfg(test)]
mod tests;
