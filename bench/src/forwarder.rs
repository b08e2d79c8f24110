//! Measurements of the agent's forwarder, which relays streams from tor to the target.

use std::net::TcpListener as StdListener;
use std::ops::Div;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::machine;
use onionbalance_e2e::onionkey;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::tornet::{Place, Tor, TorNetwork};
use onionbalance_e2e::wait::{Seen, until};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use crate::agent::Agent;
use crate::memory::resident;
use crate::report::Report;
use crate::rounds::{median, median_ratio};

const MIB: u32 = 1 << 20;
/// The number of bytes to transfer in each stream that does not pass through tor.
const ALONE: u32 = 256 * MIB;
/// The number of bytes to transfer in each stream that passes through tor, where it crosses six
/// relays on the same machine.
const THROUGH_TOR: u32 = 8 * MIB;
/// The number of stalled streams that are open at the same time.
const STREAMS: u32 = 400;
/// The maximum time to wait for the service or for a stream through tor.
const PATIENCE: Duration = Duration::from_secs(180);
/// The onion port whose streams reach the target through the agent.
const FORWARDED: u16 = 80;
/// The onion port whose streams go directly to the target.
const DIRECT: u16 = 81;
/// The onion port whose streams go through the agent to a target that refuses connections.
const REFUSED: u16 = 82;

/// Compares streams through the agent with streams that go directly to the target. Measures both
/// kinds of streams first without tor, and then through the circuits of one tor on a private
/// network. Prints the medians over all rounds.
pub async fn measure(rounds: usize, dir: &Path, report: &mut Report) -> Result<()> {
    machine::check_tor()?;
    let processes = Processes::open(dir)?;
    let outcome = measure_with(&processes, rounds, dir, report).await;
    processes.kill_all();
    outcome
}

async fn measure_with(processes: &Processes, rounds: usize, dir: &Path, report: &mut Report) -> Result<()> {
    let target = serve().await?;
    let key = onionkey::make(processes, dir).await?;
    let nobody = StdListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let agent = Agent::start(processes, dir, &key.address, &[(FORWARDED, &target), (REFUSED, &nobody)]).await?;
    let alone = alone(&agent, rounds, &target, report).await?;
    stalled(&agent, report).await?;

    let network = TorNetwork::open(&dir.join("network"), Place::Loopback, processes);
    network.up_completely().await?;
    let torrc = network.torrc_lines()?;
    let tor = Tor::open(processes, "service-tor", &dir.join("service-tor"));
    let service = format!(
        "{torrc}SocksPort 0\nHiddenServiceDir {}\nHiddenServicePort {FORWARDED} unix:{}\n\
         HiddenServicePort {DIRECT} {target}\nHiddenServicePort {REFUSED} unix:{}\n",
        key.dir.display(),
        agent.socket(FORWARDED).display(),
        agent.socket(REFUSED).display(),
    );
    tor.start(Command::new("tor"), &service)?;
    let client = TorClient::fresh(processes, "client", &dir.join("client"), &torrc, None).await?;
    let circuit = through_tor(&client, rounds, &key.address, report).await?;
    report.figure("forwarder_alone_to_circuit", alone / circuit, "");
    Ok(())
}

/// Measures streams that do not pass through tor. Returns the rate through the agent in MiB/s.
async fn alone(agent: &Agent, rounds: usize, target: &str, report: &mut Report) -> Result<f64> {
    let (mut forwarded, mut plain) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // The stream that is measured first alternates between rounds.
        for through_agent in [round % 2 == 0, round % 2 == 1] {
            if through_agent {
                forwarded.push(rate(UnixStream::connect(agent.socket(FORWARDED)).await?, ALONE).await?);
            } else {
                plain.push(rate(TcpStream::connect(target).await?, ALONE).await?);
            }
        }
    }
    report.figure("forwarder_alone_to_plain", median_ratio(&forwarded, &plain, Div::div), "");
    report.figure("plain_mib_per_s", median(plain), "MiB/s");
    let forwarded = median(forwarded);
    report.figure("forwarder_alone_mib_per_s", forwarded, "MiB/s");
    Ok(forwarded)
}

/// Measures the memory that the agent uses for each stream from which the client does not read.
async fn stalled(agent: &Agent, report: &mut Report) -> Result<()> {
    let before = resident(agent.pid)?.now;
    let mut held_up = Vec::new();
    // All buffers along each stream fill up, because only the first byte is read.
    for _ in 0..STREAMS {
        let mut stream = UnixStream::connect(agent.socket(FORWARDED)).await?;
        stream.write_all(&ALONE.to_be_bytes()).await?;
        stream.read_u8().await?;
        held_up.push(stream);
    }
    let growth = (resident(agent.pid)?.now - before) * 1024.0;
    report.figure("forwarder_stream_kib", growth / f64::from(STREAMS), "KiB");
    Ok(())
}

/// Measures streams through the circuits of a tor. Returns the rate of direct streams in MiB/s.
async fn through_tor(client: &TorClient, rounds: usize, onion: &str, report: &mut Report) -> Result<f64> {
    until("the service answers", PATIENCE, async || {
        Ok(match client.connect(onion, DIRECT, "0").await {
            Ok(_) => Seen::Yes(()),
            Err(error) => Seen::not_yet(format!("{error:#}")),
        })
    })
    .await?;
    let (mut forwarded, mut direct, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Both ports use the same circuit, which is new in each round. The port that is measured
        // first alternates between rounds.
        let mut ports = [(FORWARDED, &mut forwarded), (DIRECT, &mut direct)];
        if round % 2 == 1 {
            ports.reverse();
        }
        let isolation = round.to_string();
        for (port, rates) in ports {
            let stream = client.connect(onion, port, &isolation).await?;
            rates.push(timeout(PATIENCE, rate(stream, THROUGH_TOR)).await.context("a stream stalled")??);
        }
        let start = Instant::now();
        let mut stream = client.connect(onion, REFUSED, &isolation).await?;
        ensure!(timeout(PATIENCE, stream.read(&mut [0])).await?.unwrap_or(0) == 0, "the refused port sent data");
        refused.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    report.figure("forwarder_to_direct", median_ratio(&forwarded, &direct, Div::div), "");
    report.figure("forwarder_mib_per_s", median(forwarded), "MiB/s");
    report.figure("forwarder_refused_ms", median(refused), "ms");
    let direct = median(direct);
    report.figure("direct_mib_per_s", direct, "MiB/s");
    Ok(direct)
}

/// Requests the given number of bytes from the target. Returns the rate in MiB/s.
pub(crate) async fn rate(mut stream: impl AsyncRead + tokio::io::AsyncWrite + Unpin, bytes: u32) -> Result<f64> {
    let start = Instant::now();
    stream.write_all(&bytes.to_be_bytes()).await?;
    let mut buffer = vec![0; 64 * 1024];
    let mut left = usize::try_from(bytes)?;
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the stream ended {left} bytes early");
        left = left.saturating_sub(read);
    }
    Ok(f64::from(bytes) / f64::from(MIB) / start.elapsed().as_secs_f64())
}

/// Starts a target that sends as many bytes as the first four bytes of a stream ask for. Returns
/// the address of the target.
pub(crate) async fn serve() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    let piece = vec![b'x'; 64 * 1024];
    let mut left = usize::try_from(stream.read_u32().await?)?;
    while left > 0 {
        let next = left.min(piece.len());
        stream.write_all(&piece[..next]).await?;
        left -= next;
    }
    // Wait for the client to close the stream.
    let _ = stream.read(&mut [0]).await?;
    Ok(())
}
