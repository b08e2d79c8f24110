//! Tests of tor's own metrics, which the agent forwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use onionbalance_operator::link::METRICS_PORT;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::{NO_TOR, NOT_BOOTSTRAPPED};

/// Returns torrc lines for a metrics port. Tor does not open a metrics port while its network is
/// disabled. The network is therefore enabled, but the only directory authority is unreachable.
fn with_metrics(port: u16) -> String {
    let nobody = "0".repeat(40);
    format!(
        "DirAuthority nobody orport=1 no-v2 v3ident={nobody} 127.0.0.1:1 {nobody}\n\
         MetricsPort 127.0.0.1:{port}\nMetricsPortPolicy accept 127.0.0.1\n"
    )
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn forwards_the_metrics_of_tor_separately_from_its_own() {
    let backend = Backend::new("127.0.0.1:1").await;
    let port = free_port().await;
    let mut agent = backend.serving(backend.program());
    let _agent = agent.arg("--tor-metrics-port").arg(port.to_string()).spawn().unwrap();
    backend.wait_for_readiness(NO_TOR).await;
    let absent = backend.get(METRICS_PORT, "/tor/metrics").await;
    assert_eq!(absent.status, 503, "{}", absent.text());
    assert_eq!(backend.metric("onionbalance_agent_tor_up").await, 0);

    let _tor = backend.tor_with(&with_metrics(port));
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    let address = std::fs::read_to_string(backend.run("hs/hostname")).unwrap();
    let onion = address.trim_end().trim_end_matches(".onion");
    let line = format!("tor_hs_intro_num_total{{onion=\"{onion}\"}} 0");
    backend
        .until("forwarded", || async {
            let reply = backend.get(METRICS_PORT, "/tor/metrics").await;
            let text = reply.text();
            if reply.status == 200 && text.lines().any(|found| found == line) { "forwarded" } else { text }.to_owned()
        })
        .await;
    assert_eq!(backend.metric("onionbalance_agent_tor_up").await, 1);
    assert!(!backend.get(METRICS_PORT, "/metrics").await.text().contains("\ntor_"));
}

/// Tor writes its metrics in the thread that carries all streams, so nobody may keep it busy with
/// questions about them.
#[tokio::test]
async fn many_requests_for_the_metrics_of_tor_cause_one_question_in_five_seconds() {
    const CLIENTS: usize = 20;
    let backend = Backend::new("127.0.0.1:1").await;
    let port = free_port().await;
    let (counted, questions) = counting_proxy(port).await;
    let mut agent = backend.serving(backend.program());
    let _agent = agent.arg("--tor-metrics-port").arg(counted.to_string()).spawn().unwrap();
    let _tor = backend.tor_with(&with_metrics(port));
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    let open = || async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok().to_string() };
    backend.until("true", open).await;

    let (begun, mut requests) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(6) {
        for reply in join_all((0..CLIENTS).map(|_| backend.get(METRICS_PORT, "/tor/metrics"))).await {
            assert_eq!(reply.status, 200, "{}", reply.text());
            requests += 1;
        }
    }
    let questions = questions.load(Ordering::Relaxed);
    let most = begun.elapsed().as_secs() / 5 + 1;
    assert!((1..=most).contains(&questions), "{requests} requests caused {questions} questions, not {most} at most");
    println!("{requests} requests, {questions} questions");
}

/// Starts a proxy for a port on 127.0.0.1. Returns the proxy's port and the number of connections
/// that it has accepted.
async fn counting_proxy(port: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicU64::new(0));
    let counter = accepted.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.expect("tor has closed its metrics port");
                // Either side may close the connection at any time.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (own, accepted)
}
