//! The control client against a real tor of its own, without network. Needs the program `tor`.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::fs::{self, Permissions};
use std::io::ErrorKind;
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

/// Long enough for a busy machine; nothing here waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// A tor that is killed when it goes out of scope.
struct Tor {
    directory: TempDir,
    process: Child,
}

impl Tor {
    fn start() -> Self {
        Self::start_with("CookieAuthentication 1")
    }

    /// With these lines of torrc for authentication, and also a TCP port.
    fn start_with(authentication: &str) -> Self {
        let directory = TempDir::with_prefix("control-real-tor").expect("a temporary directory");
        // Tor refuses to put its socket where others may look.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).expect("our own directory");
        let path = directory.path().display();
        let torrc = format!(
            "DisableNetwork 1\nSocksPort 0\nDataDirectory {path}/data\nControlSocket unix:{path}/control\n\
             ControlPort auto\n{authentication}\nCookieAuthFile {path}/cookie\nGeoIPFile {path}/empty\nGeoIPv6File {path}/empty\n\
             Log notice file {path}/notice.log\nContactInfo .a \"quoted\" one\n__OwningControllerProcess {}\n",
            std::process::id()
        );
        fs::write(directory.path().join("torrc"), torrc).expect("torrc");
        fs::write(directory.path().join("empty"), "").expect("an empty file");
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
                panic!("this test needs the program tor: apt-get install tor")
            }
            Err(error) => panic!("cannot start tor: {error}"),
        }
    }

    fn restart(&mut self) {
        self.process = Self::launch(self.directory.path());
    }

    fn kill(&mut self) {
        self.process.kill().expect("tor was running");
        self.process.wait().expect("tor was our child");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("tor runs");
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// A supervisor of the control socket.
    fn supervise(&self, command_timeout: Duration) -> mpsc::Receiver<Update> {
        Self::supervise_by(Connector { command_timeout, ..Connector::unix(self.socket()) })
    }

    fn supervise_by(connector: Connector) -> mpsc::Receiver<Update> {
        let backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_millis(200) };
        supervise(connector, backoff, StdRng::seed_from_u64(1))
    }

    /// A connection, as soon as tor is up.
    async fn connect(&self) -> (Client, mpsc::Receiver<Event>, mpsc::Receiver<Update>) {
        let mut updates = self.supervise(PATIENCE);
        let (client, events) = connected(&mut updates).await;
        (client, events, updates)
    }
}

/// Connects to the unix socket as soon as tor is up, then to the TCP port.
async fn connect_both_ways(tor: &Tor, unix: Connector) -> (Connector, Connector) {
    let (client, _events) = connected(&mut Tor::supervise_by(unix.clone())).await;
    let listeners = client.get_info("net/listeners/control").await.expect("an authenticated connection");
    let listeners: Vec<_> = listeners.split(' ').map(|place| place.trim_matches('"').to_owned()).collect();
    let place = listeners.iter().find(|place| place.starts_with("127.0.0.1:")).expect("a TCP port");
    assert!(listeners.contains(&ControlEndpoint::Unix(tor.socket()).to_string()), "{listeners:?}");
    let tcp = Connector { endpoint: place.parse().expect("HOST:PORT"), ..unix.clone() };
    for connector in [&unix, &tcp] {
        let (client, _events) = connector.connect().await.expect("both ways in");
        assert!(client.get_info("version").await.expect("we may").starts_with("0.4."));
    }
    (unix, tcp)
}

/// The torrc line for a password, as tor makes it.
fn hashed(password: &str) -> String {
    let output = Command::new("tor")
        .args(["--quiet", "--defaults-torrc", "/dev/null", "-f", "/dev/null", "--hash-password", password])
        .output()
        .expect("this test needs the program tor: apt-get install tor");
    let text = String::from_utf8(output.stdout).expect("hexadecimal");
    let hash = text.lines().find(|line| line.starts_with("16:")).expect("a hash");
    format!("HashedControlPassword {hash}")
}

fn password(text: &str) -> Password {
    Password::new(Zeroizing::new(text.to_owned())).expect("one line")
}

async fn why_not(connector: &Connector) -> String {
    match connector.connect().await {
        Err(ControlError::Authentication(message)) => message,
        other => panic!("{other:?}"),
    }
}

impl Drop for Tor {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

async fn next<T>(receiver: &mut mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, receiver.recv()).await.expect("in time").expect("not closed")
}

async fn connected(updates: &mut mpsc::Receiver<Update>) -> (Client, mpsc::Receiver<Event>) {
    let mut last = None;
    let attempts = async {
        loop {
            match updates.recv().await.expect("the supervisor runs") {
                Update::Connected(client, events) => return (client, events),
                Update::Lost(why) => last = Some(why),
            }
        }
    };
    let connection = timeout(PATIENCE, attempts).await.ok();
    connection.unwrap_or_else(|| panic!("no connection within {PATIENCE:?}; last: {last:?}"))
}

async fn lost(updates: &mut mpsc::Receiver<Update>) -> ControlError {
    match next(updates).await {
        Update::Lost(why) => why,
        Update::Connected(..) => panic!("connected, where the connection should be lost"),
    }
}

