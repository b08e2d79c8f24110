//! The app's request to close the circuit of a client that abuses the service.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use futures::future::{join_all, try_join_all};
use onionbalance_operator::link::{CIRCUITS_PORT, CLOSE_PATH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::abuser::Abuser;
use super::clients::ResettableClient;
use super::figure::Figure;
use super::metrics;
use super::request::{ClientKind, Outcome, Request, ServiceKind};
use super::stage::Stage;
use crate::wait::{Seen, until};

/// The number of the abuser's streams, all on one circuit. They keep to the limits of circuits.
pub const HELD: u8 = 24;
/// The number of honest streams, each on a circuit of its own.
const HONEST: usize = 8;
/// The duration of the honest streams in seconds. They begin before the circuit is closed and end
/// after that.
const HONEST_SECONDS: u64 = 30;
/// The time limit for the end of a stream whose circuit is closed.
const SOON: Duration = Duration::from_secs(10);
/// The time limit for the publisher to listen to the app, and for the app to see the abuser.
const PATIENCE: Duration = Duration::from_secs(60);
const CLOSURES: &str = "onionbalance_agent_circuit_closures_total{cause=\"request\"}";

/// Lets the app close the circuit of a client that keeps streams open next to honest streams.
/// Measures how many of the client's streams end, and how many honest streams are harmed.
pub async fn close_by_request(stage: &Stage, client: &ResettableClient) -> Result<Vec<Figure>> {
    let onion = &stage.onions.ours;
    let abuser = Abuser { socks: client.socks(), onion, isolation: "abuser whom the app notices" };
    let honest = join_all((0..HONEST).map(async |number| {
        let (socks, isolation) = (stage.clients.cached(number), format!("honest stream {number}"));
        Request::make(ServiceKind::Ours, ClientKind::Cached, socks, onion, &isolation, HONEST_SECONDS).await
    }));
    let (honest, ended) = tokio::join!(honest, hold_until_closed(stage, abuser));
    let ended = ended?;
    let harmed = honest.iter().filter(|request| request.outcome != Outcome::Done).count();
    let closed = metrics::of_backends(stage, CLOSURES).await?;
    ensure!((closed - 1.0).abs() < f64::EPSILON, "the agents closed {closed} circuits at the app's request");
    Ok(vec![Figure::count("asked_ended", ended, "streams"), Figure::count("asked_harmed", harmed, "streams")])
}

/// Opens the abuser's streams, closes their circuit as the app would, and returns the number of
/// streams that end.
async fn hold_until_closed(stage: &Stage, abuser: Abuser<'_>) -> Result<usize> {
    let streams = try_join_all((0..HELD).map(|_| abuser.open())).await?;
    let address = until("the app has all streams of the abuser", PATIENCE, async || {
        Ok(match stage.busiest() {
            Some((address, count)) if count >= usize::from(HELD) => Seen::Yes(address),
            other => Seen::NotYet(format!("the busiest client is {other:?}")),
        })
    })
    .await?;
    let token = token(stage).await?;
    let path = "jsonpath={.items[*].status.podIP}";
    until("a publisher has closed the circuit", PATIENCE, async || {
        let frontends = stage.run(&format!("get pods -l app.kubernetes.io/component=frontend -o {path}")).await?;
        let mut answers = Vec::new();
        for frontend in frontends.split_whitespace() {
            match ask(frontend, &token, &address).await {
                Ok(200) => return Ok(Seen::Yes(())),
                other => answers.push(other),
            }
        }
        Ok(Seen::NotYet(format!("the frontends answer {answers:?}")))
    })
    .await?;
    let ends = streams.into_iter().map(async |mut stream| {
        let mut page = Vec::new();
        timeout(SOON, stream.read_to_end(&mut page)).await.is_ok()
    });
    Ok(join_all(ends).await.into_iter().filter(|has_ended| *has_ended).count())
}

/// Returns the app's token from its Secret.
async fn token(stage: &Stage) -> Result<String> {
    let encoded = stage.run("get secret/web-circuit-token -o jsonpath={.data.token}").await?;
    Ok(String::from_utf8(BASE64.decode(encoded.trim().as_bytes())?)?)
}

/// Sends the app's request to the publisher in the pod at an address. Returns the status of the
/// response.
async fn ask(frontend: &str, token: &str, address: &str) -> Result<u16> {
    let request = format!(
        "POST {CLOSE_PATH} HTTP/1.1\r\nHost: publisher\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n{address}",
        address.len()
    );
    let answer = async {
        let mut stream = TcpStream::connect((frontend, CIRCUITS_PORT)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(SOON, answer).await??;
    let status = answer.split(' ').nth(1).with_context(|| format!("not an HTTP response: {answer:?}"))?;
    Ok(status.parse()?)
}
