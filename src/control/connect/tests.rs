//! Tests of the choice of the endpoint, with peers on real sockets: the endpoint that was reached
//! decides what the peer may learn, and appears in every error.

use std::fs;

use data_encoding::HEXUPPER;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::*;
use crate::control::testing::PATIENCE;

const COOKIE: [u8; 32] = *b"a secret file with 32 bytes in .";

/// A peer that answers each command, and the lines that it has received.
type Peer = JoinHandle<Vec<String>>;

/// Answers the commands on one connection as `answer` says, until it returns None. Returns the
/// lines that the peer has received.
async fn converse<S>(stream: S, answer: impl Fn(&str) -> Option<String>) -> Vec<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = timeout(PATIENCE, stream.read_line(&mut line)).await.unwrap();
        if read.unwrap_or_default() == 0 {
            return lines;
        }
        let reply = answer(&line);
        lines.push(line);
        match reply {
            Some(reply) => stream.write_all(reply.as_bytes()).await.unwrap(),
            None => return lines,
        }
    }
}

/// Starts a peer on a TCP port, for one connection.
async fn tcp_peer(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> (ControlEndpoint, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = tokio::spawn(async move { converse(listener.accept().await.unwrap().0, answer).await });
    (ControlEndpoint::tcp("127.0.0.1", port), peer)
}

/// Returns a peer's answers: these authentication methods, a challenge whose hash is wrong, and
/// success.
fn offering(methods: &str, cookie: &Path) -> impl Fn(&str) -> Option<String> + Send + use<> {
    let auth =
        format!("250-PROTOCOLINFO 1\r\n250-AUTH METHODS={methods} COOKIEFILE=\"{}\"\r\n250 OK\r\n", cookie.display());
    move |line| {
        Some(match line.split(' ').next().unwrap_or_default() {
            "PROTOCOLINFO" => auth.clone(),
            "AUTHCHALLENGE" => {
                let (hash, nonce) = ("00".repeat(32), "11".repeat(32));
                format!("250 AUTHCHALLENGE SERVERHASH={hash} SERVERNONCE={nonce}\r\n")
            }
            _ => "250 OK\r\n".to_owned(),
        })
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.cookie(), COOKIE).unwrap();
        folder
    }

    fn cookie(&self) -> PathBuf {
        self.0.path().join("cookie")
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("socket")
    }
}

fn connector(endpoint: ControlEndpoint, fallback: Option<ControlEndpoint>) -> Connector {
    Connector { fallback, command_timeout: PATIENCE, ..Connector::new(endpoint) }
}

/// A program on a TCP port that pretends to be tor must not get the content of a file, whether the
/// port is the configured endpoint or the fallback for a socket that nobody listens on.
#[tokio::test]
async fn a_peer_on_a_tcp_port_never_gets_the_content_of_a_file() {
    let folder = Folder::new();
    for methods in ["COOKIE", "COOKIE,SAFECOOKIE", "SAFECOOKIE,COOKIE", "COOKIE,HASHEDPASSWORD"] {
        for (is_fallback, names_cookie) in [(false, false), (true, false), (false, true), (true, true)] {
            let (port, peer) = tcp_peer(offering(methods, &folder.cookie())).await;
            let (first, second) = if is_fallback {
                (ControlEndpoint::Unix(folder.socket()), Some(port.clone()))
            } else {
                (port.clone(), None)
            };
            let cookie = names_cookie.then(|| folder.cookie());
            let failure = Connector { cookie, ..connector(first, second) }.open().await.err().unwrap();
            assert_eq!(failure.endpoint, port);
            assert!(matches!(failure.reason, ControlError::Authentication(_)), "{methods}: {failure}");
            let received = timeout(PATIENCE, peer).await.unwrap().unwrap();
            assert!(received.iter().all(|line| !line.starts_with("AUTHENTICATE")), "{methods}: {received:?}");
        }
    }
}

#[tokio::test]
async fn a_tor_on_a_unix_socket_gets_its_cookie() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let answer = offering("COOKIE", &folder.cookie());
    let peer = tokio::spawn(async move { converse(listener.accept().await.unwrap().0, answer).await });
    let fallback = Some(ControlEndpoint::tcp("127.0.0.1", 1));
    let connected = connector(ControlEndpoint::Unix(folder.socket()), fallback).open().await.unwrap();
    assert_eq!(connected.endpoint, ControlEndpoint::Unix(folder.socket()));
    drop(connected);
    let received = timeout(PATIENCE, peer).await.unwrap().unwrap();
    assert_eq!(received.last().unwrap(), &format!("AUTHENTICATE {}\r\n", HEXUPPER.encode(&COOKIE)));
}

/// Returns the error of a connector whose socket does not exist and whose TCP peer gives this
/// answer to the first command. The result begins with the places that were tried.
async fn error_with_peer(answer: Option<&'static str>) -> (ControlEndpoint, String) {
    let (port, peer) = tcp_peer(move |_| answer.map(str::to_owned)).await;
    let connector = connector(ControlEndpoint::Unix("/nowhere/control".into()), Some(port.clone()));
    let connector = Connector { password: Some(Password::new(Zeroizing::new(b"x".to_vec())).unwrap()), ..connector };
    let failure = connector.open().await.err().unwrap();
    peer.abort();
    (port, failure.to_string())
}

#[tokio::test]
async fn errors_name_the_places_that_were_tried_and_what_listens_there() {
    for (answer, expected) in [
        (Some("HTTP/1.0 501 Tor is not an HTTP Proxy\r\n"), "this is a SOCKS port; use the ControlPort"),
        (Some("HTTP/1.1 400 Bad Request\r\n"), "a web server answers here"),
        (Some("SSH-2.0-OpenSSH_9.2\r\n"), "check that this is tor's control port"),
        (Some("515 Go away\r\n"), "tor answered 515: Go away"),
        (Some("250-AUTH METHODS=NOVEL\r\n250 OK\r\n"), "authentication failed: tor offers NOVEL"),
        (None, "the connection was closed without an answer"),
    ] {
        let (port, error) = error_with_peer(answer).await;
        let places =
            error.strip_prefix("unix:/nowhere/control: could not connect: No such file or directory (os error 2); ");
        let reason = places.and_then(|rest| rest.strip_prefix(&format!("{port}: ")));
        assert!(reason.is_some_and(|reason| reason.contains(expected)), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn an_error_without_a_fallback_names_one_place() {
    let failure = connector(ControlEndpoint::Unix("/nowhere/control".into()), None).open().await.err().unwrap();
    let expected = "unix:/nowhere/control: could not connect: No such file or directory (os error 2)";
    assert_eq!(failure.to_string(), expected);
}
