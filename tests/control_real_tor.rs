//! Tests of the control client against a real tor that has no network. They require the program
//! `tor`.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic reports the failure of a test")]

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onionbalance_operator::control::{
    Backoff, Client, Connector, ControlEndpoint, ControlError, Event, Password, Update, bootstrap_percent, supervise,
};
use onionbalance_operator::onion::OnionAddress;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The maximum time to wait for tor on a busy machine. Passing tests never wait this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tor process that is killed when this value is dropped.
struct RealTor {
    directory: TempDir,
    process: Child,
}

impl RealTor {
    fn start() -> Self {
        Self::start_with("CookieAuthentication 1")
    }

    /// Starts tor with a TCP control port and the given torrc lines for authentication.
    fn start_with(authentication: &str) -> Self {
        Self::start_configured(|path| {
            format!("DisableNetwork 1\nSocksPort 0\nControlPort auto\n{authentication}\nCookieAuthFile {path}/cookie")
        })
    }

    /// Starts tor with a control socket and the given torrc lines, which may depend on its
    /// directory.
    fn start_configured(lines: impl Fn(&str) -> String) -> Self {
        let directory = TempDir::with_prefix("control-real-tor").expect("could not create a temporary directory");
        // Tor refuses to create its control socket in a directory that other users can access.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700))
            .expect("could not change the directory's mode");
        let path = directory.path().display().to_string();
        let torrc = format!(
            "{}\nDataDirectory {path}/data\nControlSocket unix:{path}/control\n\
             GeoIPFile {path}/empty\nGeoIPv6File {path}/empty\n\
             Log notice file {path}/notice.log\nContactInfo .a \"quoted\" one\n__OwningControllerProcess {}\n",
            lines(&path),
            std::process::id()
        );
        fs::write(directory.path().join("torrc"), torrc).expect("could not write the torrc");
        fs::write(directory.path().join("empty"), "").expect("could not write an empty file");
        let process = Self::launch(directory.path());
        Self { directory, process }
    }

    fn launch(directory: &Path) -> Child {
        let started = Command::new("tor")
            .arg("-f")
            .arg(directory.join("torrc"))
            .arg("--defaults-torrc")
            .arg(directory.join("empty"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("this test needs the program tor; run apt-get install tor")
            }
            Err(error) => panic!("could not start tor: {error}"),
        }
    }

    fn restart(&mut self) {
        self.process = Self::launch(self.directory.path());
    }

    fn kill(&mut self) {
        self.process.kill().expect("could not kill tor");
        self.process.wait().expect("could not wait for tor");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("could not signal tor");
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// Starts a supervisor for the connection to the control socket.
    fn supervise(&self, command_timeout: Duration) -> mpsc::Receiver<Update> {
        Self::supervise_by(Connector { command_timeout, ..Connector::unix(self.socket()) })
    }

    fn supervise_by(connector: Connector) -> mpsc::Receiver<Update> {
        let backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_millis(200) };
        supervise(connector, backoff, StdRng::seed_from_u64(1))
    }

    /// Connects to the control socket as soon as tor listens on it.
    async fn connect(&self) -> (Client, mpsc::Receiver<Event>, mpsc::Receiver<Update>) {
        let mut updates = self.supervise(PATIENCE);
        let (client, events) = connected(&mut updates).await;
        (client, events, updates)
    }
}

/// Connects to the unix socket as soon as tor listens on it, and then to the TCP port. Returns the
/// connectors for both.
async fn connect_both_ways(tor: &RealTor, unix: Connector) -> (Connector, Connector) {
    let (client, _events) = connected(&mut RealTor::supervise_by(unix.clone())).await;
    let listeners = listeners(&client, "control").await;
    let place = listeners.iter().find(|place| place.starts_with("127.0.0.1:")).expect("tor has no TCP control port");
    assert!(listeners.contains(&ControlEndpoint::Unix(tor.socket()).to_string()), "{listeners:?}");
    let tcp = Connector { endpoint: tcp(place), ..unix.clone() };
    for connector in [&unix, &tcp] {
        let (client, _events) = connector.connect().await.expect("could not connect");
        assert!(client.get_info("version").await.expect("could not query the version").starts_with("0.4."));
    }
    (unix, tcp)
}

/// Returns the places where tor listens for connections of a kind.
async fn listeners(client: &Client, kind: &str) -> Vec<String> {
    let places = client.get_info(&format!("net/listeners/{kind}")).await.expect("could not query the listeners");
    places.split(' ').map(|place| place.trim_matches('"').to_owned()).collect()
}

