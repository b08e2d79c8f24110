//! Requests a backend pod's descriptor from its agent, as the publisher does, to learn which
//! introduction points belong to the backend.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_operator::link::{
    AGENT_API_PORT, AgentToken, MAC_HEADER, NONCE_HEADER, PodPhase, Revision, SYNC_PATH, SyncRequest, SyncResponse,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::descriptor::Descriptor;

/// Asks the agent at a pod address for its tor's current introduction points, and returns their
/// authentication keys, which serve as names.
pub async fn points(address: &str, pod_uid: &str, token: &AgentToken) -> Result<BTreeSet<String>> {
    points_at(&format!("{address}:{AGENT_API_PORT}"), pod_uid, token).await
}

/// Asks the agent at a socket address for its tor's current introduction points, and returns their
/// authentication keys, which serve as names.
pub async fn points_at(socket: &str, pod_uid: &str, token: &AgentToken) -> Result<BTreeSet<String>> {
    let points = descriptor_at(socket, pod_uid, token).await?.map(|descriptor| descriptor.points).unwrap_or_default();
    Ok(points.into_iter().map(|point| point.auth_key).collect())
}

/// Fetches the descriptor from the agent at a socket address and decodes it. Returns `None` if the
/// agent's tor has no descriptor yet.
pub async fn descriptor_at(socket: &str, pod_uid: &str, token: &AgentToken) -> Result<Option<Descriptor>> {
    let answer = timeout(Duration::from_secs(10), sync(socket, pod_uid, token))
        .await
        .context("the agent did not answer within 10 s")??;
    let Some(text) = answer.descriptor else { return Ok(None) };
    Descriptor::decode(&text, &answer.onion_address.to_string()).await.map(Some)
}

/// Asks the agent at a pod address for the revision of its descriptor, which changes whenever the
/// introduction points do.
pub async fn revision(address: &str, pod_uid: &str, token: &AgentToken) -> Result<Revision> {
    let socket = format!("{address}:{AGENT_API_PORT}");
    Ok(timeout(Duration::from_secs(10), sync(&socket, pod_uid, token))
        .await
        .context("the agent did not answer within 10 s")??
        .revision)
}

/// Sends one sync request to an agent. The request sets `leading` to false, so the agent ignores
/// the request's `phase`.
async fn sync(socket: &str, pod_uid: &str, token: &AgentToken) -> Result<SyncResponse> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let request = SyncRequest {
        publisher: format!("e2e-{}", std::process::id()),
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
        leading: false,
        phase: PodPhase::Active,
        known_revision: None,
        known_guards: None,
        shared_guards: None,
        vanguards: None,
        round: 0,
        unhealthy: false,
    };
    let body = serde_json::to_string(&request)?;
    // A replayed request does no harm here, so the nonce need not be random.
    let nonce = "00000000000000000000000000000000";
    let mac = token.request_mac(pod_uid, "POST", SYNC_PATH, nonce, body.as_bytes());
    let request = format!(
        "POST {SYNC_PATH} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{NONCE_HEADER}: {nonce}\r\n{MAC_HEADER}: {mac}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(socket).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not an HTTP response: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "the agent answered {head:?}");
    serde_json::from_str(body).with_context(|| format!("the agent answered {body:?}"))
}
