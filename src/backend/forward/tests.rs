use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

impl Port {
    pub fn for_tests(number: u16, target: &str) -> Self {
        Self::new(&ForwardedPort { name: None, port: number, target: target.to_owned() })
    }
}

/// A forwarder for port 80 in a directory of its own.
struct Bench {
    dir: tempfile::TempDir,
    traffic: Arc<Traffic>,
}

impl Bench {
    fn new(target: &str, max_streams: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path().to_owned());
        std::fs::create_dir(run_dir.forward()).unwrap();
        let ports = [ForwardedPort { name: None, port: 80, target: target.to_owned() }];
        let forwarder = Forwarder::bind(&run_dir, &ports, max_streams).unwrap();
        let traffic = forwarder.traffic();
        tokio::spawn(forwarder.run());
        Self { dir, traffic }
    }

    async fn open(&self) -> UnixStream {
        UnixStream::connect(RunDir::new(self.dir.path().to_owned()).forward_socket(80)).await.unwrap()
    }

    async fn until_open_streams_are(&self, count: u64) {
        self.traffic.watch_open().wait_for(|open| *open == count).await.unwrap();
    }

    fn counter(&self, which: fn(&Port) -> &AtomicU64) -> u64 {
        which(&self.traffic.ports()[0]).load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_request_that_ends_by_half_close_gets_its_whole_answer() {
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
async fn a_target_that_speaks_first_and_closes_first() {
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
async fn a_target_that_does_not_notice_the_end_is_given_up_once_it_is_quiet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::new(&listener.local_addr().unwrap().to_string(), 8);
    let mut stream = bench.open().await;
    let (mut target, _) = listener.accept().await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(target.read(&mut [0]).await.unwrap(), 0);

    // From here the clock goes on whenever everybody waits.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        sleep(Duration::from_secs(10)).await;
        target.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
    }
    assert_eq!(bench.traffic.open(), 1);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_secs(65), "{:?}", start.elapsed());
    bench.until_open_streams_are(0).await;
}

#[tokio::test]
async fn a_refusing_target_closes_the_stream_at_once_and_a_later_one_is_found() {
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

#[tokio::test]
async fn a_name_that_does_not_resolve_closes_the_stream() {
    // RFC 6761, section 6.4: never resolves.
    let bench = Bench::new("web.invalid:80", 8);
    assert_eq!(bench.open().await.read(&mut [0]).await.unwrap(), 0);
    bench.until_open_streams_are(0).await;
    assert_eq!(bench.counter(|port| &port.connect_failures), 1);
}

#[tokio::test]
async fn one_stream_too_many_is_refused_and_the_others_go_on() {
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
async fn an_earlier_agents_socket_is_replaced_and_another_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("80.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a socket outlives its listener");
    let _listener = bind_fresh(&path).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[test]
fn the_limit_on_open_files_bounds_the_streams() {
    let limit = stream_limit();
    assert!((1..=MAX_STREAMS).contains(&limit));
    assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
}
