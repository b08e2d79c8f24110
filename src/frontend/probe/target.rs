//! Checks the target behind an open stream.

use std::ops::Range;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::verdict::Failure;
use crate::crd::{HttpProbe, ProbeResult};

/// The time for which a stream must stay open. A backend's tor accepts a stream before the agent
/// has connected to the target, and the agent gives up and closes the stream after 15 s.
const STAYS_OPEN: Duration = Duration::from_secs(16);
/// The times after which only an app that has accepted the connection closes a stream, because the
/// client sends nothing. The agent closes the stream earlier if the target refuses the connection,
/// and later if the target does not answer.
const CLOSED_BY_APP: Range<Duration> = Duration::from_secs(5)..Duration::from_secs(14);

/// Checks that the target sends data, or at least accepts the connection.
pub(super) async fn accepts<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), Failure> {
    let refused = |how: &str| Err(Failure::new(ProbeResult::TargetFailed, format!("the stream was closed{how}")));
    let begun = Instant::now();
    match timeout(STAYS_OPEN, stream.read(&mut [0; 1])).await {
        Err(_) | Ok(Ok(1..)) => Ok(()),
        Ok(_) if CLOSED_BY_APP.contains(&begun.elapsed()) => Ok(()),
        Ok(Ok(0)) => refused("; the target refuses connections or does not accept them in time"),
        Ok(Err(error)) => refused(&format!(": {error}")),
    }
}

/// Sends the HTTP request and returns the status of the response. `address` is the `Host` header
/// unless the settings name another one.
pub(super) async fn answers<S>(stream: S, http: &HttpProbe, address: &str) -> Result<u16, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| {
        Failure::new(ProbeResult::TargetFailed, format!("the target did not answer the HTTP request: {error}"))
    };
    let request = Request::get(http.path.as_str())
        .header(HOST, http.host.as_deref().unwrap_or(address))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::not_made(format!("the HTTP request is invalid: {error}")))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // The connection can end in the moment in which the response arrives.
        _ = &mut connection => response.await,
    };
    let status = response.map_err(failed)?.status().as_u16();
    let is_good = http.expected_status.map_or((200..400).contains(&status), |expected| expected == status);
    if is_good {
        return Ok(status);
    }
    let expected = http.expected_status.map_or_else(|| "200 to 399".to_owned(), |expected| expected.to_string());
    let message = format!("the target answered with HTTP status {status} instead of {expected}");
    Err(Failure::new(ProbeResult::TargetFailed, message))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};
    use tokio::time::sleep;

    use super::*;

    /// Sends a request to a target that answers with this text and then closes the stream. Returns
    /// the result and the request.
    async fn answered(text: &str, http: &HttpProbe) -> (Result<u16, String>, String) {
        let (ours, mut theirs) = duplex(4096);
        let target = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(theirs.read_u8().await.unwrap());
            }
            theirs.write_all(text.as_bytes()).await.unwrap();
            drop(theirs);
            String::from_utf8(request).unwrap()
        };
        let (result, request) = tokio::join!(answers(ours, http, "x.onion"), target);
        (result.map_err(|failure| format!("{:?}: {}", failure.result, failure.message)), request)
    }

    #[tokio::test]
    async fn the_status_decides() {
        let any = HttpProbe::default();
        let one =
            HttpProbe { expected_status: Some(503), path: "/h".into(), host: Some("a.org".into()), ..any.clone() };
        for (status, good_by_default) in [(200, true), (204, true), (302, true), (404, false), (503, false)] {
            let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            let (result, request) = answered(&text, &any).await;
            assert_eq!(result.is_ok(), good_by_default, "{status}: {result:?}");
            assert!(request.starts_with("GET / HTTP/1.1\r\nhost: x.onion\r\n"), "{request}");
            let (result, request) = answered(&text, &one).await;
            assert_eq!(result.is_ok(), status == 503, "{status}: {result:?}");
            assert!(request.starts_with("GET /h HTTP/1.1\r\nhost: a.org\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_target_that_speaks_no_http_has_failed() {
        for text in ["", "SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0"] {
            let (result, _) = answered(text, &HttpProbe::default()).await;
            assert!(result.as_ref().is_err_and(|error| error.starts_with("TargetFailed: ")), "{text:?}: {result:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_must_keep_the_stream_open_or_send_something() {
        let (mut ours, theirs) = duplex(64);
        assert_eq!(accepts(&mut ours).await, Ok(()), "a client speaks first");
        drop(theirs);
        assert_eq!(accepts(&mut ours).await.unwrap_err().result, ProbeResult::TargetFailed);
        let (mut ours, mut theirs) = duplex(64);
        theirs.write_all(b"220 mail").await.unwrap();
        drop(theirs);
        assert_eq!(accepts(&mut ours).await, Ok(()), "the target spoke first");
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_may_close_an_idle_stream() {
        for (seconds, is_good) in [(1, false), (7, true), (15, false)] {
            let (mut ours, theirs) = duplex(64);
            let close = async {
                sleep(Duration::from_secs(seconds)).await;
                drop(theirs);
            };
            let (result, ()) = tokio::join!(accepts(&mut ours), close);
            assert_eq!(result.is_ok(), is_good, "closed after {seconds} s: {result:?}");
        }
    }
}
