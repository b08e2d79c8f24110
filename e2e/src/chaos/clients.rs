//! The clients: real tors, some that keep their descriptors, and some that forget theirs before each request.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::process::Processes;
use crate::torclient::TorClient;
use crate::torcontrol::Control;
use crate::wait::{Seen, until};

/// tor takes one NEWNYM in 10 seconds, and puts the next one off.
const NEWNYM_EVERY: Duration = Duration::from_millis(10_500);
/// How many tors start at a time.
const AT_A_TIME: usize = 8;
/// Clients that keep their descriptors.
const CACHED: usize = 4;

/// A client that can be made to forget every descriptor (and all it knows of introduction points), by NEWNYM.
#[derive(Debug)]
pub struct Forgetful {
    client: TorClient,
    control: Control,
    forgot: Option<Instant>,
}

impl Forgetful {
    async fn of(client: TorClient) -> Result<Self> {
        let control = Control::open(&client.tor().control_socket(), &client.tor().cookie()).await?;
        Ok(Self { client, control, forgot: None })
    }

    /// Forgets.
    pub async fn forget(&mut self) -> Result<()> {
        self.forgot = Some(Instant::now());
        ensure!(self.control.command("SIGNAL NEWNYM").await?, "tor refuses NEWNYM");
        Ok(())
    }

    /// Where it listens.
    pub fn socks(&self) -> &str {
        self.client.socks()
    }

    fn may_forget(&self) -> bool {
        self.forgot.is_none_or(|at| at.elapsed() >= NEWNYM_EVERY)
    }
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    /// Those that are not at work; the one that has waited longest comes first.
    idle: Mutex<VecDeque<Forgetful>>,
    cached: tokio::sync::Mutex<Vec<Forgetful>>,
    cached_socks: Vec<String>,
}

impl Clients {
    /// Starts so many that forget, and some that do not, with folders in `dir`; their names begin with `prefix`.
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
                Forgetful::of(TorClient::fresh(processes, &process, &dir, torrc_lines, None).await?).await
            };
            started.extend(try_join_all(names.iter().map(start)).await?);
        }
        let idle = started.split_off(CACHED).into();
        let cached_socks = started.iter().map(|client| client.socks().to_owned()).collect();
        Ok(Self { idle: Mutex::new(idle), cached: tokio::sync::Mutex::new(started), cached_socks })
    }

    /// One that forgets, to be given back; None when all are at work or forgot a moment ago.
    pub fn take(&self) -> Option<Forgetful> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().position(Forgetful::may_forget)?;
        idle.remove(at)
    }

    /// Gives one back.
    pub fn give_back(&self, client: Forgetful) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(client);
    }

    /// The SOCKS port of one that keeps its descriptors, by turns.
    pub fn cached(&self, number: usize) -> &str {
        &self.cached_socks[number % self.cached_socks.len()]
    }

    /// Has those that keep their descriptors fetch the ones of now. Both services are reachable when it returns.
    pub async fn refresh(&self, onions: [&str; 2]) -> Result<()> {
        let mut cached = self.cached.lock().await;
        let refresh = async |client: &mut Forgetful| {
            until("a client may forget", NEWNYM_EVERY * 2, async || {
                Ok(if client.may_forget() { Seen::Yes(()) } else { Seen::not_yet("it forgot a moment ago") })
            })
            .await?;
            client.forget().await?;
            for onion in onions {
                reach(client, onion).await?;
            }
            anyhow::Ok(())
        };
        try_join_all(cached.iter_mut().map(refresh)).await?;
        Ok(())
    }

    /// Ends them all.
    pub async fn remove(&self) -> Result<()> {
        let idle: Vec<_> = self.idle.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        let cached: Vec<_> = self.cached.lock().await.drain(..).collect();
        try_join_all(idle.into_iter().chain(cached).map(|client| client.client.remove())).await?;
        Ok(())
    }
}

/// A new service's descriptor may not be there yet, and tor asks an HSDir again only after a while.
async fn reach(client: &Forgetful, onion: &str) -> Result<()> {
    let mut attempt = 0;
    until(&format!("{onion} answers"), Duration::from_secs(120), async || {
        attempt += 1;
        let answer = crate::torclient::connect(client.socks(), onion, &format!("reach {attempt}")).await;
        Ok(match answer.context("connect") {
            Ok(_) => Seen::Yes(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}
