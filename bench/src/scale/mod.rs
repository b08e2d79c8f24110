//! The benchmark of the operator with many objects on a real API server, without any running pods.
//! It measures the operator's requests and memory, and checks that the operator writes nothing
//! while nothing changes. It also compares the operator's speed with that of a bare client that
//! applies the same children.

mod convergence;
mod load;
mod play;
mod requests;
mod server;

use std::ops::{Div, Range};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::process::Processes;
use onionbalance_operator::operator::{Discovery, Served};
use tokio::time::{Instant, sleep};

use self::convergence::{Convergence, all_ready};
use self::requests::Requests;
use self::server::{ApiServer, create_namespace};
use crate::memory::{processor_time, resident};
use crate::publisher::program;
use crate::report::Report;
use crate::rounds::{median, median_ratio};
use crate::targets::{self, Benchmark};

const NAMESPACE: &str = "scale";
const BARE: &str = "bare";
const OPERATOR: &str = "operator";
/// The number of rounds. The medians of all rounds are reported. The bare client goes first in one
/// round and the operator in the next.
const ROUNDS: usize = 9;
/// The time for which the operator is measured while nothing changes. It includes the periodic
/// reconciliation of every object, which happens after 60 s.
const REST: Duration = Duration::from_secs(75);
/// The interval between simulated Lease renewals. Real publishers renew more often, but the
/// operator only reacts to a Lease that has not been renewed for a minute.
const RENEWAL: Duration = Duration::from_secs(15);

/// Runs the benchmark with the API server from the given folder, and prints the figures. Returns an
/// error if a figure misses its target.
pub async fn run(programs: &Path, count: usize) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("onionbalance-scale").tempdir()?;
    let processes = Processes::open(dir.path())?;
    let run = measure(&processes, dir.path(), programs, count).await;
    if run.is_err() {
        for name in processes.names()? {
            eprintln!("log of {name}: {}", processes.log(&name).display());
        }
        let _ = dir.keep();
    }
    processes.stop_all().await?;
    run
}

async fn measure(processes: &Processes, dir: &Path, programs: &Path, count: usize) -> Result<()> {
    ensure!(count >= ROUNDS, "--objects must be at least {ROUNDS}");
    let version = output(&mut command(&programs.join("kube-apiserver").display().to_string(), ["--version"])).await?;
    let mut report = Report::begin(version.trim())?;
    let server = ApiServer::start(processes, &dir.join("server"), programs).await?;
    let administrator = server.administrator()?;
    let optional = Discovery::new(administrator.clone()).served().await;
    for namespace in [NAMESPACE, BARE] {
        create_namespace(&administrator, namespace).await?;
    }
    load::create_target(&administrator, NAMESPACE).await?;
    let mut scene = ScaleTest {
        processes,
        convergence: Convergence::watch(&administrator, NAMESPACE),
        with_rights: server.operator()?,
        optional,
        administrator,
        operator: start_operator(processes, &server)?,
        converging: Requests::default(),
    };
    let (ours, bare) = scene.race(count).await?;
    play::report_all_running(&scene.administrator, NAMESPACE, count).await?;
    all_ready(processes, &scene.administrator, NAMESPACE, count).await?;
    scene.settle().await?;
    let most = resident(scene.operator)?.most;

    eprintln!("restarting the operator and measuring it while nothing changes");
    processes.stop(OPERATOR).await?;
    scene.operator = start_operator(processes, &server)?;
    scene.settle().await?;
    let rest = scene.rest(count).await?;
    processes.check(OPERATOR)?;
    let rss = resident(scene.operator)?;

    eprintln!(
        "requests during the convergence of {count} objects:\n{}requests while nothing changed:\n{}",
        scene.converging.describe(),
        rest.describe()
    );
    compare(&ours, &bare, &mut report);
    report.figure("operator_rss_mib", rss.now, "MiB");
    report.figure("operator_rss_peak_mib", rss.most.max(most), "MiB");
    let requests = scene.converging.on_resources();
    report.figure("requests_per_object", as_f64(requests) / as_f64(count), "");
    // The bare client makes one request for each manifest.
    let manifests: usize = load::bare_manifests(BARE, 0..count, optional)?.iter().map(Vec::len).sum();
    report.figure("bare_requests_per_object", as_f64(manifests) / as_f64(count), "");
    report.figure("requests_to_bare", as_f64(requests) / as_f64(manifests), "");
    report.figure("writes_at_rest", as_f64(rest.writes_except_leases()), "");
    report.judge(targets::of(&[Benchmark::Scale]))
}

