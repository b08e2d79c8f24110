use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::link::{CircuitLimits, RefusedTargets, TargetCheck};

impl ForwarderPort {
    pub fn for_tests(number: u16, target: &str) -> Self {
        Self::new(&forwarded(number, target), HeaderUse::Absent)
    }
}

fn forwarded(port: u16, target: &str) -> ForwardedPort {
    ForwardedPort {
        name: None,
        port,
        target: target.to_owned(),
        proxy_header: false,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    }
}

const BACKEND: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// A running forwarder in its own temporary directory.
struct Bench {
    dir: tempfile::TempDir,
    traffic: Arc<Traffic>,
}

impl Bench {
    fn new(target: &str, max_streams: usize) -> Self {
        Self::of(vec![forwarded(80, target)], max_streams)
    }

    fn of(ports: Vec<ForwardedPort>, max_streams: usize) -> Self {
        Self::with(ports, max_streams, Connector::default())
    }

    fn with(ports: Vec<ForwardedPort>, max_streams: usize, connector: Connector) -> Self {
        Self::start(ports, max_streams, connector, None)
    }

    fn start(
        ports: Vec<ForwardedPort>,
        max_streams: usize,
        connector: Connector,
        circuit_limits: Option<CircuitLimits>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path().to_owned());
        std::fs::create_dir(run_dir.forward()).unwrap();
        let backend = BACKEND.parse().unwrap();
        let config = AgentConfig {
            master_onion_address: backend,
            ports,
            introduction_points: 3,
            drain_timeout_seconds: 0,
            linger_seconds: 0,
            circuit_limits,
        };
        let forwarder =
            Forwarder::bind(&run_dir, &config, &backend, max_streams).unwrap().connecting_with(Arc::new(connector));
        let traffic = forwarder.traffic();
        tokio::spawn(forwarder.run());
        Self { dir, traffic }
    }

    async fn open(&self) -> UnixStream {
        self.open_port(80).await
    }

    async fn open_port(&self, port: u16) -> UnixStream {
        UnixStream::connect(RunDir::new(self.dir.path().to_owned()).forward_socket(port)).await.unwrap()
    }

    async fn until_open_streams_are(&self, count: u64) {
        self.traffic.watch_open().wait_for(|open| *open == count).await.unwrap();
    }

    fn counter(&self, which: fn(&ForwarderPort) -> &AtomicU64) -> u64 {
        which(&self.traffic.ports()[0]).load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_half_closed_request_gets_its_whole_response() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&format!("localhost:{}", listener.local_addr().unwrap().port()), 8);
    let target = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.unwrap();
        stream.write_all(&request.repeat(1000)).await.unwrap();
    });
    let mut stream = bench.open().await;
    stream.write_all(b"request").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"request".repeat(1000));
    target.await.unwrap();
    bench.until_open_streams_are(0).await;
    assert_eq!(bench.counter(|port| &port.bytes_in), 7);
    assert_eq!(bench.counter(|port| &port.bytes_out), 7000);
    assert_eq!(bench.counter(|port| &port.opened), 1);
    assert_eq!(bench.counter(|port| &port.open), 0);
    assert_eq!(bench.counter(|port| &port.connect_failures), 0);
}

#[tokio::test]
async fn a_stream_to_a_refused_address_ends_without_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("localhost:{}", listener.local_addr().unwrap().port());
    let connector = Connector::new(RefusedTargets::default(), None);
    let bench = Bench::with(vec![forwarded(80, &target)], 8, connector);
    let mut stream = bench.open().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0);
    bench.until_open_streams_are(0).await;
    assert_eq!(bench.counter(|port| &port.connect_failures), 1);
    let accepted = timeout(Duration::ZERO, listener.accept()).await;
    assert!(accepted.is_err(), "the agent has connected: {accepted:?}");
}

