//! tor's own metrics, passed on beside ours: its `MetricsPort` asks nobody who he is, so it listens inside the pod only.

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

/// tor's time to answer, connecting included: shorter than Prometheus waits by default (10 s).
const DEADLINE: Duration = Duration::from_secs(5);
/// Many times what tor says of one onion service (26 kB).
const BODY_LIMIT: usize = 1024 * 1024;

/// Why there are none.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Timeout,
    #[error("not an address")]
    Address(#[from] hyper::http::Error),
    #[error("it does not answer: {0}")]
    Send(#[from] hyper_util::client::legacy::Error),
    #[error("the answer broke off or is too long: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("the answer is not of tor's metrics")]
    Foreign,
}

/// `/tor/metrics`, from the tor whose `MetricsPort` is 127.0.0.1 with this port.
pub fn router<S: Clone + Send + Sync + 'static>(port: u16) -> Router<S> {
    Router::new().route("/tor/metrics", get(move || answer(port)))
}

async fn answer(port: u16) -> Response {
    match timeout(DEADLINE, ask(port)).await.unwrap_or(Err(Error::Timeout)) {
        Ok(text) => http::metrics(text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("tor's metrics: {error}\n")).into_response(),
    }
}

async fn ask(port: u16) -> Result<String, Error> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http::<Empty<Bytes>>();
    let request = hyper::Request::get(format!("http://127.0.0.1:{port}/metrics")).body(Empty::new())?;
    let (head, body) = client.request(request).await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(Error::Status(head.status));
    }
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(Error::Body)?.to_bytes();
    let text = String::from_utf8(body.into()).map_err(|_| Error::Foreign)?;
    if is_tors(&text) { Ok(text) } else { Err(Error::Foreign) }
}

/// What else listens there must not speak as the agent or the publisher.
fn is_tors(text: &str) -> bool {
    text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.starts_with("tor_"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of a port that answers like this.
    async fn from(reply: Vec<u8>) -> (StatusCode, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            // Who has read enough closes.
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
    async fn what_tor_says_is_passed_on() {
        let text = "# HELP tor_x Said\n# TYPE tor_x counter\ntor_x{a=\"b\"} 1\n";
        assert_eq!(from(reply("200 OK", text)).await, (StatusCode::OK, text.to_owned()));
    }

    #[tokio::test]
    async fn what_is_not_tors_metrics_is_not() {
        let endless = "tor_x 1\n".repeat(BODY_LIMIT / 8 + 1);
        let mut cut_off = reply("200 OK", "tor_x 1\n");
        cut_off.pop();
        for (reply, said) in [
            (
                reply("200 OK", "tor_x 1\nonionbalance_agent_streams 5\n"),
                "tor's metrics: the answer is not of tor's metrics\n",
            ),
            (reply("404 Not Found", ""), "tor's metrics: it answered 404 Not Found\n"),
            (reply("200 OK", &endless), "tor's metrics: the answer broke off or is too long: "),
            (cut_off, "tor's metrics: the answer broke off or is too long: "),
            (b"nonsense\r\n\r\n".to_vec(), "tor's metrics: it does not answer: "),
        ] {
            let (status, text) = from(reply).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.starts_with(said), "{text}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_not_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::time::pause();
        let silent = answer(port).await;
        assert_eq!(silent.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(listener);
        assert_eq!(answer(port).await.status(), StatusCode::SERVICE_UNAVAILABLE, "nobody is there");
    }
}
