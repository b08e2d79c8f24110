//! A proxy for tor's own metrics. Tor's `MetricsPort` has no authentication, so it is reachable
//! only inside the pod. The agent and the publisher serve tor's metrics at `/tor/metrics`.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::http;

/// The time limit for connecting to tor and receiving its response. It is shorter than Prometheus's
/// default timeout (10 s).
const DEADLINE: Duration = Duration::from_secs(5);
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
}

/// Returns the router that serves `/tor/metrics`, for a tor whose `MetricsPort` is `port` on
/// 127.0.0.1.
pub fn router<S: Clone + Send + Sync + 'static>(port: u16) -> Router<S> {
    Router::new().route("/tor/metrics", get(move || answer(port)))
}

async fn answer(port: u16) -> Response {
    match timeout(DEADLINE, ask(port)).await.unwrap_or(Err(TorMetricsError::Timeout)) {
        Ok(text) => http::metrics(text).into_response(),
        Err(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("cannot read tor's metrics: {error}\n")).into_response()
        }
    }
}

async fn ask(port: u16) -> Result<String, TorMetricsError> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http::<Empty<Bytes>>();
    let request = hyper::Request::get(format!("http://127.0.0.1:{port}/metrics")).body(Empty::new())?;
    let (head, body) = client.request(request).await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(TorMetricsError::Status(head.status));
    }
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(TorMetricsError::Body)?.to_bytes();
    let text = String::from_utf8(body.into()).map_err(|_| TorMetricsError::Foreign)?;
    if is_tors(&text) { Ok(text) } else { Err(TorMetricsError::Foreign) }
}

/// Returns true if the text contains nothing but tor's metrics. A compromised tor must not be able
/// to report metrics on behalf of the agent or the publisher.
fn is_tors(text: &str) -> bool {
    text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.starts_with("tor_"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

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
        let (head, body) = answer(port).await.into_parts();
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
        let silent = answer(port).await;
        assert_eq!(silent.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(listener);
        assert_eq!(answer(port).await.status(), StatusCode::SERVICE_UNAVAILABLE, "nothing listens");
    }
}
