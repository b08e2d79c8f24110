//! Tests of the forwarder in a running agent: the metrics of each port, name resolution, refused
//! addresses and memory.

use std::time::Duration;

use onionbalance_operator::link::{PROBE_PORT, REFUSED_TARGETS, RefusedTargets};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::{NO_TOR, NOT_BOOTSTRAPPED};

#[tokio::test]
async fn each_port_counts_its_own_streams_and_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let target = listener.local_addr().unwrap().to_string();
    let backend = Backend::with_ports(&[(80, &target), (443, &target), (6667, &nobody)]).await;
    let _agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;

    let mut open = Vec::new();
    for (port, request, answer) in [(80, "12345", "123"), (443, "1", ""), (443, "12", "12345678")] {
        let mut stream = backend.open_stream_to(port).await;
        let (mut target, _) = listener.accept().await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        target.read_exact(&mut vec![0; request.len()]).await.unwrap();
        target.write_all(answer.as_bytes()).await.unwrap();
        stream.read_exact(&mut vec![0; answer.len()]).await.unwrap();
        open.push((stream, target));
    }
    // The target of this port refuses connections, so the stream ends immediately.
    let refused = timeout(Duration::from_secs(5), async {
        backend.open_stream_to(6667).await.read(&mut [0]).await.unwrap_or_default()
    });
    assert_eq!(refused.await.expect("the refused stream did not end"), 0);
    drop(open.pop());

    let expected = [("80", [1, 1, 0, 5, 3]), ("443", [1, 2, 0, 3, 8]), ("6667", [0, 1, 1, 0, 0])];
    for (port, figures) in expected {
        backend
            .until(&format!("{figures:?}"), || async {
                let of_port = format!("port=\"{port}\"");
                let names = [
                    format!("streams{{{of_port}}}"),
                    format!("streams_total{{{of_port}}}"),
                    format!("connect_failures_total{{{of_port}}}"),
                    format!("bytes_total{{{of_port},direction=\"in\"}}"),
                    format!("bytes_total{{{of_port},direction=\"out\"}}"),
                ];
                let mut found = [0; 5];
                for (found, name) in found.iter_mut().zip(names) {
                    *found = backend.metric(&format!("onionbalance_agent_{name}")).await;
                }
                format!("{found:?}")
            })
            .await;
    }
}

/// When a Service is recreated, it has a new address. New streams must use that address, and open
/// streams must continue.
#[tokio::test]
async fn a_name_is_resolved_for_each_stream() {
    let first = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    let backend = Backend::new(&format!("web.shop.example:{port}")).await;
    let hosts = backend.dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 web.shop.example\n").unwrap();
    let _agent = agent_with_hosts(&backend);
    backend.wait_for_readiness(NO_TOR).await;

    let mut old = backend.open_stream().await;
    let (mut at_first, _) = first.accept().await.unwrap();
    std::fs::write(&hosts, "127.0.0.3 web.shop.example\n").unwrap();
    let mut new = backend.open_stream().await;
    let (mut at_second, _) = second.accept().await.unwrap();
    for (stream, target) in [(&mut old, &mut at_first), (&mut new, &mut at_second)] {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(target.read_u8().await.unwrap(), b'x');
    }

    // The name disappears from `/etc/hosts` and comes back.
    std::fs::write(&hosts, "").unwrap();
    assert_eq!(backend.open_stream().await.read(&mut [0]).await.unwrap_or_default(), 0);
    std::fs::write(&hosts, "127.0.0.2 web.shop.example\n").unwrap();
    let _stream = backend.open_stream().await;
    first.accept().await.unwrap();
}

/// The operator passes the list in a variable, and the kubelet the address of the API server.
#[tokio::test]
async fn a_name_that_resolves_to_a_refused_address_leads_nowhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("localhost:{}", listener.local_addr().unwrap().port());
    let default = RefusedTargets::default().to_string();
    for (list, api_server) in [(&*default, "10.96.0.1"), ("api-server", "127.0.0.1")] {
        let backend = Backend::new(&target).await;
        let mut program = backend.serving(backend.program());
        program.env(REFUSED_TARGETS, list).env("KUBERNETES_SERVICE_HOST", api_server);
        let _agent = program.spawn().unwrap();
        backend.wait_for_readiness(NO_TOR).await;
        let refused = timeout(Duration::from_secs(5), async {
            backend.open_stream().await.read(&mut [0]).await.unwrap_or_default()
        });
        assert_eq!(refused.await.expect("the refused stream did not end"), 0, "{list}");
        assert_eq!(backend.metric("onionbalance_agent_connect_failures_total{port=\"80\"}").await, 1, "{list}");
    }
    assert!(timeout(Duration::ZERO, listener.accept()).await.is_err(), "an agent has connected");
}

