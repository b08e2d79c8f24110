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

/// Returns the names (authentication keys) of the introduction points that the tor of the agent at
/// this pod address currently holds.
pub async fn points(address: &str, pod_uid: &str, token: &AgentToken) -> Result<BTreeSet<String>> {
    points_at(&format!("{address}:{AGENT_API_PORT}"), pod_uid, token).await
}

/// Returns the names (authentication keys) of the introduction points that the tor of the agent at
/// this socket address currently holds.
pub async fn points_at(socket: &str, pod_uid: &str, token: &AgentToken) -> Result<BTreeSet<String>> {
    let points = descriptor_at(socket, pod_uid, token).await?.map(|descriptor| descriptor.points).unwrap_or_default();
    Ok(points.into_iter().map(|point| point.auth_key).collect())
}

/// Returns the decoded descriptor of the agent at this socket address, or `None` if its tor has
/// none yet.
pub async fn descriptor_at(socket: &str, pod_uid: &str, token: &AgentToken) -> Result<Option<Descriptor>> {
    let answer = timeout(Duration::from_secs(10), sync(socket, pod_uid, token))
        .await
        .context("the agent did not answer within 10 s")??;
    let Some(text) = answer.descriptor else { return Ok(None) };
    Descriptor::decode(&text, &answer.onion_address.to_string()).await.map(Some)
}

/// Returns the revision of the agent's descriptor, which changes whenever its introduction points
/// do.
pub async fn revision(address: &str, pod_uid: &str, token: &AgentToken) -> Result<Revision> {
    let socket = format!("{address}:{AGENT_API_PORT}");
    Ok(timeout(Duration::from_secs(10), sync(&socket, pod_uid, token))
        .await
        .context("the agent did not answer within 10 s")??
        .revision)
}

/// Sends one sync request. `leading` is false, so the agent does not act on the pod phase in it.
async fn sync(socket: &str, pod_uid: &str, token: &AgentToken) -> Result<SyncResponse> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let request = SyncRequest {
        publisher: format!("e2e-{}", std::process::id()),
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
        leading: false,
        phase: PodPhase::Active,
        known_revision: None,
    };
    let body = serde_json::to_string(&request)?;
    // Nobody gains anything from a replay here, so the nonce need not be random.
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
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not an HTTP answer: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "the agent answered {head:?}");
    serde_json::from_str(body).with_context(|| format!("the agent answered {body:?}"))
}
