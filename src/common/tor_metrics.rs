//! A proxy for tor's own metrics. Tor's `MetricsPort` has no authentication, so it is reachable
//! only inside the pod. The agent and the publisher serve tor's metrics at `/tor/metrics`.
//!
//! Tor carries all streams in one thread, and this thread also writes the metrics. The proxy
//! therefore asks tor at most once in `FRESH`, however many requests arrive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, timeout};

use super::http;

/// The time for which tor's response is reused. It is shorter than the usual intervals between two
/// scrapes.
const FRESH: Duration = Duration::from_secs(5);
/// The time limit for connecting to tor and receiving its response. It is shorter than Prometheus's
/// default timeout (10 s).
const DEADLINE: Duration = Duration::from_secs(5);
/// A request is answered or has failed before the next one may be sent, so tor never answers two
/// requests at a time.
const _: () = assert!(DEADLINE.as_nanos() <= FRESH.as_nanos());
/// The maximum length of tor's response in bytes. Tor's metrics for one onion service are much
/// shorter (26 kB).
const BODY_LIMIT: usize = 1024 * 1024;

/// The reason why tor's metrics are unavailable.
#[derive(Debug, thiserror::Error)]
enum TorMetricsError {
    #[error("no response within {} s", DEADLINE.as_secs())]
    Timeout,
    #[error("invalid URL")]
    Address(#[from] hyper::http::Error),
    #[error("tor does not respond: {0}")]
    Send(#[from] hyper_util::client::legacy::Error),
    #[error("the response is incomplete or too long: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("tor responded with {0}")]
    Status(StatusCode),
    #[error("the response does not contain tor's metrics")]
    Foreign,
    #[error("the request was interrupted")]
    Interrupted,
}

/// Tor's metrics, or the reason why they are unavailable. A clone shares the content.
type Answer = Result<Bytes, Arc<TorMetricsError>>;

/// Tor's metrics, as tor returned them last.
#[derive(Debug)]
struct TorMetrics {
    port: u16,
    last: Mutex<Option<Question>>,
}

/// A request to tor, which may still be unanswered.
#[derive(Debug)]
struct Question {
    asked: Instant,
    answer: Shared<BoxFuture<'static, Answer>>,
}

/// Returns the router that serves `/tor/metrics`, for a tor whose `MetricsPort` is `port` on
/// 127.0.0.1.
pub fn router<S: Clone + Send + Sync + 'static>(port: u16) -> Router<S> {
    let metrics = Arc::new(TorMetrics::new(port));
    Router::new().route("/tor/metrics", get(move || answer(metrics.clone())))
}

async fn answer(metrics: Arc<TorMetrics>) -> Response {
    let answer = metrics.current();
    match answer.await {
        Ok(text) => http::metrics(text).into_response(),
        Err(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("cannot read tor's metrics: {error}\n")).into_response()
        }
    }
}

impl TorMetrics {
    fn new(port: u16) -> Self {
        Self { port, last: Mutex::default() }
    }

    /// Returns the answer to the last request to tor, which may not have arrived yet. If the last
    /// request is too old, sends a new one first.
    fn current(&self) -> Shared<BoxFuture<'static, Answer>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Question { asked, answer }) = &*last
            && asked.elapsed() < FRESH
        {
            return answer.clone();
        }
        // A separate task continues if the requester leaves, so that a requester that always leaves
        // cannot cause one request to tor after another.
        let asking = tokio::spawn(timeout(DEADLINE, ask(self.port)));
        let answer = async move {
            let answer = asking.await.map_err(|_| TorMetricsError::Interrupted)?;
            answer.unwrap_or(Err(TorMetricsError::Timeout))
        };
        let answer = answer.map(|answer| answer.map_err(Arc::new)).boxed().shared();
        *last = Some(Question { asked: Instant::now(), answer: answer.clone() });
        answer
    }
}

async fn ask(port: u16) -> Result<Bytes, TorMetricsError> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http::<Empty<Bytes>>();
    let request = hyper::Request::get(format!("http://127.0.0.1:{port}/metrics")).body(Empty::new())?;
    let (head, body) = client.request(request).await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(TorMetricsError::Status(head.status));
    }
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(TorMetricsError::Body)?.to_bytes();
    if str::from_utf8(&body).is_ok_and(is_tors) { Ok(body) } else { Err(TorMetricsError::Foreign) }
}