#[tokio::test]
async fn a_target_may_send_first_and_close_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&listener.local_addr().unwrap().to_string(), 8);
    let mut stream = bench.open().await;
    let (mut target, _) = listener.accept().await.unwrap();
    target.write_all(b"220 hello").await.unwrap();
    target.shutdown().await.unwrap();
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).await.unwrap();
    assert_eq!(greeting, "220 hello");
    bench.until_open_streams_are(1).await;
    drop(stream);
    bench.until_open_streams_are(0).await;
}

#[tokio::test]
async fn a_half_closed_stream_ends_once_the_target_is_idle() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&listener.local_addr().unwrap().to_string(), 8);
    let mut stream = bench.open().await;
    let (mut target, _) = listener.accept().await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(target.read(&mut [0]).await.unwrap(), 0);

    // From here on, the clock advances whenever every task is waiting.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        sleep(Duration::from_secs(10)).await;
        target.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
    }
    assert_eq!(bench.traffic.open(), 1);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let expected = Duration::from_secs(65)..=Duration::from_secs(80);
    assert!(expected.contains(&start.elapsed()), "{:?}", start.elapsed());
    bench.until_open_streams_are(0).await;
}

#[tokio::test]
async fn a_refusing_target_closes_the_stream_at_once_and_can_recover() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bench = Bench::new(&address.to_string(), 8);
    assert_eq!(bench.open().await.read(&mut [0]).await.unwrap(), 0);
    bench.until_open_streams_are(0).await;
    assert_eq!(bench.counter(|port| &port.connect_failures), 1);

    let listener = TcpListener::bind(address).await.unwrap();
    let _stream = bench.open().await;
    listener.accept().await.unwrap();
    bench.until_open_streams_are(1).await;
}

/// Returns the time until the forwarder closes a stream. Until then, the clock advances whenever
/// every task is waiting.
async fn closed_after(stream: &mut UnixStream) -> Duration {
    tokio::time::pause();
    let after = closed_after_in_paused_time(stream).await;
    tokio::time::resume();
    after
}

async fn closed_after_in_paused_time(stream: &mut UnixStream) -> Duration {
    let start = tokio::time::Instant::now();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    start.elapsed()
}

#[tokio::test]
async fn a_target_that_does_not_answer_costs_a_stream_for_15_seconds() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Linux ignores further connection requests while one connection more than the backlog waits.
    let _waiting = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let bench = Bench::new(&address.to_string(), 8);
    let after = closed_after(&mut bench.open().await).await;
    assert!((Duration::from_secs(14)..=Duration::from_secs(16)).contains(&after), "{after:?}");
    assert_eq!(bench.counter(|port| &port.connect_failures), 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_closes_the_stream() {
    // A name under `.invalid` never resolves (RFC 6761, section 6.4).
    let bench = Bench::new("web.invalid:80", 8);
    assert_eq!(bench.open().await.read(&mut [0]).await.unwrap(), 0);
    bench.until_open_streams_are(0).await;
    assert_eq!(bench.counter(|port| &port.connect_failures), 1);
}

#[tokio::test]
async fn a_stream_over_the_limit_is_refused_and_the_others_continue() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&listener.local_addr().unwrap().to_string(), 1);
    let mut first = bench.open().await;
    let (mut target, _) = listener.accept().await.unwrap();
    assert_eq!(bench.open().await.read(&mut [0]).await.unwrap(), 0);
    target.write_all(b"x").await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'x');
    drop((first, target));
    bench.until_open_streams_are(0).await;
    let _again = bench.open().await;
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_port_whose_streams_are_all_open_leaves_streams_to_another_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let bench = Bench::of(vec![forwarded(80, &target), forwarded(81, &target)], 8);
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push((bench.open_port(80).await, listener.accept().await.unwrap()));
    }
    assert_eq!(bench.open_port(80).await.read(&mut [0]).await.unwrap(), 0, "two streams belong to port 81");
    for _ in 0..2 {
        open.push((bench.open_port(81).await, listener.accept().await.unwrap()));
    }
    assert_eq!(bench.open_port(81).await.read(&mut [0]).await.unwrap(), 0);
    bench.until_open_streams_are(8).await;
}

