use std::fs;
use std::path::Path;

use data_encoding::HEXUPPER;
use proptest::prelude::*;
use tokio::time::sleep;

use super::super::codec::Line;
use super::super::testing::{PATIENCE, Peer, connect};
use super::*;
use crate::control::Connector;

fn connector(endpoint: ControlEndpoint, command_timeout: Duration) -> Connector {
    Connector { command_timeout, ..Connector::new(endpoint) }
}

fn local() -> ControlEndpoint {
    ControlEndpoint::unix(Path::new("/unused"))
}

fn password(text: &str) -> Password {
    Password::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
}

async fn authenticate(connector: &Connector, client: &Client) -> Result<(), AuthenticationFailure> {
    connector.authenticator(&connector.endpoint).authenticate(client, Methods::All).await
}

async fn offer(peer: &mut Peer, auth: &str) {
    assert_eq!(peer.read_line().await, "PROTOCOLINFO 1\r\n");
    peer.write(format!("250-PROTOCOLINFO 1\r\n250-AUTH {auth}\r\n250 OK\r\n")).await;
}

/// Offers these authentication methods to the client and returns the client's error. The client
/// must not send another command.
async fn refused_offer(connector: &Connector, auth: &str) -> String {
    let (client, _events, mut peer) = connect(PATIENCE);
    let (result, ()) = tokio::join!(authenticate(connector, &client), offer(&mut peer, auth));
    drop(client);
    assert_eq!(peer.read_line().await, "", "nothing else is sent");
    let Err(AuthenticationFailure::Final(ControlError::Authentication(message))) = result else {
        panic!("{auth}: {result:?}")
    };
    message
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_cookie_file_that_appears_late() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cookie");
    let (client, _events, mut peer) = connect(PATIENCE);
    let connector = connector(local(), PATIENCE);
    let (result, ()) = tokio::join!(authenticate(&connector, &client), async {
        offer(&mut peer, &format!("METHODS=COOKIE COOKIEFILE=\"{}\"", path.display())).await;
        // The paused clock advances only while the client is waiting too, so the client checks for
        // the file during each of these sleeps.
        sleep(Duration::from_secs(1)).await;
        fs::write(&path, [0xAB; 16]).unwrap();
        sleep(Duration::from_secs(1)).await;
        fs::write(&path, [0xAB; 32]).unwrap();
        assert_eq!(peer.read_line().await, format!("AUTHENTICATE {}\r\n", "AB".repeat(32)));
        peer.write("250 OK\r\n").await;
    });
    result.unwrap();
}

#[tokio::test]
async fn errors_name_the_offered_methods_and_a_solution() {
    let local = connector(local(), Duration::from_millis(100));
    let remote = connector(ControlEndpoint::tcp("192.0.2.1", 9051), Duration::from_millis(100));
    let with_cookie = Connector { cookie: Some("/nowhere/cookie".into()), ..remote.clone() };
    for (connector, auth, faults) in [
        (&local, "METHODS=HASHEDPASSWORD", ["offers HASHEDPASSWORD; provide", "--control-password-file or in"]),
        (&local, "METHODS=NOVEL", ["tor offers NOVEL", "set CookieAuthentication 1"]),
        (&local, "METHODS=COOKIE", ["names no cookie file", "HashedControlPassword"]),
        (&local, "METHODS=COOKIE COOKIEFILE=\"/nowhere/cookie\"", ["/nowhere/cookie does not exist", "GroupReadable"]),
        (&local, "METHODS=COOKIE COOKIEFILE=\"/dev/null\"", ["/dev/null is not 32 bytes long", "let this user"]),
        (&local, "METHODS=SAFECOOKIE COOKIEFILE=\"/dev/zero\"", ["/dev/zero is not 32 bytes long", ""]),
        (&local, "METHODS=SAFECOOKIE COOKIEFILE=\"/\"", ["its cookie file / cannot be read", "let this user"]),
        (
            &remote,
            "METHODS=COOKIE COOKIEFILE=\"/dev/null\"",
            ["offers COOKIE without SAFECOOKIE", "must not be sent over TCP"],
        ),
        (&with_cookie, "METHODS=COOKIE COOKIEFILE=\"/dev/null\"", ["must not be sent over TCP", "ControlSocket"]),
        (&with_cookie, "METHODS=SAFECOOKIE COOKIEFILE=\"/dev/null\"", ["/nowhere/cookie does not exist", ""]),
    ] {
        let message = refused_offer(connector, auth).await;
        assert!(faults.iter().all(|fault| message.contains(fault)), "{auth}: {message}");
    }
}

