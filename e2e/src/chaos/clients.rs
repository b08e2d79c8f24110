//! The Tor clients of a chaos run. Some keep the descriptors that they have fetched; the others
//! drop theirs before each request.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::process::Processes;
use crate::torclient::TorClient;
use crate::torcontrol::Control;
use crate::wait::{Seen, until};

/// The shortest interval between two NEWNYM signals. tor acts on one NEWNYM every 10 seconds and
/// delays any further one.
const NEWNYM_EVERY: Duration = Duration::from_millis(10_500);
/// The time limit for a service to be published. After a fault of the relays, the plain service's
/// tor may have used up its introduction circuits for a time of five minutes (C tor's
/// `INTRO_CIRC_RETRY_PERIOD`).
const PUBLISHED: Duration = Duration::from_secs(420);
/// The number of tor clients that are started concurrently.
const AT_A_TIME: usize = 8;
/// The number of clients that keep their descriptors.
const CACHED: usize = 4;

/// A client that can be reset with NEWNYM, which makes it drop all descriptors and everything that
/// it knows about introduction points.
#[derive(Debug)]
pub struct ResettableClient {
    client: TorClient,
    control: Control,
    forgot: Option<Instant>,
}

impl ResettableClient {
    async fn of(client: TorClient) -> Result<Self> {
        let control = Control::open(&client.tor().control_socket(), &client.tor().cookie()).await?;
        Ok(Self { client, control, forgot: None })
    }

    /// Makes the client drop all its descriptors.
    pub async fn forget(&mut self) -> Result<()> {
        self.forgot = Some(Instant::now());
        ensure!(self.control.command("SIGNAL NEWNYM").await?, "tor rejected NEWNYM");
        Ok(())
    }

    /// Resets the client until it reaches all of these services with the descriptors that it has
    /// fetched since. A service may not be published yet, and tor does not ask an HSDir twice
    /// within minutes unless it is reset.
    async fn learn(&mut self, onions: [&str; 2]) -> Result<()> {
        let mut attempt = 0;
        until("a client reaches both services", PUBLISHED, async || {
            if !self.may_forget() {
                return Ok(Seen::not_yet("it was reset a moment ago"));
            }
            self.forget().await?;
            attempt += 1;
            for onion in onions {
                let answer = crate::torclient::connect(self.socks(), onion, &format!("learn {attempt}")).await;
                if let Err(error) = answer {
                    return Ok(Seen::NotYet(format!("{onion}: {error:#}")));
                }
            }
            Ok(Seen::Yes(()))
        })
        .await
    }

    /// Returns the address of the client's SOCKS port.
    pub fn socks(&self) -> &str {
        self.client.socks()
    }

    fn may_forget(&self) -> bool {
        self.forgot.is_none_or(|at| at.elapsed() >= NEWNYM_EVERY)
    }
}

/// All Tor clients of a chaos run.
#[derive(Debug)]
pub struct Clients {
    /// The clients that are not in use. The one that has been idle the longest comes first.
    idle: Mutex<VecDeque<ResettableClient>>,
    cached: tokio::sync::Mutex<Vec<ResettableClient>>,
    cached_socks: Vec<String>,
}

impl Clients {
    /// Starts `fresh` clients that drop their descriptors before each request, and a few that keep
    /// theirs. Their folders are created in `dir`, and their process names begin with `prefix`.
    pub async fn start(
        processes: &Processes,
        prefix: &str,
        dir: &Path,
        torrc_lines: &str,
        fresh: usize,
    ) -> Result<Self> {
        let names: Vec<String> = (0..fresh + CACHED).map(|number| format!("client{number}")).collect();
        let mut started = Vec::new();
        for names in names.chunks(AT_A_TIME) {
            let start = async |name: &String| {
                let (process, dir) = (format!("{prefix}-{name}"), dir.join(name));
                ResettableClient::of(TorClient::fresh(processes, &process, &dir, torrc_lines, None).await?).await
            };
            started.extend(try_join_all(names.iter().map(start)).await?);
        }
        let idle = started.split_off(CACHED).into();
        let cached_socks = started.iter().map(|client| client.socks().to_owned()).collect();
        Ok(Self { idle: Mutex::new(idle), cached: tokio::sync::Mutex::new(started), cached_socks })
    }

    /// Takes an idle client that can be reset now. The caller must return it with
    /// [`Self::give_back`]. Returns `None` if every client is in use or was reset too recently.
    pub fn take(&self) -> Option<ResettableClient> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().position(ResettableClient::may_forget)?;
        idle.remove(at)
    }

    /// Puts a client that was taken with [`Self::take`] back into the pool of idle clients.
    pub fn give_back(&self, client: ResettableClient) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(client);
    }

    /// Returns the address of the SOCKS port of a client that keeps its descriptors. Consecutive
    /// values of `number` select these clients in turn.
    pub fn cached(&self, number: usize) -> &str {
        &self.cached_socks[number % self.cached_socks.len()]
    }

    /// Resets the clients that keep their descriptors, so that they fetch the current descriptors.
    /// Returns once all of these clients can reach both services.
    pub async fn refresh(&self, onions: [&str; 2]) -> Result<()> {
        let mut cached = self.cached.lock().await;
        try_join_all(cached.iter_mut().map(|client| client.learn(onions))).await?;
        Ok(())
    }

    /// Stops all clients and removes their state.
    pub async fn remove(&self) -> Result<()> {
        let idle: Vec<_> = self.idle.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        let cached: Vec<_> = self.cached.lock().await.drain(..).collect();
        try_join_all(idle.into_iter().chain(cached).map(|client| client.client.remove())).await?;
        Ok(())
    }
}