/// The result of half a round. In each half, either the operator or the bare client does the work.
struct Half {
    objects: usize,
    /// The time until all children existed and, in the operator's half, the status of every object
    /// said so.
    took: Duration,
    /// The processor time that the client of the API server used until it was idle again. The
    /// client is either the operator or, in the bare client's half, this process.
    client: Duration,
    /// The processor time that the API server and etcd used in the same time.
    server: Duration,
}

/// The state of a running scale benchmark.
struct ScaleTest<'a> {
    processes: &'a Processes,
    convergence: Convergence,
    administrator: Client,
    /// A client with the operator's permissions.
    with_rights: Client,
    /// The optional APIs and fields of the API server, which the operator discovers in the same
    /// way.
    optional: Served,
    /// The process ID of the operator under test.
    operator: u32,
    /// The requests that the operator made in its own halves of the rounds.
    converging: Requests,
}

impl ScaleTest<'_> {
    /// Runs all rounds. Returns the operator's halves and the bare client's halves.
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
                    "round {} of {ROUNDS}: {} objects, operator {:.2} s, bare client {:.2} s",
                    round + 1,
                    ours.objects,
                    ours.took.as_secs_f64(),
                    bare.took.as_secs_f64()
                );
            }
        }
        Ok((ours, bare))
    }

    /// Runs the operator's half of a round, which begins with the creation of the objects.
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
            std::mem::take(&mut self.converging).and(asked.without_creations(objects, "onionbalancedservices"));
        Ok(Half { objects, took, client, server })
    }

    /// Runs the bare client's half of a round.
    async fn bare(&mut self, which: Range<usize>) -> Result<Half> {
        self.settle().await?;
        let manifests = load::bare_manifests(BARE, which, self.optional)?;
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
        let time = |name| {
            processor_time(u32::try_from(self.processes.pid(name).with_context(|| format!("{name} is not running"))?)?)
        };
        Ok(time("kube-apiserver")? + time("etcd")?)
    }

    /// Waits until the operator is idle, that is, until it has used hardly any processor time for a
    /// second.
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

    /// Returns the requests that the API server receives while publishers renew their Leases and
    /// nothing else happens.
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

/// Reports the figures for both sides, and the ratio of the operator's rate to the bare client's.
fn compare(ours: &[Half], bare: &[Half], report: &mut Report) {
    let rates = |halves: &[Half]| -> Vec<f64> {
        halves.iter().map(|half| as_f64(half.objects) / half.took.as_secs_f64()).collect()
    };
    let each = |time: Duration, half: &Half| time.as_secs_f64() * 1000.0 / as_f64(half.objects);
    for (name, halves) in [("", ours), ("bare_", bare)] {
        report.figure(&format!("{name}objects_per_s"), median(rates(halves)), "1/s");
        let client = median(halves.iter().map(|half| each(half.client, half)).collect());
        let server = median(halves.iter().map(|half| each(half.server, half)).collect());
        report.figure(&format!("{name}client_cpu_ms_per_object"), client, "ms");
        report.figure(&format!("{name}server_cpu_ms_per_object"), server, "ms");
    }
    report.figure("objects_to_bare", median_ratio(&rates(ours), &rates(bare), Div::div), "");
}

fn start_operator(processes: &Processes, server: &ApiServer) -> Result<u32> {
    let mut command = program()?;
    command.args(["operator", "--tor-image", load::TOR_IMAGE, "--operator-image", load::OPERATOR_IMAGE]);
    command.args(["--probe-port", "0", "--metrics-port", "0"]).env("KUBECONFIG", server.operator_kubeconfig()?);
    processes.start(OPERATOR, &mut command)?;
    u32::try_from(processes.pid(OPERATOR).context("the operator ended immediately")?).map_err(Into::into)
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