/// Checks which authentication method the client prefers. The command that the client sends shows
/// its choice. The client uses an in-memory stream, because the choice does not depend on the kind
/// of stream.
#[tokio::test]
async fn chooses_the_best_method_that_works() {
    let directory = tempfile::tempdir().unwrap();
    let cookie = directory.path().join("cookie");
    fs::write(&cookie, [0xAB; 32]).unwrap();
    let file = format!("COOKIEFILE=\"{}\"", cookie.display());
    let plain = connector(local(), PATIENCE);
    let with_password = Connector { password: Some(password("a \"b\" \\ c")), ..plain.clone() };
    let by_password = r#"AUTHENTICATE "a \"b\" \\ c""#;
    let cookie = format!("AUTHENTICATE {}", "AB".repeat(32));
    for (connector, auth, command) in [
        (&plain, format!("METHODS=COOKIE,SAFECOOKIE,HASHEDPASSWORD {file}"), "AUTHCHALLENGE SAFECOOKIE "),
        (&with_password, format!("METHODS=HASHEDPASSWORD,COOKIE,SAFECOOKIE {file}"), "AUTHCHALLENGE SAFECOOKIE "),
        (&with_password, format!("METHODS=HASHEDPASSWORD,COOKIE {file}"), &cookie),
        (&with_password, "METHODS=COOKIE,SAFECOOKIE,HASHEDPASSWORD COOKIEFILE=\"/nowhere\"".into(), by_password),
        (&with_password, "METHODS=HASHEDPASSWORD".into(), by_password),
        (&with_password, "METHODS=NULL".into(), "AUTHENTICATE\r"),
        (&plain, "METHODS=NULL".into(), "AUTHENTICATE\r"),
    ] {
        let (client, _events, mut peer) = connect(PATIENCE);
        let (_, line) = tokio::join!(authenticate(connector, &client), async {
            offer(&mut peer, &auth).await;
            let line = peer.read_line().await;
            peer.write("515 No\r\n").await;
            line
        });
        assert!(line.starts_with(command), "{auth}: {line}");
    }
}

#[tokio::test]
async fn an_impostor_learns_nothing_about_the_cookie() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cookie");
    fs::write(&path, [0xAB; 32]).unwrap();
    for with_password in [false, true] {
        let mut connector = connector(ControlEndpoint::tcp("127.0.0.1", 9051), PATIENCE);
        connector.password = with_password.then(|| password("secret"));
        let (client, _events, mut peer) = connect(PATIENCE);
        let (result, ()) = tokio::join!(authenticate(&connector, &client), async {
            let file = path.display();
            offer(&mut peer, &format!("METHODS=COOKIE,SAFECOOKIE,HASHEDPASSWORD COOKIEFILE=\"{file}\"")).await;
            let challenge = peer.read_line().await;
            assert_eq!(challenge.len(), "AUTHCHALLENGE SAFECOOKIE \r\n".len() + 64);
            let (hash, nonce) = ("00".repeat(32), "11".repeat(32));
            peer.write(format!("250 AUTHCHALLENGE SERVERHASH={hash} SERVERNONCE={nonce}\r\n")).await;
        });
        drop(client);
        assert_eq!(peer.read_line().await, "");
        let error = match result {
            Err(AuthenticationFailure::Final(error)) if !with_password => error,
            Err(AuthenticationFailure::CookieRefused(error)) if with_password => error,
            other => panic!("{other:?}"),
        };
        assert!(error.to_string().contains("check that tor listens here, and that it wrote this file"), "{error}");
    }
}

