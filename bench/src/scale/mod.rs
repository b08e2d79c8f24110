//! The operator with many objects on a real API server: how fast, beside a bare client that applies the same children; how
//! many requests; how much memory; and that it writes nothing at rest. No pods run.

mod convergence;
mod load;
mod play;
mod requests;
mod server;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use onionbalance_e2e::process::Processes;
use tokio::time::{Instant, sleep};

use self::convergence::{Convergence, all_ready};
use self::requests::Requests;
use self::server::{Server, create_namespace};
use crate::memory::{processor_time, resident};
use crate::publisher::program;
use crate::rounds::{figure, median};

const NAMESPACE: &str = "scale";
const BARE: &str = "bare";
const OPERATOR: &str = "operator";
/// The operator and the bare client work in turn, now the one first, now the other; medians count.
const ROUNDS: usize = 9;
/// A look repeats itself after 60 s, which rest includes.
const REST: Duration = Duration::from_secs(75);
/// A publisher's own interval is shorter; the operator minds only what is older than a minute.
const RENEWAL: Duration = Duration::from_secs(15);

/// Prints the figures, with the API server of this folder, and fails where one misses its mark.
pub async fn run(programs: &Path, count: usize) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("onionbalance-scale").tempdir()?;
    let processes = Processes::open(dir.path())?;
    let run = measure(&processes, dir.path(), programs, count).await;
    if run.is_err() {
        for name in processes.names()? {
            eprintln!("the log of {name}: {}", processes.log(&name).display());
        }
        let _ = dir.keep();
    }
    processes.stop_all().await?;
    run
}

async fn measure(processes: &Processes, dir: &Path, programs: &Path, count: usize) -> Result<()> {
    ensure!(count >= ROUNDS, "at least {ROUNDS} objects");
    let server = Server::start(processes, &dir.join("server"), programs).await?;
    let administrator = server.administrator()?;
    for namespace in [NAMESPACE, BARE] {
        create_namespace(&administrator, namespace).await?;
    }
    load::create_target(&administrator, NAMESPACE).await?;
    let mut scene = Scene {
        processes,
        convergence: Convergence::watch(&administrator, NAMESPACE),
        with_rights: server.operator()?,
        administrator,
        operator: start_operator(processes, &server)?,
        converging: Requests::default(),
    };
    let (ours, bare) = scene.race(count).await?;
    play::all_run(&scene.administrator, NAMESPACE, count).await?;
    all_ready(processes, &scene.administrator, NAMESPACE, count).await?;
    scene.settle().await?;
    let most = resident(scene.operator)?.most;

    eprintln!("the operator starts anew, and rests");
    processes.stop(OPERATOR).await?;
    scene.operator = start_operator(processes, &server)?;
    scene.settle().await?;
    let rest = scene.rest(count).await?;
    processes.check(OPERATOR)?;
    let rss = resident(scene.operator)?;

    eprintln!(
        "requests while {count} objects converged:\n{}at rest:\n{}",
        scene.converging.describe(),
        rest.describe()
    );
    let ratio = compare(&ours, &bare);
    let peak = rss.most.max(most);
    figure("operator_rss_mib", rss.now, "MiB");
    figure("operator_rss_peak_mib", peak, "MiB");
    figure("requests_per_object", as_f64(scene.converging.on_resources()) / as_f64(count), "");
    let writes = rest.writes_but_leases();
    figure("writes_at_rest", as_f64(writes), "");
    ensure!(writes == 0, "something was written at rest");
    ensure!(peak < 100.0, "the operator takes more than 100 MiB");
    ensure!(ratio >= 0.7, "the operator is slower than 0.7 times the bare client");
    Ok(())
}

/// One half of a round.
struct Half {
    objects: usize,
    /// Until the last child was there, and the status that says so.
    took: Duration,
    /// The processors' time that the operator took, or this process as the bare client, until it rested.
    client: Duration,
    /// That of the API server and etcd meanwhile.
    server: Duration,
}

struct Scene<'a> {
    processes: &'a Processes,
    convergence: Convergence,
    administrator: Client,
    /// With the operator's rights.
    with_rights: Client,
    /// Its process id.
    operator: u32,
    /// What the operator asked for in its halves.
    converging: Requests,
}