fn refusal<T>(result: Result<T, ControlError>) -> (u16, String) {
    match result {
        Err(ControlError::Refused { code, message }) => (code, message),
        Err(other) => panic!("not refused, but: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn asks_and_is_answered() {
    let tor = Tor::start();
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
    let tor = Tor::start();
    let (client, _events, _updates) = tor.connect().await;
    let address = OnionAddress::from_public_key(ed25519_base_point()).unwrap();

    assert_eq!(refusal(client.get_info("nonsense").await), (552, "Unrecognized key \"nonsense\"".to_owned()));
    assert_eq!(refusal(client.get_conf("nonsense").await).0, 552);
    assert_eq!(refusal(client.set_events(&["NONSENSE"]).await).0, 552);
    assert_eq!(refusal(client.signal("NONSENSE").await).0, 552);
    assert_eq!(refusal(client.get_info(&format!("hs/service/desc/id/{}", address.identifier())).await).0, 551);
    // The body looks like commands: were it not stuffed, tor would answer more than once.
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
async fn events_come_between_replies() {
    let tor = Tor::start();
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
async fn an_explicit_cookie_is_used_and_a_wrong_one_refused() {
    let tor = Tor::start();
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
async fn by_safe_cookie_and_only_to_the_cookies_own_tor() {
    let tor = Tor::start();
    let connector = Connector { command_timeout: PATIENCE, ..Connector::unix(tor.socket()) };
    let (unix, tcp) = connect_both_ways(&tor, connector).await;
    let wrong = tor.directory.path().join("wrong");
    fs::write(&wrong, [7; 32]).unwrap();
    for connector in [unix, tcp] {
        let message = why_not(&Connector { cookie: Some(wrong.clone()), ..connector.clone() }).await;
        // Ours notices it, before tor does: that is SAFECOOKIE.
        assert!(message.contains("wrong does not belong to the tor at"), "{message}");
        // A password does not help where tor takes none.
        let both = Connector { cookie: Some(wrong.clone()), password: Some(password("secret")), ..connector.clone() };
        assert!(why_not(&both).await.contains("check that it is this tor's file"));
        // A directory cannot be read, whoever we are.
        let directory = tor.directory.path().to_owned();
        let message = why_not(&Connector { cookie: Some(directory.clone()), ..connector }).await;
        assert!(message.contains(&format!("cookie file {} cannot be read", directory.display())), "{message}");
        assert!(message.contains("CookieAuthFileGroupReadable 1"), "{message}");
    }
}

#[tokio::test]
async fn by_password() {
    // What a shell's user may well have: quotes, backslashes that look like escapes, spaces, other letters.
    for text in ["secret", "", " a \"b\" \\ \\n\\101\\x41 'c' \té €", "\\", "\""] {
        let tor = Tor::start_with(&hashed(text));
        let connector = Connector { password: Some(password(text)), ..Connector::unix(tor.socket()) };
        let (unix, tcp) = connect_both_ways(&tor, connector).await;
        for connector in [unix, tcp] {
            let message = why_not(&Connector { password: Some(password("wrong")), ..connector.clone() }).await;
            assert!(message.starts_with("tor rejected the password: "), "{message}");
            let message = why_not(&Connector { password: None, ..connector.clone() }).await;
            assert!(message.ends_with("offers HASHEDPASSWORD; provide the control port's password"), "{message}");
        }
    }
}

#[tokio::test]
async fn by_password_where_the_cookie_does_not_serve() {
    let tor = Tor::start_with(&format!("CookieAuthentication 1\n{}", hashed("secret")));
    let (unix, tcp) = connect_both_ways(&tor, Connector::unix(tor.socket())).await;
    let wrong = tor.directory.path().join("wrong");
    fs::write(&wrong, [7; 32]).unwrap();
    for connector in [unix, tcp] {
        for cookie in [wrong.clone(), tor.directory.path().join("absent"), tor.directory.path().to_owned()] {
            let connector = Connector { cookie: Some(cookie), password: Some(password("secret")), ..connector.clone() };
            let (client, _events) = connector.connect().await.unwrap();
            client.get_info("version").await.unwrap();
            let message = why_not(&Connector { password: Some(password("wrong")), ..connector }).await;
            assert!(message.starts_with("tor rejected the password: "), "{message}");
        }
    }
}

#[tokio::test]
async fn by_nothing_where_tor_asks_for_nothing() {
    let tor = Tor::start_with("");
    let (unix, _tcp) = connect_both_ways(&tor, Connector::unix(tor.socket())).await;
    let needless = Connector { password: Some(password("secret")), cookie: Some("/nowhere".into()), ..unix };
    needless.connect().await.unwrap();
}

#[tokio::test]
async fn a_frozen_tor_is_noticed_and_a_thawed_one_reconnected() {
    let tor = Tor::start();
    let deadline = Duration::from_secs(1);
    let mut updates = tor.supervise(deadline);
    let (client, _events) = connected(&mut updates).await;

    tor.signal(Signal::STOP);
    let asked = timeout(PATIENCE, client.get_info("version")).await.unwrap();
    assert!(matches!(asked, Err(ControlError::Timeout(after)) if after == deadline), "{asked:?}");
    timeout(PATIENCE, client.closed()).await.unwrap();
    // The connection; then an attempt at another, which the kernel accepts in tor's name.
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
async fn a_killed_tor_is_noticed_and_its_successor_reconnected() {
    let mut tor = Tor::start();
    let mut updates = tor.supervise(PATIENCE);
    let (client, _events) = connected(&mut updates).await;

    tor.kill();
    timeout(PATIENCE, client.closed()).await.unwrap();
    let why = lost(&mut updates).await;
    assert!(matches!(why, ControlError::Closed), "{why}");

    // Its old cookie file is still there while it starts.
    tor.restart();
    let (client, _events) = connected(&mut updates).await;
    assert!(client.get_info("version").await.unwrap().starts_with("0.4."));
}

/// A valid key that nobody owns a service for: the curve's base point.
fn ed25519_base_point() -> [u8; 32] {
    let mut point = [0x66; 32];
    if let Some(first) = point.first_mut() {
        *first = 0x58;
    }
    point
}