/// Returns the endpoint of a place such as `127.0.0.1:9051` or `[::1]:9051`.
fn tcp(place: &str) -> ControlEndpoint {
    let (host, port) = place.rsplit_once(':').expect("the place has no port");
    ControlEndpoint::tcp(host, port.parse().expect("could not parse the port"))
}

/// Makes tor hash a password and returns the torrc line with the hash.
fn hashed(password: &str) -> String {
    let output = Command::new("tor")
        .args(["--quiet", "--defaults-torrc", "/dev/null", "-f", "/dev/null", "--hash-password", password])
        .output()
        .expect("this test needs the program tor; run apt-get install tor");
    let text = String::from_utf8(output.stdout).expect("the output of tor is not UTF-8");
    let hash = text.lines().find(|line| line.starts_with("16:")).expect("tor printed no hash");
    format!("HashedControlPassword {hash}")
}

fn password(text: &str) -> Password {
    Password::new(Zeroizing::new(text.as_bytes().to_vec())).expect("the password is invalid")
}

/// Returns the error message of a failed authentication.
async fn authentication_error(connector: &Connector) -> String {
    match connector.connect().await {
        Err(ControlError::Authentication(message)) => message,
        other => panic!("expected an authentication error, got {other:?}"),
    }
}

impl Drop for RealTor {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

async fn next<T>(receiver: &mut mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, receiver.recv()).await.expect("timed out").expect("the channel is closed")
}

async fn connected(updates: &mut mpsc::Receiver<Update>) -> (Client, mpsc::Receiver<Event>) {
    let mut last = None;
    let attempts = async {
        loop {
            match updates.recv().await.expect("the supervisor has ended") {
                Update::Connected(connected) => return (connected.client, connected.events),
                Update::Lost(why) => last = Some(why),
            }
        }
    };
    let connection = timeout(PATIENCE, attempts).await.ok();
    connection.unwrap_or_else(|| panic!("no connection within {PATIENCE:?}; last error: {last:?}"))
}

async fn lost(updates: &mut mpsc::Receiver<Update>) -> ControlError {
    match next(updates).await {
        Update::Lost(why) => why.reason,
        Update::Connected(..) => panic!("connected instead of losing the connection"),
    }
}

fn refusal<T>(result: Result<T, ControlError>) -> (u16, String) {
    match result {
        Err(ControlError::Refused { code, message }) => (code, message),
        Err(other) => panic!("expected tor to refuse the command, got: {other}"),
        Ok(_) => panic!("the command succeeded instead of being refused"),
    }
}

