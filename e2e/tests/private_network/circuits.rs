//! Checks with real tors that exactly the right circuit is closed: the one that the app asks for,
//! and the one that exceeds its limits repeatedly.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::wait::{Seen, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend_options::{BACKENDS, Circuit, WITH_HEADER, WITHOUT_HEADER, circuit, circuits_of};
use crate::data_plane::DataPlane;

/// The number of streams that a circuit may have open.
pub const OPEN_STREAMS: usize = 8;
/// The number of circuits of the client, each with a waiting stream.
const CIRCUITS: usize = 4;
/// The number of streams after which a circuit that exceeds its limits must have been closed. The
/// agent tolerates 20 breaches, and one more in each second.
const MANY_STREAMS: usize = 200;
/// The time limit for the end of a stream.
const SOON: Duration = Duration::from_secs(10);

/// A circuit of the client, and a stream on it whose request is not complete.
struct Held {
    circuit: Circuit,
    isolation: String,
    stream: TcpStream,
}

/// Lets the app close one circuit, and lets the client of another one exceed the limits.
pub async fn only_the_right_circuit_is_closed(plane: &DataPlane) -> Result<()> {
    let client = plane.client().await?;
    let mut held = Vec::new();
    for number in 0..CIRCUITS {
        let isolation = format!("circuit {number}");
        let circuit = circuit(plane, &client, &isolation).await?;
        let stream = waiting_stream(plane, &client, WITH_HEADER, &isolation).await?;
        held.push(Held { circuit, isolation, stream });
    }
    closed_by_request(plane, held.swap_remove(1)).await?;
    closed_by_limits(plane, &client, held.swap_remove(0)).await?;
    for other in held {
        exists(plane, other.circuit, true).await?;
        answers(other.stream).await?;
    }
    client.remove().await
}

/// Checks that the app's request closes its circuit at once, and that a second request does
/// nothing.
async fn closed_by_request(plane: &DataPlane, mut victim: Held) -> Result<()> {
    let address = victim.circuit.address.to_string();
    ensure!(plane.close_circuit("00", &address).await? == 401, "another token must be refused");
    exists(plane, victim.circuit, true).await?;
    let status = plane.close_circuit(&plane.circuit_token(), &address).await?;
    ensure!(status == 200, "the publisher answered {status}");
    ended(&mut victim.stream).await?;
    exists(plane, victim.circuit, false).await?;
    let status = plane.close_circuit(&plane.circuit_token(), &address).await?;
    ensure!(status == 404, "the publisher answered {status} for a closed circuit");
    closures_are(plane, victim.circuit.backend, "request", 1).await
}

/// Opens streams on a circuit until the agent closes the circuit. Ports without the header count,
/// too.
async fn closed_by_limits(plane: &DataPlane, client: &TorClient, mut victim: Held) -> Result<()> {
    let mut open = Vec::new();
    for _ in 1..OPEN_STREAMS {
        open.push(waiting_stream(plane, client, WITHOUT_HEADER, &victim.isolation).await?);
    }
    for _ in 0..MANY_STREAMS {
        // The stream ends at once. It may even end before the client learns that it has begun.
        let _ = waiting_stream(plane, client, WITHOUT_HEADER, &victim.isolation).await;
        if !circuits_of(plane, victim.circuit.backend).await?.contains(&victim.circuit.number) {
            ended(&mut victim.stream).await?;
            for mut stream in open {
                ended(&mut stream).await?;
            }
            return closures_are(plane, victim.circuit.backend, "limits", 1).await;
        }
    }
    anyhow::bail!("the circuit is still open after {MANY_STREAMS} streams beyond its limit")
}

/// Opens a stream, and sends the beginning of a request.
async fn waiting_stream(plane: &DataPlane, client: &TorClient, port: u16, isolation: &str) -> Result<TcpStream> {
    let mut stream = timeout(SOON, client.connect(plane.onion(), port, isolation)).await.context("no stream")??;
    stream.write_all(b"GET / HTTP/1.0\r\n").await?;
    Ok(stream)
}

/// Completes the request of a waiting stream, and checks that the target answers.
async fn answers(mut stream: TcpStream) -> Result<()> {
    stream.write_all(b"\r\n").await?;
    let mut page = String::new();
    timeout(SOON, stream.read_to_string(&mut page)).await.context("the target did not answer")??;
    ensure!(page.contains("GET / HTTP/1.0\r\n"), "the target answered {page:?}");
    Ok(())
}

async fn ended(stream: &mut TcpStream) -> Result<()> {
    let read = timeout(SOON, stream.read(&mut [0])).await.context("the stream is still open")?;
    ensure!(matches!(read, Ok(0) | Err(_)), "the stream carries data");
    Ok(())
}

async fn exists(plane: &DataPlane, circuit: Circuit, expected: bool) -> Result<()> {
    let found = circuits_of(plane, circuit.backend).await?.contains(&circuit.number);
    ensure!(found == expected, "circuit {circuit:?} is open: {found}");
    Ok(())
}

/// Waits until a backend's agent reports a number of closed circuits, and checks that the other
/// agents report none more than that.
async fn closures_are(plane: &DataPlane, backend: usize, cause: &str, expected: u64) -> Result<()> {
    until("the agent counts the closed circuit", SOON, async || {
        let mut counts = Vec::new();
        for number in 0..BACKENDS {
            let closures = plane.agents_metric(number, "circuit_closures_total").await?;
            let label = format!("{{cause=\"{cause}\"}}");
            counts.push(*closures.get(&label).context("the agent has no such metric")?);
        }
        let done = counts[backend] == expected && counts.iter().sum::<u64>() == expected;
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(format!("{counts:?}")) })
    })
    .await
}
