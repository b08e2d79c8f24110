//! `/drain`, as preStop calls it.

use std::time::Duration;

use onionbalance_operator::link::{PROBE_PORT, PodPhase, SyncResponse};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use crate::NO_TOR;
use crate::backend::{Backend, POD_UID, TOKEN};

#[tokio::test]
async fn a_drain_ends_after_withdrawal_linger_time_and_streams() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;
    let stream = backend.open_stream().await;
    let (mut target, _) = listener.accept().await.unwrap();
    let target = tokio::spawn(async move { target.read_to_end(&mut Vec::new()).await.unwrap() });

    // Both containers' preStop at once, one as Kubernetes 1.20 asks.
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
        _ = &mut one => panic!("the linger time is 1 s, but a stream is open"),
        _ = &mut two => panic!("the linger time is 1 s, but a stream is open"),
    }
    drop(stream);
    for reply in [one.await, two.await] {
        assert_eq!((reply.status, reply.text()), (200, "no stream is open\n"));
    }
    target.await.unwrap();
}

/// Nobody withdraws the points: clients go on to come for a while, and are served.
#[tokio::test]
async fn a_drain_without_a_publisher_lingers_and_takes_new_streams() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;

    let began = Instant::now();
    let mut call = Box::pin(backend.get(PROBE_PORT, "/drain"));
    // Five seconds until publishers count as away, and the linger time of 1 s.
    assert!(timeout(Duration::from_secs(3), &mut call).await.is_err(), "it did not wait");
    let stream = backend.open_stream().await;
    let (mut target, _) = listener.accept().await.unwrap();
    assert!(timeout(Duration::from_secs(5), &mut call).await.is_err(), "a stream is open");
    drop(stream);
    target.read_to_end(&mut Vec::new()).await.unwrap();
    drop(target);
    let reply = call.await;
    assert_eq!((reply.status, reply.text()), (200, "no stream is open\n"));
    assert!(began.elapsed() >= Duration::from_secs(6), "after {:?}", began.elapsed());
}

/// The kubelet calls preStop also before it restarts a container that fails its liveness probe: the pod stays, with its points.
#[tokio::test]
async fn a_liveness_kill_does_not_wait_for_a_drain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;
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
        () = publisher => panic!("sequence numbers do not end"),
        reply = backend.get(PROBE_PORT, "/drain") => reply,
    };
    assert_eq!((reply.status, reply.text()), (200, "the pod is not terminating\n"));
    // Its word counts from 2 s after the drain began, since it may be older than a deletion.
    let after = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&after), "after {after:?}");
}