#[tokio::test]
async fn queries_info_and_configuration() {
    let tor = RealTor::start();
    let (client, _events, _updates) = tor.connect().await;

    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
    let config = client.get_info("config-text").await.unwrap();
    assert!(config.lines().any(|line| line == "DisableNetwork 1"), "{config}");
    assert!(config.ends_with('\n') && !config.contains('\r'), "{config}");
    assert!(client.get_info("config/names").await.unwrap().lines().count() > 300);
    let phase = client.get_info("status/bootstrap-phase").await.unwrap();
    assert_eq!(bootstrap_percent(&phase), Some(0), "{phase}");

    let socket = format!("unix:{}", tor.socket().display());
    assert_eq!(client.get_conf("controlsocket").await.unwrap(), [socket]);
    assert_eq!(client.get_conf("ContactInfo").await.unwrap(), [".a \"quoted\" one"]);
    assert_eq!(client.get_conf("V3AuthVotingInterval").await.unwrap(), ["3600"]);
    assert!(client.get_conf("HiddenServicePort").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_command_leaves_the_connection_usable() {
    let tor = RealTor::start();
    let (client, _events, _updates) = tor.connect().await;
    let address = OnionAddress::from_public_key(ed25519_base_point()).unwrap();

    assert_eq!(refusal(client.get_info("nonsense").await), (552, "Unrecognized key \"nonsense\"".to_owned()));
    assert_eq!(refusal(client.get_conf("nonsense").await).0, 552);
    assert_eq!(refusal(client.set_events(&["NONSENSE"]).await).0, 552);
    assert_eq!(refusal(client.signal("NONSENSE").await).0, 552);
    assert_eq!(refusal(client.get_info(&format!("hs/service/desc/id/{}", address.identifier())).await).0, 551);
    // The body looks like several commands. Without escaping, tor would send more than one reply.
    let body = ".\r\nSIGNAL HALT\r\n.\nGETINFO version\n";
    let (code, message) = refusal(client.hs_post(&[[0xAB; 20]], &address, body).await);
    assert_eq!((code, message), (552, format!("Server \"{}\" not found", "AB".repeat(20))));

    let (code, message) = refusal(client.hs_fetch(&address, &[[0xAB; 20]]).await);
    assert_eq!((code, message), (552, format!("Server \"{}\" not found", "AB".repeat(20))));

    let injected = client.get_info("version\r\nSIGNAL HALT").await;
    assert!(matches!(injected, Err(ControlError::Argument(_))));
    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
}

#[tokio::test]
async fn events_arrive_between_replies() {
    let tor = RealTor::start();
    let (client, mut events, _updates) = tor.connect().await;

    client
        .set_events(&["SIGNAL", "HS_DESC", "HS_DESC_CONTENT", "NEWCONSENSUS", "NEWDESC", "STATUS_CLIENT"])
        .await
        .unwrap();
    client.signal("CLEARDNSCACHE").await.unwrap();
    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
    assert_eq!(next(&mut events).await, Event::Other("SIGNAL".to_owned(), "CLEARDNSCACHE".to_owned()));
}

#[tokio::test]
async fn uses_the_given_cookie_and_rejects_a_wrong_one() {
    let tor = RealTor::start();
    drop(tor.connect().await);
    let wrong = tor.directory.path().join("wrong");
    fs::write(&wrong, [7; 32]).unwrap();

    let (client, _events) =
        Client::connect_unix(&tor.socket(), Some(tor.directory.path().join("cookie"))).await.unwrap();
    client.get_info("version").await.unwrap();
    let refused = Client::connect_unix(&tor.socket(), Some(wrong)).await;
    assert!(matches!(refused, Err(ControlError::Authentication(_))), "{refused:?}");
}

#[tokio::test]
async fn authenticates_by_safe_cookie_only_to_the_matching_tor() {
    let tor = RealTor::start();
    let connector = Connector { command_timeout: PATIENCE, ..Connector::unix(tor.socket()) };
    let (unix, tcp) = connect_both_ways(&tor, connector).await;
    let wrong = tor.directory.path().join("wrong");
    fs::write(&wrong, [7; 32]).unwrap();
    for connector in [unix, tcp] {
        let message = authentication_error(&Connector { cookie: Some(wrong.clone()), ..connector.clone() }).await;
        // With SAFECOOKIE, the client detects a wrong cookie before tor does.
        assert!(message.contains("wrong does not belong to this tor"), "{message}");
        // A password does not help if tor does not offer password authentication.
        let both = Connector { cookie: Some(wrong.clone()), password: Some(password("secret")), ..connector.clone() };
        assert!(authentication_error(&both).await.contains("check that tor listens here, and that it wrote this file"));
        // A directory cannot be read as a file, not even by root.
        let directory = tor.directory.path().to_owned();
        let message = authentication_error(&Connector { cookie: Some(directory.clone()), ..connector }).await;
        assert!(message.contains(&format!("cookie file {} cannot be read", directory.display())), "{message}");
        assert!(message.contains("CookieAuthFileGroupReadable 1"), "{message}");
    }
}

#[tokio::test]
async fn authenticates_by_password() {
    // Passwords may contain quotes, backslashes that look like escapes, spaces and non-ASCII
    // letters.
    for text in ["secret", "", " a \"b\" \\ \\n\\101\\x41 'c' \té €", "\\", "\""] {
        let tor = RealTor::start_with(&hashed(text));
        let connector = Connector { password: Some(password(text)), ..Connector::unix(tor.socket()) };
        let (unix, tcp) = connect_both_ways(&tor, connector).await;
        for connector in [unix, tcp] {
            let message =
                authentication_error(&Connector { password: Some(password("wrong")), ..connector.clone() }).await;
            assert!(message.starts_with("tor rejected the password: "), "{message}");
            let message = authentication_error(&Connector { password: None, ..connector.clone() }).await;
            assert!(message.contains("offers HASHEDPASSWORD; provide the control port's password ("), "{message}");
        }
    }
}

#[tokio::test]
async fn falls_back_to_the_password_if_the_cookie_fails() {
    let tor = RealTor::start_with(&format!("CookieAuthentication 1\n{}", hashed("secret")));
    let (unix, tcp) = connect_both_ways(&tor, Connector::unix(tor.socket())).await;
    let wrong = tor.directory.path().join("wrong");
    fs::write(&wrong, [7; 32]).unwrap();
    for connector in [unix, tcp] {
        for cookie in [wrong.clone(), tor.directory.path().join("absent"), tor.directory.path().to_owned()] {
            let connector = Connector { cookie: Some(cookie), password: Some(password("secret")), ..connector.clone() };
            let (client, _events) = connector.connect().await.unwrap();
            client.get_info("version").await.unwrap();
            let message = authentication_error(&Connector { password: Some(password("wrong")), ..connector }).await;
            assert!(message.starts_with("tor rejected the password: "), "{message}");
        }
    }
}

#[tokio::test]
async fn connects_if_tor_requires_no_authentication() {
    let tor = RealTor::start_with("");
    let (unix, _tcp) = connect_both_ways(&tor, Connector::unix(tor.socket())).await;
    let needless = Connector { password: Some(password("secret")), cookie: Some("/nowhere".into()), ..unix };
    needless.connect().await.unwrap();
}

#[tokio::test]
async fn connects_over_ipv6_and_reads_a_cookie_file_whose_name_has_a_space() {
    // A machine without IPv6 can at least check the name of the file.
    let host = if TcpListener::bind("[::1]:0").is_ok() { "[::1]" } else { "127.0.0.1" };
    let tor = RealTor::start_configured(|path| {
        format!(
            "DisableNetwork 1\nSocksPort 0\nControlPort {host}:auto\nCookieAuthentication 1\n\
             CookieAuthFile \"{path}/a cookie\""
        )
    });
    let (client, _events, _updates) = tor.connect().await;
    let listeners = listeners(&client, "control").await;
    let place = listeners.iter().find(|place| place.starts_with(host)).expect("tor has no TCP control port");
    let connector = Connector { command_timeout: PATIENCE, ..Connector::new(tcp(place)) };
    let (client, _events) = connector.connect().await.unwrap();
    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
}

/// Tor opens its SOCKS port only with `DisableNetwork 0`. Its only directory authority is a place
/// where nobody listens, so it contacts nobody.
#[tokio::test]
async fn an_error_says_that_the_port_is_a_socks_port() {
    let (first, second) = ("1".repeat(40), "2".repeat(40));
    let tor = RealTor::start_configured(|path| {
        format!(
            "DirAuthority nobody orport=1 v3ident={first} 127.0.0.1:1 {second}\nSocksPort auto\n\
             CookieAuthentication 1\nCookieAuthFile {path}/cookie"
        )
    });
    let (client, _events, _updates) = tor.connect().await;
    let listeners = listeners(&client, "socks").await;
    let place = listeners.first().expect("tor has no SOCKS port");
    let connector = Connector { command_timeout: PATIENCE, ..Connector::new(tcp(place)) };
    match next(&mut RealTor::supervise_by(connector)).await {
        Update::Lost(why) => assert_eq!(
            why.to_string(),
            format!("{place}: this is a SOCKS port; use the ControlPort or ControlSocket of torrc instead")
        ),
        Update::Connected(..) => panic!("the SOCKS port is a control port"),
    }
}

#[tokio::test]
async fn reconnects_to_a_tor_that_was_frozen() {
    let tor = RealTor::start();
    let deadline = Duration::from_secs(1);
    let mut updates = tor.supervise(deadline);
    let (client, _events) = connected(&mut updates).await;

    tor.signal(Signal::STOP);
    let asked = timeout(PATIENCE, client.get_info("version")).await.unwrap();
    assert!(matches!(asked, Err(ControlError::Timeout(after)) if after == deadline), "{asked:?}");
    timeout(PATIENCE, client.closed()).await.unwrap();
    // First, the connection is lost. Then a new attempt times out, because the kernel accepts the
    // connection on behalf of the frozen tor, which does not reply.
    for _ in 0..2 {
        let why = lost(&mut updates).await;
        assert!(matches!(why, ControlError::Timeout(_)), "{why}");
    }
    assert!(matches!(client.get_info("version").await, Err(ControlError::Closed)));

    tor.signal(Signal::CONT);
    let (client, _events) = connected(&mut updates).await;
    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
}

#[tokio::test]
async fn connects_to_the_replacement_of_a_killed_tor() {
    let mut tor = RealTor::start();
    let mut updates = tor.supervise(PATIENCE);
    let (client, _events) = connected(&mut updates).await;

    tor.kill();
    timeout(PATIENCE, client.closed()).await.unwrap();
    let why = lost(&mut updates).await;
    assert!(matches!(why, ControlError::Closed), "{why}");

    // The old cookie file still exists while the new tor starts.
    tor.restart();
    let (client, _events) = connected(&mut updates).await;
    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
}

/// Returns a valid key that belongs to no onion service: the base point of the curve.
fn ed25519_base_point() -> [u8; 32] {
    let mut point = [0x66; 32];
    if let Some(first) = point.first_mut() {
        *first = 0x58;
    }
    point
}