impl Scene<'_> {
    /// All rounds: the operator's halves, and the bare client's.
    async fn race(&mut self, count: usize) -> Result<(Vec<Half>, Vec<Half>)> {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let which = count * round / ROUNDS..count * (round + 1) / ROUNDS;
            if round % 2 == 0 {
                bare.push(self.bare(which.clone()).await?);
                ours.push(self.ours(which).await?);
            } else {
                ours.push(self.ours(which.clone()).await?);
                bare.push(self.bare(which).await?);
            }
            if let (Some(ours), Some(bare)) = (ours.last(), bare.last()) {
                eprintln!(
                    "round {} of {ROUNDS}: {} objects; the operator {:.2} s, the bare client {:.2} s",
                    round + 1,
                    ours.objects,
                    ours.took.as_secs_f64(),
                    bare.took.as_secs_f64()
                );
            }
        }
        Ok((ours, bare))
    }

    /// The operator's half, which begins with the making of the objects.
    async fn ours(&mut self, which: Range<usize>) -> Result<Half> {
        self.settle().await?;
        let (objects, end) = (which.len(), which.end);
        let asked = Requests::count(&self.administrator).await?;
        let (client, server) = (processor_time(self.operator)?, self.server_time()?);
        let begun = Instant::now();
        load::create_objects(&self.administrator, NAMESPACE, which).await?;
        self.convergence.reached(self.processes, end).await?;
        let took = begun.elapsed();
        self.settle().await?;
        let (client, server) =
            (processor_time(self.operator)?.saturating_sub(client), self.server_time()?.saturating_sub(server));
        let asked = Requests::count(&self.administrator).await?.since(&asked);
        self.converging =
            std::mem::take(&mut self.converging).and(asked.but_creating(objects, "onionbalancedservices"));
        Ok(Half { objects, took, client, server })
    }

    async fn bare(&mut self, which: Range<usize>) -> Result<Half> {
        self.settle().await?;
        let manifests = load::bare(BARE, which)?;
        let objects = manifests.len();
        let us = std::process::id();
        let (client, server) = (processor_time(us)?, self.server_time()?);
        let begun = Instant::now();
        load::apply_bare(&self.with_rights, BARE, manifests).await?;
        Ok(Half {
            objects,
            took: begun.elapsed(),
            client: processor_time(us)?.saturating_sub(client),
            server: self.server_time()?.saturating_sub(server),
        })
    }

    fn server_time(&self) -> Result<Duration> {
        let time = |name| processor_time(u32::try_from(self.processes.pid(name).context("the API server runs")?)?);
        Ok(time("kube-apiserver")? + time("etcd")?)
    }

    /// Waits until the operator has nothing to do: hardly any of a processor's time in a second.
    async fn settle(&self) -> Result<()> {
        const HARDLY: Duration = Duration::from_millis(20);
        loop {
            let before = processor_time(self.operator)?;
            sleep(Duration::from_secs(1)).await;
            self.processes.check(OPERATOR)?;
            if processor_time(self.operator)?.saturating_sub(before) <= HARDLY {
                return Ok(());
            }
        }
    }

    /// What is asked for while nothing happens but that publishers renew their Leases.
    async fn rest(&self, count: usize) -> Result<Requests> {
        let start = Requests::count(&self.administrator).await?;
        let end = Instant::now() + REST;
        while Instant::now() < end {
            play::renew_leases(&self.administrator, NAMESPACE, count).await?;
            sleep(RENEWAL.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Ok(Requests::count(&self.administrator).await?.since(&start))
    }
}

/// Prints what the halves were like, and gives the ratio of their rates.
fn compare(ours: &[Half], bare: &[Half]) -> f64 {
    let rate = |half: &Half| as_f64(half.objects) / half.took.as_secs_f64();
    let each = |time: Duration, half: &Half| time.as_secs_f64() * 1000.0 / as_f64(half.objects);
    let figures = |name: &str, halves: &[Half]| {
        figure(&format!("{name}objects_per_s"), median(halves.iter().map(rate).collect()), "1/s");
        let client = median(halves.iter().map(|half| each(half.client, half)).collect());
        let server = median(halves.iter().map(|half| each(half.server, half)).collect());
        figure(&format!("{name}client_cpu_ms_per_object"), client, "ms");
        figure(&format!("{name}server_cpu_ms_per_object"), server, "ms");
    };
    figures("", ours);
    figures("bare_", bare);
    let ratio = median(ours.iter().zip(bare).map(|(ours, bare)| rate(ours) / rate(bare)).collect());
    figure("objects_to_bare", ratio, "");
    ratio
}

fn start_operator(processes: &Processes, server: &Server) -> Result<u32> {
    let mut command = program()?;
    command.args(["operator", "--tor-image", load::TOR_IMAGE, "--operator-image", load::OPERATOR_IMAGE]);
    command.args(["--probe-port", "0", "--metrics-port", "0"]).env("KUBECONFIG", server.operator_kubeconfig()?);
    processes.start(OPERATOR, &mut command)?;
    u32::try_from(processes.pid(OPERATOR).context("the operator ended at once")?).map_err(Into::into)
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