#[tokio::test]
async fn a_circuit_with_too_many_streams_leaves_streams_to_another_circuit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let wants = ForwardedPort { proxy_header: true, ..forwarded(80, &target) };
    let bench = Bench::of(vec![wants, forwarded(81, &target)], 16);
    let open = async |circuit: u16, port: u16| {
        let mut stream = bench.open_port(port).await;
        let header = format!("PROXY TCP6 fc00:dead:beef:4dad::0:{circuit:x} ::1 {circuit} {port}\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        stream
    };
    let mut held = Vec::new();
    for port in [80, 81] {
        held.push((open(42, port).await, listener.accept().await.unwrap()));
    }
    assert_eq!(open(42, 80).await.read(&mut [0]).await.unwrap(), 0, "an eighth of all streams are two");
    held.push((open(43, 80).await, listener.accept().await.unwrap()));

    // When a stream of the circuit has ended, the circuit may open another one.
    held.remove(0);
    bench.until_open_streams_are(2).await;
    let _again = open(42, 80).await;
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn an_idle_stream_ends_after_the_timeout_of_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let limited = ForwardedPort { idle_timeout_seconds: Some(60), ..forwarded(80, &target) };
    let bench = Bench::of(vec![limited, forwarded(81, &target)], 8);
    let (mut idle, mut limited_target) = (bench.open_port(80).await, listener.accept().await.unwrap().0);
    let (mut unlimited, mut other_target) = (bench.open_port(81).await, listener.accept().await.unwrap().0);
    // Data in either direction counts.
    limited_target.write_all(b"x").await.unwrap();
    idle.read_u8().await.unwrap();

    tokio::time::pause();
    sleep(Duration::from_secs(50)).await;
    idle.write_all(b"y").await.unwrap();
    limited_target.read_u8().await.unwrap();
    let after = closed_after_in_paused_time(&mut idle).await;
    assert!((Duration::from_secs(59)..=Duration::from_secs(61)).contains(&after), "{after:?}");
    assert_eq!(limited_target.read(&mut [0]).await.unwrap(), 0, "the target learns of the end, too");

    sleep(Duration::from_secs(86_400)).await;
    unlimited.write_all(b"z").await.unwrap();
    assert_eq!(other_target.read_u8().await.unwrap(), b'z');
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&listener.local_addr().unwrap().to_string(), 8);
    let (from_tor, to_tor) = bench.open().await.into_split();
    let (from_target, to_target) = listener.accept().await.unwrap().0.into_split();
    let inward = fill_until_blocked(to_tor, from_target).await;
    assert_eq!(bench.counter(|port| &port.bytes_in), inward);
    let outward = fill_until_blocked(to_target, from_tor).await;
    assert_eq!(bench.counter(|port| &port.bytes_out), outward);
}

/// Writes until the stream accepts no more data, then reads everything back. Returns the number of
/// bytes.
async fn fill_until_blocked(mut from: impl AsyncWrite + Unpin, mut to: impl AsyncRead + Unpin) -> u64 {
    let piece: Vec<u8> = (0..=250).cycle().take(251 * 256).collect();
    let mut written = 0;
    while let Ok(taken) = timeout(Duration::from_millis(500), from.write(&piece[written % 251..])).await {
        written += taken.unwrap();
        // Linux buffers a few megabytes per socket, and there are four sockets on the way.
        assert!(written < 64 << 20, "the writer is never blocked");
    }
    let mut read = vec![0; written];
    to.read_exact(&mut read).await.unwrap();
    assert!(read.iter().zip(piece[..251].iter().cycle()).all(|(is, was)| is == was), "the bytes arrive in order");
    written as u64
}

/// The header that tor writes before the client's bytes for its circuit 42.
const HEADER: &str = "PROXY TCP6 fc00:dead:beef:4dad::0:2a ::1 42 80\r\n";

