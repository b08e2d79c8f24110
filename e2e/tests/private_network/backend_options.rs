//! Checks optional settings of the backends' onion services: the PROXY header, the limits of
//! circuits, and tor's defence at the introduction points. The tor processes run with the
//! operator's torrc.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE32_NOPAD;
use futures::future::{join_all, try_join_all};
use onionbalance_e2e::chance::fetches_to_reach_all;
use onionbalance_e2e::torclient::{TorClient, get};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::link::{ForwardedPort, TargetCheck};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::data_plane::{DataPlane, Features};
use crate::{NETWORK, POINTS, circuits, first_page};

/// The number of backends.
pub const BACKENDS: usize = 2;
/// The port whose streams begin with a PROXY header.
pub const WITH_HEADER: u16 = 81;
/// A port whose streams have no PROXY header, although tor writes one.
pub const WITHOUT_HEADER: u16 = 82;
/// The number of introductions per second that an introduction point forwards, and the number in
/// one burst. Few enough that a test can exceed them.
const RATE: u32 = 1;
const BURST: u32 = 2;
/// The number of clients that introduce themselves at the same time, and the number of
/// introductions of each.
const CLIENTS: usize = 3;
const INTRODUCTIONS: usize = 16;

#[tokio::test]
async fn targets_see_circuits_and_introduction_points_limit_introductions() -> Result<()> {
    let _network = NETWORK.lock().await;
    let target = echo().await?;
    let port = |port, proxy_header| ForwardedPort {
        name: None,
        port,
        target: target.clone(),
        proxy_header,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    };
    let features = Features {
        ports: vec![port(WITH_HEADER, true), port(WITHOUT_HEADER, false)],
        backends: json!({
            "introDosDefense": {"ratePerSecond": RATE, "burstPerSecond": BURST},
            "circuitLimits": {"openStreams": circuits::OPEN_STREAMS},
        }),
        anonymity: json!({}),
    };
    let plane = DataPlane::start_with(features, BACKENDS).await?;
    let outcome = scenario(&plane).await;
    plane.end(outcome)
}

async fn scenario(plane: &DataPlane) -> Result<()> {
    first_page(plane).await?;
    every_point_got_the_limits(plane).await?;
    a_target_can_tell_circuits_apart(plane).await?;
    circuits::only_the_right_circuit_is_closed(plane).await?;
    a_flood_is_limited(plane).await
}

/// Checks that each backend asked each of its introduction points for the limits. The relays log
/// the limits that they read from the request.
async fn every_point_got_the_limits(plane: &DataPlane) -> Result<()> {
    let log = plane.relays_log()?;
    let enabled: Vec<&str> = log.lines().filter(|line| line.contains("DoS defenses enabled")).collect();
    let limits = format!("Rate is {RATE} and Burst is {BURST}");
    let mut points = 0;
    for backend in 0..BACKENDS {
        points += plane.points(backend).await?.len();
    }
    ensure!(
        points > 0 && enabled.len() >= points && enabled.iter().all(|line| line.ends_with(&limits)),
        "the relays with {points} introduction points log {enabled:#?}"
    );
    Ok(())
}

/// The circuit of a stream, as far as the PROXY header describes it to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Circuit {
    /// The number of the backend.
    pub backend: usize,
    /// The source address in the header.
    pub address: Ipv6Addr,
    /// The number of the circuit in the backend's tor.
    pub number: u32,
}

/// Checks that streams have the same source address if and only if they share a circuit, that the
/// address names a circuit of the backend's tor, and that a port without the header has none.
async fn a_target_can_tell_circuits_apart(plane: &DataPlane) -> Result<()> {
    let client = plane.client().await?;
    let mut circuits = BTreeSet::new();
    let backends = u32::try_from(BACKENDS)?;
    for number in 0..fetches_to_reach_all(backends, POINTS * backends) {
        let isolation = number.to_string();
        let circuit = circuit(plane, &client, &isolation).await?;
        ensure!(circuits.insert(circuit), "two circuits have the address {}", circuit.address);
        let same = self::circuit(plane, &client, &isolation).await?;
        ensure!(same == circuit, "one circuit has the addresses {circuit:?} and {same:?}");
        let backends: BTreeSet<usize> = circuits.iter().map(|circuit| circuit.backend).collect();
        if number >= 3 && backends.len() == BACKENDS {
            let page = request(plane, &client, WITHOUT_HEADER, &isolation).await?;
            ensure!(page.starts_with("GET / HTTP/1.0\r\n"), "the target got {page:?}");
            return client.remove().await;
        }
    }
    anyhow::bail!("all circuits lead to the same backend: {circuits:?}")
}

