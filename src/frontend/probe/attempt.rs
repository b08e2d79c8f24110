//! Makes the attempts of a probe: fetches the descriptor, connects, and checks the target.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::link::{Access, Fetched};
use super::verdict::{self, Failure, Stage};
use super::{Job, Measured, target};
use crate::consensus::Fingerprint;
use crate::control::socks::{self, SocksError};
use crate::crd::ProbeResult;
use crate::frontend::clock::{self, Clock};
use crate::frontend::tor::{Fetch, FetchError};
use crate::onion::{ClientSecretKey, OnionAddress};

/// The maximum number of attempts of one probe. The circuits of a single attempt fail by chance
/// now and then, as those of any client do.
const ATTEMPTS: u32 = 2;
/// The time after which an HSDir that does not answer is given up.
const FETCH: Duration = Duration::from_secs(20);
/// The time after which the frontend's tor gives up a stream (`SocksTimeout`, 30 s), minus the
/// second by which tor's clock can be ahead. The uploads need so short a time.
const GIVES_UP: Duration = Duration::from_secs(29);
/// The time within which tor must list its circuits.
const LIST: Duration = Duration::from_secs(5);

/// The client that makes the attempts.
pub(super) struct Attempts {
    /// The address that is probed.
    pub(super) address: OnionAddress,
    /// The key with which the client reads the descriptor if discovery is restricted.
    pub(super) client: ClientSecretKey,
    /// The unix socket of tor's SOCKS port.
    pub(super) socket: PathBuf,
    pub(super) clock: Clock,
    /// The answers of HSDirs.
    pub(super) fetched: mpsc::Receiver<Fetched>,
}

impl Attempts {
    /// Makes attempts until one succeeds or there are no more. Returns the last failure.
    pub(super) async fn make(&mut self, job: &Job, port: u16) -> (Result<(), Failure>, Measured) {
        let mut measured = Measured::default();
        if job.access == Access::Full {
            let message = "the service has as many authorized clients as a descriptor can hold, which leaves no place \
                 for the probe's own client";
            return (Err(Failure::not_made(message)), measured);
        }
        if job.access == Access::Key && !job.tor.use_key(self.client.clone()) {
            return (Err(no_tor()), measured);
        }
        let mut outcome = Ok(());
        for number in 1..=ATTEMPTS {
            measured.attempts = number;
            outcome = self.attempt(job, port, &mut measured).await;
            if outcome.is_ok() {
                break;
            }
        }
        (outcome, measured)
    }

    async fn attempt(&mut self, job: &Job, port: u16, measured: &mut Measured) -> Result<(), Failure> {
        let limit = job.timeout() / ATTEMPTS;
        let isolation = HEXLOWER.encode(&clock::random::<16>());
        let mut stage = Stage::default();
        let outcome = timeout(limit, self.connect(job, port, &isolation, &mut stage, measured)).await;
        match (outcome, stage) {
            (Ok(outcome), _) => outcome,
            (Err(_), Stage::Descriptor) => {
                Err(Failure::not_made(format!("no HSDir returned the descriptor within {} s", limit.as_secs())))
            }
            (Err(_), Stage::Connection) => {
                let result = self.judge(job, &isolation).await;
                Err(Failure::new(result, format!("there was no connection within {} s", limit.as_secs())))
            }
            (Err(_), Stage::Target) => {
                let message = format!("the target did not answer within {} s", limit.as_secs());
                Err(Failure::new(ProbeResult::TargetFailed, message))
            }
        }
    }