#[tokio::test]
async fn only_ports_with_the_option_pass_tors_header_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let wants = ForwardedPort { proxy_header: true, ..forwarded(80, &target) };
    let bench = Bench::of(vec![wants, forwarded(81, &target)], 64);
    // The mark of the backend is the beginning of its public key.
    let marked = "PROXY TCP6 fc00:dead:beef:4dad:d1b3:8b83:0:2a ::1 42 80\r\n";
    for (port, begins) in [(80, marked), (81, "")] {
        let mut stream = bench.open_port(port).await;
        stream.write_all(format!("{HEADER}hel").as_bytes()).await.unwrap();
        let (mut target, _) = listener.accept().await.unwrap();
        stream.write_all(b"lo").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = String::new();
        target.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, format!("{begins}hello"), "port {port}");
        let bytes = bench.traffic.ports().iter().find(|p| p.number == port).unwrap().bytes_in.load(Ordering::Relaxed);
        assert_eq!(bytes, 5, "the client's own bytes are counted");
    }
}

#[tokio::test]
async fn with_limits_of_circuits_tors_header_is_removed_and_streams_are_limited() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = vec![forwarded(80, &listener.local_addr().unwrap().to_string())];
    let limits = CircuitLimits { open_streams: 1, new_streams: None, bytes_per_second: None };
    let bench = Bench::start(ports, 64, Connector::default(), Some(limits));
    let mut stream = bench.open().await;
    stream.write_all(format!("{HEADER}hello").as_bytes()).await.unwrap();
    let (mut target, _) = listener.accept().await.unwrap();
    let mut received = [0; 5];
    target.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"hello");
    let mut second = bench.open().await;
    second.write_all(HEADER.as_bytes()).await.unwrap();
    assert_eq!(second.read(&mut [0]).await.unwrap(), 0, "the circuit may have one stream");
}

#[tokio::test]
async fn a_target_may_send_before_the_client_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wants = ForwardedPort { proxy_header: true, ..forwarded(80, &listener.local_addr().unwrap().to_string()) };
    let bench = Bench::of(vec![wants], 64);
    let mut stream = bench.open().await;
    stream.write_all(HEADER.as_bytes()).await.unwrap();
    let (mut target, _) = listener.accept().await.unwrap();
    target.write_all(b"220 hello").await.unwrap();
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello");
}

/// A client must not be able to forge the header that identifies its circuit.
#[tokio::test]
async fn a_stream_without_tors_header_never_reaches_the_target() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let wants = ForwardedPort { proxy_header: true, ..forwarded(80, &target) };
    let bench = Bench::of(vec![wants, forwarded(81, &target)], 64);
    for port in [80, 81] {
        let mut stream = bench.open_port(port).await;
        stream.write_all(&[b'x'; 500]).await.unwrap();
        // Because of the unread bytes, the kernel reports the end of the stream as a reset.
        let end = stream.read(&mut [0]).await;
        assert!(end.is_err() || end.is_ok_and(|length| length == 0));
        let mut silent = bench.open_port(port).await;
        assert!(closed_after(&mut silent).await <= Duration::from_secs(6), "tor writes the header at once");
    }
    assert_eq!(bench.traffic.ports().iter().map(|port| port.connect_failures.load(Ordering::Relaxed)).sum::<u64>(), 4);
    assert!(
        timeout(Duration::from_millis(100), listener.accept()).await.is_err(),
        "the target must not receive a stream"
    );
}

#[tokio::test]
async fn the_socket_of_an_earlier_agent_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("80.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a socket outlives its listener");
    let _listener = bind_fresh(&path).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_cannot_connect_causes_a_check_of_the_target() {
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let bench = Bench::new(&refusing, 10);
    let doubt = bench.traffic.ports()[0].doubt.clone();
    let mut stream = bench.open().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the stream ends");
    doubt.notified().await;
}
