//! One check of a target.

use std::pin::pin;

use futures::future::{Either, select};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::tls;
use crate::backend::connect::Connector;
use crate::link::{ForwardedPort, HttpCheck};

/// The PROXY header of a connection that belongs to no client (PROXY protocol, section 2.1). A
/// target that expects a header refuses connections without one.
const NO_CLIENT: &[u8] = b"PROXY UNKNOWN\r\n";

/// The reason why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no TLS connection: {0}")]
    Tls(String),
    #[error("the request is invalid: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("no HTTP response: {0}")]
    Http(#[from] hyper::Error),
    #[error("it responds with HTTP status {0}")]
    Status(u16),
}

/// Checks the target of a port once, with TLS if there are settings for TLS. The caller limits the
/// time.
pub(super) async fn probe(
    connector: &Connector,
    port: &ForwardedPort,
    tls: Option<&tls::Settings>,
) -> Result<(), ProbeError> {
    let mut stream = connector.connect(&port.target).await?;
    let Some(check) = &port.check.http else { return Ok(()) };
    if port.proxy_header {
        stream.write_all(NO_CLIENT).await?;
    }
    let host = check.host.as_deref().unwrap_or(&port.target);
    let status = match tls {
        None => request(stream, check, host).await?,
        Some(settings) => {
            let stream = tls::connect(settings, stream, host).await.map_err(ProbeError::Tls)?;
            request(stream, check, host).await?
        }
    };
    if check.expects(status) { Ok(()) } else { Err(ProbeError::Status(status)) }
}

/// Sends an HTTP request and returns the status of the response. The body is not read.
async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    check: &HttpCheck,
    host: &str,
) -> Result<u16, ProbeError> {
    let request = Request::get(check.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, "onionbalance-agent")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = pin!(sender.send_request(request));
    let connection = pin!(connection);
    let answer = match select(answer, connection).await {
        Either::Left((answer, _)) => answer,
        // The connection has ended, so the answer follows at once.
        Either::Right((_, answer)) => answer.await,
    };
    Ok(answer?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::link::TargetCheck;

    /// Checks a target that sends `reply`. Returns the result and the bytes that the target
    /// received.
    async fn checked(check: HttpCheck, proxy_header: bool, reply: &'static [u8]) -> (Result<(), ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut stream, mut request) = (BufReader::new(stream), Vec::new());
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(reply).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let port = ForwardedPort {
            name: None,
            port: 80,
            target,
            proxy_header,
            idle_timeout_seconds: None,
            check: TargetCheck { http: Some(check), ..TargetCheck::default() },
        };
        let result = probe(&Connector::default(), &port, None).await;
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn the_request_has_the_configured_path_and_host() {
        let check =
            HttpCheck { path: "/healthz?a=b".to_owned(), host: Some("web.example".to_owned()), ..HttpCheck::default() };
        let (result, request) = checked(check, false, b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(result.is_ok(), "{result:?}");
        assert!(request.starts_with("GET /healthz?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: web.example\r\n"), "{request}");
    }

    #[tokio::test]
    async fn an_unexpected_status_is_a_failure() {
        let (result, _) = checked(HttpCheck::default(), false, b"HTTP/1.0 503 Busy\r\n\r\nsorry").await;
        assert_eq!(result.unwrap_err().to_string(), "it responds with HTTP status 503");
        let only = HttpCheck { statuses: vec![503], ..HttpCheck::default() };
        assert!(checked(only, false, b"HTTP/1.0 503 Busy\r\n\r\n").await.0.is_ok());
    }

    #[tokio::test]
    async fn nonsense_and_silence_are_failures() {
        for reply in [&b"SSH-2.0-x\r\n"[..], b""] {
            let (result, _) = checked(HttpCheck::default(), false, reply).await;
            assert!(matches!(result, Err(ProbeError::Http(_))), "{result:?}");
        }
    }

    #[tokio::test]
    async fn a_target_that_expects_a_proxy_header_gets_one() {
        let (result, request) = checked(HttpCheck::default(), true, b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(result.is_ok(), "{result:?}");
        assert!(request.starts_with("PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let port = ForwardedPort {
            name: None,
            port: 80,
            target: target.clone(),
            proxy_header: false,
            idle_timeout_seconds: None,
            check: TargetCheck::default(),
        };
        assert!(probe(&Connector::default(), &port, None).await.is_ok(), "the target need not send anything");
        // Checks obey the list of refused targets, as streams do.
        let strict = Connector::new("127.0.0.0/8".parse().unwrap(), None);
        let refused = probe(&strict, &port, None).await.unwrap_err().to_string();
        assert!(refused.contains("--refused-targets"), "{refused}");
        drop(listener);
        assert!(matches!(probe(&Connector::default(), &port, None).await, Err(ProbeError::Connect(_))));
    }
}