#[tokio::test]
async fn a_named_pipe_in_place_of_the_cookie_does_not_block() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let local = connector(local(), Duration::from_millis(100));
    let message = refused_offer(&local, &format!("METHODS=SAFECOOKIE COOKIEFILE=\"{}\"", path.display())).await;
    assert!(message.contains("pipe is not 32 bytes long"), "{message}");
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_perhaps_no_control_port() {
    let (client, _events, mut peer) = connect(PATIENCE);
    let connector = connector(ControlEndpoint::tcp("127.0.0.1", 9050), PATIENCE);
    let (result, ()) = tokio::join!(authenticate(&connector, &client), async {
        peer.read_line().await;
        drop(peer);
    });
    let Err(AuthenticationFailure::Final(error @ ControlError::NotTor(_))) = result else { panic!("{result:?}") };
    assert!(error.to_string().contains("SOCKS port"), "{error}");
}

fn challenge(text: &str) -> Message {
    Message { code: 250, lines: vec![Line { text: text.to_owned(), data: None }] }
}

const SERVER_HASH: &str = "3C8780AB52365C0D080750447E5F64DABC00428C6C434579C2043E18C1F85389";
const CLIENT_HASH: &str = "B47642DF2D5ABB84F69E6D02D41BED6B44AEE33E69562528A82166FC98BC0B1E";

/// The expected values were computed with Python's `hmac` according to control-spec, section 3.24,
/// for the cookie 00…1f, the client nonce 20…3f and the server nonce 40…5f.
#[test]
fn matches_the_challenge_of_an_independent_implementation() {
    let cookie: Vec<u8> = (0..32).collect();
    let ours: Vec<u8> = (32..64).collect();
    let theirs = HEXUPPER.encode(&(64..96).collect::<Vec<u8>>());
    let good = challenge(&format!("AUTHCHALLENGE SERVERHASH={SERVER_HASH} SERVERNONCE={theirs}"));
    let answer = answer_challenge(&cookie, &ours, &good).unwrap().unwrap();
    assert_eq!(HEXUPPER.encode(&answer), CLIENT_HASH);
    assert_eq!(answer_challenge(&ours, &ours, &good).unwrap(), None, "a different cookie");
    assert_eq!(answer_challenge(&cookie, &cookie, &good).unwrap(), None, "an answer to a different nonce");
    for bad in [
        format!("AUTHCHALLENGE SERVERHASH={SERVER_HASH}"),
        format!("AUTHCHALLENGE SERVERHASH={SERVER_HASH} SERVERNONCE=40"),
        format!("SERVERHASH={SERVER_HASH} SERVERNONCE={theirs}"),
        format!("AUTHCHALLENGE SERVERHASH=xy SERVERNONCE={theirs}"),
        "AUTHCHALLENGE".to_owned(),
    ] {
        assert!(answer_challenge(&cookie, &ours, &challenge(&bad)).is_err(), "{bad}");
    }
    // A hash that is too short is wrong rather than malformed.
    let short = challenge(&format!("AUTHCHALLENGE SERVERHASH={} SERVERNONCE={theirs}", &SERVER_HASH[..32]));
    assert_eq!(answer_challenge(&cookie, &ours, &short).unwrap(), None);
}

proptest! {
    #[test]
    fn parsing_a_challenge_never_panics(
        text in "(AUTHCHALLENGE )?(SERVERHASH=|SERVERNONCE=|[0-9A-F]{0,70}| |\"){0,8}",
    ) {
        _ = answer_challenge(&[1; 32], &[2; 32], &challenge(&text));
        _ = AuthOffer::parse(&challenge(&text.replace("CHALLENGE", "")));
    }
}

#[test]
fn passwords_must_not_contain_line_ends_or_nul() {
    assert_eq!(format!("{:?}", password("secret")), "Password(…)");
    assert_eq!(Password::new(Zeroizing::new(b"a\nb".to_vec())).unwrap_err(), PasswordError);
    assert!(Password::new(Zeroizing::new(b"\xff".to_vec())).is_ok());
}