/// This tor has no circuits, so it answers each request with an error. A test on a private network
/// closes real circuits.
#[tokio::test]
async fn asks_tor_to_close_the_circuit_of_a_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    backend.limit_circuits();
    let _agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
    let tor = backend.tor();
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    let stream_of = async |circuit: u32| {
        let mut stream = backend.open_stream().await;
        let header = format!("PROXY TCP6 fc00:dead:beef:4dad::0:{circuit:x} ::1 {circuit} 80\r\nx");
        stream.write_all(header.as_bytes()).await.unwrap();
        let (mut target, _) = listener.accept().await.unwrap();
        assert_eq!(target.read_u8().await.unwrap(), b'x', "the header is removed");
        (stream, target)
    };

    let _first = stream_of(42).await;
    assert_eq!(backend.metric("onionbalance_agent_client_circuits").await, 1);
    assert_eq!(backend.close_circuit(1, 42).await, 404, "tor does not know the circuit");
    assert_eq!(backend.close_circuit(2, 43).await, 404, "the circuit has had no stream");
    drop(tor);
    backend.wait_for_readiness(NO_TOR).await;
    let _second = stream_of(43).await;
    assert_eq!(backend.close_circuit(3, 42).await, 404, "the circuit belonged to the old tor");
    assert_eq!(backend.close_circuit(4, 43).await, 503, "no tor is connected");
    let closures = "onionbalance_agent_circuit_closures_total{cause=\"request\"}";
    assert_eq!(backend.metric(closures).await, 0);
}

/// Starts the agent in its own mount namespace, with an `/etc/hosts` that the test controls.
/// Without root, the mount requires a user namespace.
fn agent_with_hosts(backend: &Backend) -> Child {
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    unshare.arg(backend.dir.path().join("hosts")).arg(env!("CARGO_BIN_EXE_onionbalance-operator"));
    backend.serving(backend.with_files(unshare)).spawn().unwrap()
}

/// The clients of one onion port cannot keep the clients of another one away, even if the agent may
/// open only 400 files.
#[tokio::test]
async fn idle_streams_on_one_port_leave_streams_for_another() {
    const IDLE: u64 = 140;
    let crowded = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let targets = [&crowded, &other].map(|listener| listener.local_addr().unwrap().to_string());
    let backend = &Backend::with_ports(&[(80, &targets[0]), (81, &targets[1])]).await;
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 400 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_onionbalance-operator")]);
    let _agent = backend.serving(backend.with_files(limited)).spawn().unwrap();
    backend.wait_for_readiness(NO_TOR).await;

    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(backend.open_stream_to(80).await);
    }
    let count = |name: &'static str| async move {
        backend.metric(&format!("onionbalance_agent_{name}_total{{port=\"80\"}}")).await
    };
    let seen = || async { (count("streams").await + count("connect_failures").await).to_string() };
    backend.until(&IDLE.to_string(), seen).await;
    assert!(count("connect_failures").await > 0, "the limit on open files has no effect");

    let mut stream = backend.open_stream_to(81).await;
    let (mut target, _) = timeout(Duration::from_secs(5), other.accept()).await.expect("there is no stream").unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(target.read_u8().await.unwrap(), b'x');
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200);
}

/// A stalled stream must use no more memory than its sockets and two small buffers, however much
/// data is waiting.
#[tokio::test]
async fn stalled_streams_use_little_memory() {
    const STREAMS: usize = 100;
    /// The maximum memory per stream, in KiB: buffers for both directions, a task, and both
    /// sockets.
    const EACH: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
    let before = resident_kib(&agent);

    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = backend.open_stream().await;
        let (mut target, _) = listener.accept().await.unwrap();
        for written in [fill(&mut stream).await, fill(&mut target).await] {
            assert!(written > EACH << 10, "the agent alone could hold the {written} bytes written");
        }
        open.push((stream, target));
    }
    let grown = resident_kib(&agent).saturating_sub(before);
    assert!(grown < STREAMS * EACH, "{STREAMS} streams use {grown} KiB");
    println!("figure forwarder_held_up_stream_kib {} KiB", grown / STREAMS);
}

/// Writes until the other side stops accepting data. Returns the number of bytes written.
async fn fill(end: &mut (impl AsyncWrite + Unpin)) -> usize {
    let piece = vec![b'x'; 1 << 20];
    let mut written = 0;
    while let Ok(taken) = timeout(Duration::from_millis(50), end.write(&piece)).await {
        written += taken.unwrap();
        assert!(written < 64 << 20, "the stream does not stall");
    }
    written
}

fn resident_kib(process: &Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