/// Returns true if the text contains nothing but tor's metrics. A compromised tor must not be able
/// to report metrics on behalf of the agent or the publisher.
fn is_tors(text: &str) -> bool {
    text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.starts_with("tor_"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;
    use tokio::task::yield_now;
    use tokio::time::sleep;

    use super::*;

    /// Returns the status and body of `/tor/metrics` for a metrics port that sends this reply.
    async fn from(reply: Vec<u8>) -> (StatusCode, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            // The reader closes the connection when it has read enough.
            let _ = stream.write_all(&reply).await;
        });
        let (head, body) = answer(Arc::new(TorMetrics::new(port))).await.into_parts();
        serve.await.unwrap();
        (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap())
    }

    fn reply(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.0 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
    }

    #[tokio::test]
    async fn tors_metrics_are_passed_on() {
        let text = "# HELP tor_x Said\n# TYPE tor_x counter\ntor_x{a=\"b\"} 1\n";
        assert_eq!(from(reply("200 OK", text)).await, (StatusCode::OK, text.to_owned()));
    }

    #[tokio::test]
    async fn a_response_without_tors_metrics_is_an_error() {
        let endless = "tor_x 1\n".repeat(BODY_LIMIT / 8 + 1);
        let mut cut_off = reply("200 OK", "tor_x 1\n");
        cut_off.pop();
        for (reply, said) in [
            (
                reply("200 OK", "tor_x 1\nonionbalance_agent_streams 5\n"),
                "cannot read tor's metrics: the response does not contain tor's metrics\n",
            ),
            (reply("404 Not Found", ""), "cannot read tor's metrics: tor responded with 404 Not Found\n"),
            (reply("200 OK", &endless), "cannot read tor's metrics: the response is incomplete or too long: "),
            (cut_off, "cannot read tor's metrics: the response is incomplete or too long: "),
            (b"nonsense\r\n\r\n".to_vec(), "cannot read tor's metrics: tor does not respond: "),
        ] {
            let (status, text) = from(reply).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.starts_with(said), "{text}");
        }
    }

    #[tokio::test]
    async fn a_tor_that_does_not_respond_is_an_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::time::pause();
        let metrics = Arc::new(TorMetrics::new(port));
        let silent = answer(metrics.clone()).await;
        assert_eq!(silent.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(listener);
        sleep(FRESH).await;
        assert_eq!(answer(metrics).await.status(), StatusCode::SERVICE_UNAVAILABLE, "nothing listens");
    }

    /// A metrics port that counts its requests, and answers each of them when told to.
    struct Counting {
        metrics: Arc<TorMetrics>,
        asked: Arc<AtomicUsize>,
        release: Arc<Semaphore>,
    }

    impl Counting {
        async fn start() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let metrics = Arc::new(TorMetrics::new(listener.local_addr().unwrap().port()));
            let (asked, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
            tokio::spawn({
                let (asked, release) = (asked.clone(), release.clone());
                async move {
                    loop {
                        let (mut stream, _) = listener.accept().await.unwrap();
                        let (asked, release) = (asked.clone(), release.clone());
                        tokio::spawn(async move {
                            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                            let count = asked.fetch_add(1, Ordering::Relaxed) + 1;
                            release.acquire().await.unwrap().forget();
                            // The proxy may have closed the connection.
                            let _ = stream.write_all(&reply("200 OK", &format!("tor_x {count}\n"))).await;
                        });
                    }
                }
            });
            Self { metrics, asked, release }
        }

        async fn get(&self) -> String {
            let body = answer(self.metrics.clone()).await.into_body();
            String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn many_requests_share_one_question_to_tor() {
        let tor = Counting::start().await;
        let mut requests: Vec<_> = (0..200).map(|_| tokio::spawn(answer(tor.metrics.clone()))).collect();
        while tor.asked() == 0 {
            yield_now().await;
        }
        tokio::time::pause();
        // Half of the requesters leave before tor answers.
        requests.drain(..100).for_each(|request| request.abort());
        tor.release.add_permits(1);
        for request in requests {
            assert_eq!(request.await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!((tor.get().await.as_str(), tor.asked()), ("tor_x 1\n", 1));
    }

    #[tokio::test]
    async fn an_answer_is_reused_for_five_seconds() {
        let tor = Counting::start().await;
        tor.release.add_permits(9);
        tokio::time::pause();
        assert_eq!(tor.get().await, "tor_x 1\n");
        sleep(Duration::from_secs(4)).await;
        assert_eq!(tor.get().await, "tor_x 1\n");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(tor.get().await, "tor_x 2\n");
        assert_eq!(tor.asked(), 2);
    }

    #[tokio::test]
    async fn a_requester_that_leaves_does_not_cause_another_question() {
        let tor = Counting::start().await;
        for _ in 0..50 {
            let request = tokio::spawn(answer(tor.metrics.clone()));
            yield_now().await;
            while tor.asked() == 0 {
                yield_now().await;
            }
            request.abort();
            assert!(request.await.is_err_and(|error| error.is_cancelled()));
        }
        tokio::time::pause();
        tor.release.add_permits(1);
        assert_eq!((tor.get().await.as_str(), tor.asked()), ("tor_x 1\n", 1));
    }
}