/// Opens a stream to the port with the header, and returns the circuit that the header describes.
pub async fn circuit(plane: &DataPlane, client: &TorClient, isolation: &str) -> Result<Circuit> {
    let page = request(plane, client, WITH_HEADER, isolation).await?;
    let (header, rest) = page.split_once("\r\n").context("the target got no line")?;
    ensure!(rest.starts_with("GET / HTTP/1.0\r\n"), "the target got {page:?}");
    let fields: Vec<&str> = header.split(' ').collect();
    let ["PROXY", "TCP6", source, "::1", port, "81"] = fields[..] else {
        anyhow::bail!("the target got the header {header:?}")
    };
    let address: Ipv6Addr = source.parse().with_context(|| format!("not an address: {header:?}"))?;
    let [a, b, c, d, mark @ .., high, low] = address.segments();
    ensure!([a, b, c, d] == [0xfc00, 0xdead, 0xbeef, 0x4dad], "not in tor's range: {header:?}");
    ensure!(port.parse() == Ok(low), "the source port must be the end of the address: {header:?}");
    for backend in 0..BACKENDS {
        if mark == beginning_of_key(&plane.backends_onion(backend)?)? {
            let number = u32::from(high) << 16 | u32::from(low);
            has_circuit(plane, backend, number).await.with_context(|| header.to_owned())?;
            return Ok(Circuit { backend, address, number });
        }
    }
    anyhow::bail!("the address names none of the backends: {header:?}")
}

/// Checks that a backend's tor has a rendezvous circuit with this number.
async fn has_circuit(plane: &DataPlane, backend: usize, number: u32) -> Result<()> {
    let circuits = circuits_of(plane, backend).await?;
    ensure!(circuits.contains(&number), "backend {backend} has no circuit {number}, but {circuits:?}");
    Ok(())
}

/// Returns the numbers of the rendezvous circuits that a backend's tor has.
pub async fn circuits_of(plane: &DataPlane, backend: usize) -> Result<BTreeSet<u32>> {
    let status = plane.backend_control(backend).await?.ask("GETINFO circuit-status").await?;
    let status = status.context("tor rejected GETINFO")?;
    let rendezvous = status.iter().filter(|line| line.contains("PURPOSE=HS_SERVICE_REND"));
    Ok(rendezvous.filter_map(|line| line.split(' ').next()?.parse().ok()).collect())
}

/// Returns the first 32 bits of the key in an onion address.
fn beginning_of_key(onion: &str) -> Result<[u16; 2]> {
    let key = BASE32_NOPAD.decode(onion.get(..56).context("the address is too short")?.to_uppercase().as_bytes())?;
    let [a, b, c, d, ..] = key[..] else { anyhow::bail!("the key is too short") };
    Ok([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// Requests a page from a port of the service and returns what the target received.
async fn request(plane: &DataPlane, client: &TorClient, port: u16, isolation: &str) -> Result<String> {
    let attempt = async {
        let mut stream = client.connect(plane.onion(), port, isolation).await?;
        get(&mut stream, "web", "/").await
    };
    tokio::time::timeout(Duration::from_secs(60), attempt).await.context("the target did not answer within 60 s")?
}

/// Exceeds the limits, and checks that the relays refuse the excess and that the service answers
/// new clients.
async fn a_flood_is_limited(plane: &DataPlane) -> Result<()> {
    let clients = try_join_all((0..CLIENTS).map(|_| plane.client())).await?;
    let introductions = clients.iter().flat_map(|client| {
        (0..INTRODUCTIONS).map(async move |number| client.fetch(plane.onion(), &format!("flood {number}")).await)
    });
    let served = join_all(introductions).await.iter().filter(|page| page.is_ok()).count();
    let refused = refused_introductions(plane).await?;
    eprintln!("{served} of {} introductions were served; the relays refused {refused}", CLIENTS * INTRODUCTIONS);
    ensure!(served > 0, "no introduction was served during the flood");
    ensure!(refused > 0, "the relays refused no introduction");
    first_page(plane).await
}

/// Returns the number of introductions that the relays have refused, which they report in their
/// heartbeat.
async fn refused_introductions(plane: &DataPlane) -> Result<u64> {
    plane.command_relays("SIGNAL HEARTBEAT").await?;
    until("every relay reports its heartbeat", Duration::from_secs(10), async || {
        let log = plane.relays_log()?;
        let counts = log.lines().filter_map(|line| {
            let (before, _) = line.split_once(" INTRODUCE2 rejected")?;
            before.rsplit(' ').next()?.parse::<u64>().ok()
        });
        let counts: Vec<u64> = counts.collect();
        let done = counts.len() == plane.number_of_relays();
        Ok(if done { Seen::Yes(counts.iter().sum()) } else { Seen::NotYet(format!("{counts:?}")) })
    })
    .await
}

/// Starts a web server that answers with the request that it received.
async fn echo() -> Result<String> {
    async fn answer(mut stream: TcpStream) -> Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            ensure!(stream.read_buf(&mut request).await? > 0, "the stream ended before the end of the request");
        }
        stream.write_all(&[b"HTTP/1.0 200 OK\r\n\r\n", &*request].concat()).await?;
        Ok(stream.shutdown().await?)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}
