//! The command `probe`, which `helm test` runs in a pod of its own. It reads an operator's metrics
//! through the operator's Service. Only a Ready operator receives the request, and an operator is
//! Ready once it has listed every kind that it watches. So a success proves that the CRD and the
//! permissions are in place. The image has no other program that could send the request.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, timeout};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// The time limit for one attempt. A request that gets lost must not use up the time of the others.
const DEADLINE: Duration = Duration::from_secs(5);
/// The maximum length of the response in bytes.
const BODY_LIMIT: usize = 1024 * 1024;
/// The beginning of each of the operator's metrics.
const PREFIX: &str = "onionbalance_operator_";

/// The arguments of `onionbalance-operator probe`.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// Host and port of the operator's metrics, for example
    /// `onionbalance-operator.onionbalance-system.svc:9402`
    address: String,
    /// Number of attempts, one a second
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
}

/// The error returned if no attempt reached a Ready operator.
#[derive(Debug, thiserror::Error)]
#[error(
    "no Ready operator has answered at {address}: {cause}; check the operator's pods: \
     kubectl get pods -A -l app.kubernetes.io/name=onionbalance-operator"
)]
pub struct ProbeError {
    address: String,
    cause: AttemptError,
}

/// The reason why one attempt failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("no response within {} s", DEADLINE.as_secs())]
    Timeout,
    #[error("invalid address: {0}")]
    Address(#[from] hyper::http::Error),
    #[error("{}", chain(.0))]
    Send(#[from] hyper_util::client::legacy::Error),
    #[error("the response is incomplete or too long: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the response is {0}")]
    Status(StatusCode),
    #[error("the response contains no metrics of an operator")]
    Foreign,
}

/// Returns the operator's metrics as soon as a Ready operator answers.
pub async fn probe(args: &ProbeArgs) -> Result<String, ProbeError> {
    attempt(&args.address, args.attempts, PAUSE).await
}

async fn attempt(address: &str, attempts: u32, pause: Duration) -> Result<String, ProbeError> {
    let mut left = attempts;
    loop {
        left = left.saturating_sub(1);
        match timeout(DEADLINE, ask(address)).await.unwrap_or(Err(AttemptError::Timeout)) {
            Ok(metrics) => return Ok(metrics),
            Err(cause) if left == 0 => return Err(ProbeError { address: address.to_owned(), cause }),
            Err(_) => sleep(pause).await,
        }
    }
}

async fn ask(address: &str) -> Result<String, AttemptError> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http::<Empty<Bytes>>();
    let request = hyper::Request::get(format!("http://{address}/metrics")).body(Empty::new())?;
    let (head, body) = client.request(request).await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(AttemptError::Status(head.status));
    }
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(AttemptError::Body)?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let metrics: Vec<_> = text.lines().filter(|line| line.starts_with(PREFIX)).collect();
    if metrics.is_empty() { Err(AttemptError::Foreign) } else { Ok(metrics.join("\n") + "\n") }
}

/// Returns an error together with its causes. The causes of a connection error say what is wrong.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Returns the outcome of as many attempts as there are replies. The server sends each of them
    /// once.
    async fn outcome(replies: &[(&str, &str)]) -> Result<String, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let replies: Vec<_> = replies
            .iter()
            .map(|(status, body)| {
                let length = body.len();
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            })
            .collect();
        let attempts = u32::try_from(replies.len()).unwrap();
        let serve = async {
            for reply in &replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        };
        let (outcome, ()) = tokio::join!(attempt(&address, attempts, Duration::ZERO), serve);
        outcome.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn waits_for_a_ready_operator_and_returns_its_metrics() {
        let metrics = "# TYPE onionbalance_operator_objects gauge\nonionbalance_operator_objects 2\nother 1\n";
        let replies = [("503 Service Unavailable", ""), ("200 OK", "tor_x 1\n"), ("200 OK", metrics)];
        assert_eq!(outcome(&replies).await.as_deref(), Ok("onionbalance_operator_objects 2\n"));
    }

    #[tokio::test]
    async fn an_error_names_the_address_and_the_last_cause() {
        let error = outcome(&[("200 OK", ""), ("404 Not Found", "")]).await.unwrap_err();
        assert!(error.starts_with("no Ready operator has answered at 127.0.0.1:"), "{error}");
        assert!(
            error.contains(": the response is 404 Not Found; check the operator's pods: kubectl get pods"),
            "{error}"
        );

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = attempt(&address, 1, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("Connection refused"), "{error}");
    }
}
