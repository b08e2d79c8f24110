//! Tests with real sockets on the loopback interface. To reach a time limit, a test pauses the
//! clock, which then advances whenever every task is waiting.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

use super::*;

/// The length of the long response. It exceeds what the kernel buffers for a connection.
const LONG: usize = 64 << 20;
const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// A running server.
struct Bench {
    address: SocketAddr,
    stop: CancellationToken,
    /// The number of requests to `/wait` that the server has begun to answer.
    begun: Arc<AtomicUsize>,
    /// Each permit lets one request to `/wait` end.
    ends: Arc<Semaphore>,
    /// The server's task.
    task: JoinHandle<()>,
}

impl Bench {
    async fn new(limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (begun, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let wait = {
            let (begun, ends) = (begun.clone(), ends.clone());
            move || {
                let ends = ends.clone();
                begun.fetch_add(1, Ordering::Relaxed);
                async move {
                    ends.acquire().await.unwrap().forget();
                    "waited"
                }
            }
        };
        let router = Router::new()
            .route("/", get(|| ready("here")))
            .route("/long", get(|| ready(vec![b'x'; LONG])))
            .route("/echo", post(|body: Bytes| ready(body)))
            .route("/wait", get(wait));
        let task = tokio::spawn(serve_some(listener, router, limit, stop.clone()));
        Self { address, stop, begun, ends, task }
    }

    /// Opens a connection and sends some bytes.
    async fn send(&self, bytes: &str) -> TcpStream {
        self.send_from([127, 0, 0, 1], bytes).await
    }

    /// Opens a connection from the given address and sends some bytes.
    async fn send_from(&self, from: [u8; 4], bytes: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// Opens a connection from the given address, sends a request, and waits until the server has
    /// begun to answer the request.
    async fn wait_from(&self, from: [u8; 4]) -> TcpStream {
        let before = self.begun.load(Ordering::Relaxed);
        let stream = self.send_from(from, "GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
        while self.begun.load(Ordering::Relaxed) == before {
            yield_now().await;
        }
        stream
    }
}

/// Reads one short response, which arrives in a single piece.
async fn response(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let length = stream.read(&mut buffer).await.unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// Reads until the server closes the connection. Unread bytes make the kernel report a reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Pauses the clock, waits until the server closes a connection, and checks that this takes about
/// ten seconds.
async fn closes_after_ten_seconds(mut stream: TcpStream) -> String {
    tokio::time::pause();
    let start = Instant::now();
    let text = rest(&mut stream).await;
    let after = start.elapsed();
    assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&after), "{after:?}");
    text
}

#[tokio::test]
async fn a_connection_without_a_complete_head_is_closed() {
    for half in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let bench = Bench::new(8).await;
        let stream = bench.send(half).await;
        assert_eq!(closes_after_ten_seconds(stream).await, "", "{half:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let bench = Bench::new(8).await;
    let mut stream = bench.send(GET).await;
    assert!(response(&mut stream).await.ends_with("here"));
    assert_eq!(closes_after_ten_seconds(stream).await, "");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_an_error() {
    let bench = Bench::new(8).await;
    let stream = bench.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf").await;
    let text = closes_after_ten_seconds(stream).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
}

#[tokio::test]
async fn a_complete_body_is_answered() {
    let bench = Bench::new(8).await;
    let mut stream = bench.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nwh").await;
    stream.write_all(b"ole").await.unwrap();
    assert!(response(&mut stream).await.ends_with("\r\n\r\nwhole"));
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_response_is_cut_off() {
    let bench = Bench::new(8).await;
    let mut stream = bench.send("GET /long HTTP/1.0\r\n\r\n").await;
    // The first bytes show that the server is writing.
    stream.read_u8().await.unwrap();
    tokio::time::pause();
    sleep(Duration::from_secs(12)).await;
    assert!(rest(&mut stream).await.len() < LONG / 2, "the server must not wait for this peer");
}

#[tokio::test]
async fn a_long_answer_is_awaited() {
    let bench = Bench::new(8).await;
    let mut stream = bench.wait_from([127, 0, 0, 1]).await;
    tokio::time::pause();
    sleep(Duration::from_secs(3600)).await;
    bench.ends.add_permits(1);
    assert!(response(&mut stream).await.ends_with("waited"));
}

#[tokio::test]
async fn half_requests_beyond_the_limit_displace_the_oldest_and_not_a_whole_request() {
    let bench = Bench::new(4).await;
    let mut halves = Vec::new();
    for round in 0..100 {
        halves.push(bench.send("GET / HTTP/1.1\r\n").await);
        if round % 10 == 9 {
            let mut probe = bench.send("GET / HTTP/1.0\r\n\r\n").await;
            assert!(rest(&mut probe).await.ends_with("here"), "round {round}");
        }
    }
    // At most four are still open, which these bytes complete.
    let mut answered = 0;
    for mut half in halves {
        let _ = half.write_all(b"connection: close\r\n\r\n").await;
        answered += usize::from(rest(&mut half).await.ends_with("here"));
    }
    assert!((1..=4).contains(&answered), "{answered} connections were open");
}

#[tokio::test]
async fn a_peer_that_occupies_every_place_makes_room_for_another_peer() {
    let bench = Bench::new(9).await;
    let mut flood = Vec::new();
    for _ in 0..9 {
        flood.push(bench.wait_from([127, 0, 0, 66]).await);
    }
    let mut refused = bench.send_from([127, 0, 0, 66], "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(rest(&mut refused).await, "", "a peer does not displace its own requests");
    let mut probe = bench.send("GET / HTTP/1.0\r\n\r\n").await;
    assert!(rest(&mut probe).await.ends_with("here"));
    assert_eq!(rest(&mut flood[0]).await, "", "the oldest request of the flood has been given up");
    bench.ends.add_permits(8);
    for stream in &mut flood[1..] {
        assert!(response(stream).await.ends_with("waited"));
    }
}

#[tokio::test]
async fn a_stopped_server_answers_the_requests_in_progress_and_accepts_no_more() {
    let bench = Bench::new(8).await;
    let mut waiting = bench.wait_from([127, 0, 0, 1]).await;
    bench.stop.cancel();
    while TcpStream::connect(bench.address).await.is_ok() {
        yield_now().await;
    }
    assert!(!bench.task.is_finished());
    bench.ends.add_permits(1);
    assert!(rest(&mut waiting).await.ends_with("waited"));
    bench.task.await.unwrap();
}