    async fn connect(
        &mut self,
        job: &Job,
        port: u16,
        isolation: &str,
        stage: &mut Stage,
        measured: &mut Measured,
    ) -> Result<(), Failure> {
        let begun = self.clock.now().elapsed;
        self.fetch(job, measured).await?;
        let fetched = self.clock.now().elapsed;
        measured.descriptor = Some(fetched.saturating_sub(begun));

        *stage = Stage::Connection;
        let mut stream = self.open(job, port, isolation).await?;

        *stage = Stage::Target;
        match job.probe.http.as_ref().filter(|http| http.port == port) {
            Some(http) => {
                let host = if port == 80 { self.address.to_string() } else { format!("{}:{port}", self.address) };
                measured.http_status = Some(target::answers(stream, http, &host).await?);
            }
            None => target::accepts(&mut stream).await?,
        }
        measured.connection = Some(self.clock.now().elapsed.saturating_sub(fetched));
        Ok(())
    }

    /// Fetches the descriptor from one of the HSDirs that clients ask. The descriptor replaces an
    /// older one in tor's cache, and the following connection uses the cache.
    async fn fetch(&mut self, job: &Job, measured: &mut Measured) -> Result<(), Failure> {
        let period = job.network.client_period();
        let placements = job.network.fetch_hsdirs(&self.address.blind(period.period), &period);
        let mut hsdirs: Vec<_> = placements.into_iter().map(|placement| placement.relay).collect();
        hsdirs.shuffle(&mut StdRng::from_seed(clock::random()));
        let (mut denials, mut errors) = (0, Vec::new());
        for hsdir in hsdirs {
            // Answers that wait already belong to earlier requests, and to those of the driver.
            while self.fetched.try_recv().is_ok() {}
            if !job.tor.fetch(Fetch { address: self.address, hsdir }) {
                return Err(no_tor());
            }
            measured.fetches += 1;
            match self.answer(hsdir).await {
                Ok(_) => return Ok(()),
                Err(FetchError::NotFound) => denials += 1,
                Err(error) => errors.push(error.to_string()),
            }
        }
        Err(verdict::without_descriptor(denials, &errors))
    }

    /// Waits for the answer of an HSDir. Answers of other HSDirs belong to earlier requests, and to
    /// those of the driver.
    async fn answer(&mut self, hsdir: Fingerprint) -> Result<Arc<str>, FetchError> {
        let answer = async {
            loop {
                match self.fetched.recv().await {
                    Some((from, result)) if from == hsdir => return result,
                    Some(_) => {}
                    // The publisher has ended, and so will this task.
                    None => std::future::pending().await,
                }
            }
        };
        timeout(FETCH, answer).await.unwrap_or(Err(FetchError::NoAnswer))
    }

    /// Opens a stream to a port of the address. As no other stream has this isolation, nothing else
    /// uses its circuits. If tor gives up the stream, another one waits for the same circuits until
    /// the attempt is over.
    async fn open(&self, job: &Job, port: u16, isolation: &str) -> Result<UnixStream, Failure> {
        loop {
            let begun = self.clock.now().elapsed;
            let mut stream = UnixStream::connect(&self.socket).await.map_err(|error| {
                Failure::not_made(format!("no connection to tor's SOCKS port at {}: {error}", self.socket.display()))
            })?;
            let refusal = match socks::connect(&mut stream, isolation, &self.address.to_string(), port).await {
                Ok(()) => return Ok(stream),
                Err(SocksError::Refused(refusal)) => refusal,
                Err(error) => return Err(Failure::not_made(error.to_string())),
            };
            let result = match verdict::of_refusal(refusal) {
                Some(result) => result,
                None if self.clock.now().elapsed.saturating_sub(begun) >= GIVES_UP => continue,
                None => self.judge(job, isolation).await,
            };
            return Err(Failure::new(result, refusal.to_string()));
        }
    }

    /// Judges by the attempt's own circuits which part of the connection is missing.
    async fn judge(&self, job: &Job, isolation: &str) -> ProbeResult {
        match timeout(LIST, job.tor.circuits()).await {
            Ok(Some(circuits)) => verdict::of_circuits(&circuits, isolation),
            Ok(None) | Err(_) => ProbeResult::NotMade,
        }
    }
}

fn no_tor() -> Failure {
    Failure::not_made("the connection to the frontend's tor is lost or overloaded")
}
