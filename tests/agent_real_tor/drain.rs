//! Tests of `/drain`, which the preStop hooks call.

use std::time::Duration;

use onionbalance_operator::link::{PROBE_PORT, PodPhase, SyncResponse};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use crate::NO_TOR;
use crate::backend::{Backend, POD_UID, TOKEN};

#[tokio::test]
async fn a_drain_ends_after_the_withdrawal_the_linger_time_and_the_last_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
    let stream = backend.open_stream().await;
    let (mut target, _) = listener.accept().await.unwrap();
    let target = tokio::spawn(async move { target.read_to_end(&mut Vec::new()).await.unwrap() });

    // The preStop hooks of both containers call `/drain` at the same time, one of them with the
    // path that Kubernetes 1.20 sends.
    let (mut one, mut two) =
        (Box::pin(backend.get(PROBE_PORT, "/drain")), Box::pin(backend.get(PROBE_PORT, "//drain")));
    let publisher = async {
        for sequence in 1.. {
            let (reply, _) = backend.sync(TOKEN, POD_UID, sequence, PodPhase::Withdrawn).await;
            let answer: SyncResponse = serde_json::from_slice(&reply.body).unwrap();
            if sequence >= 10 {
                assert_eq!((answer.streams, answer.draining), (1, true));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = publisher => {}
        _ = &mut one => panic!("the drain ended while a stream was open"),
        _ = &mut two => panic!("the drain ended while a stream was open"),
    }
    drop(stream);
    for reply in [one.await, two.await] {
        assert_eq!((reply.status, reply.text()), (200, "no stream is open\n"));
    }
    target.await.unwrap();
}

/// Without a publisher, nothing withdraws the introduction points. Clients keep connecting for a
/// while and must be served.
#[tokio::test]
async fn a_drain_without_a_publisher_lingers_and_accepts_new_streams() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;

    let began = Instant::now();
    let mut call = Box::pin(backend.get(PROBE_PORT, "/drain"));
    // After 5 s without a report, the publishers are considered unreachable. The linger time of 1 s
    // follows.
    assert!(timeout(Duration::from_secs(3), &mut call).await.is_err(), "the drain ended without lingering");
    let stream = backend.open_stream().await;
    let (mut target, _) = listener.accept().await.unwrap();
    assert!(timeout(Duration::from_secs(5), &mut call).await.is_err(), "the drain ended while a stream was open");
    drop(stream);
    target.read_to_end(&mut Vec::new()).await.unwrap();
    drop(target);
    let reply = call.await;
    assert_eq!((reply.status, reply.text()), (200, "no stream is open\n"));
    assert!(began.elapsed() >= Duration::from_secs(6), "the drain ended after {:?}", began.elapsed());
}

/// The kubelet also calls the preStop hook before it restarts a container that fails its liveness
/// probe. In that case, the pod keeps its introduction points and must not drain.
#[tokio::test]
async fn a_liveness_kill_does_not_wait_for_a_drain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
    let _stream = backend.open_stream().await;
    let _target = listener.accept().await.unwrap();

    let began = Instant::now();
    let publisher = async {
        for sequence in 1.. {
            let (reply, answer) = backend.sync(TOKEN, POD_UID, sequence, PodPhase::Active).await;
            assert!(reply.status == 200 && answer.is_ok(), "{answer:?}");
            sleep(Duration::from_millis(500)).await;
        }
    };
    let reply = tokio::select! {
        () = publisher => panic!("the publisher ended before the drain"),
        reply = backend.get(PROBE_PORT, "/drain") => reply,
    };
    assert_eq!((reply.status, reply.text()), (200, "the pod is not terminating\n"));
    // During the first 2 s of a drain, the publisher's reports are ignored, because they may
    // predate the pod's deletion.
    let after = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&after), "the drain ended after {after:?}");
}
