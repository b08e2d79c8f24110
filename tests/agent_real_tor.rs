//! The agent beside a real tor, both as plain processes. No network is needed: tor runs with `DisableNetwork 1`, so it
//! has a control socket and an onion service, but no introduction points.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test they are the report")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use onionbalance_operator::link::{
    AGENT_API_PORT, AgentToken, LinkError, MAC_HEADER, METRICS_PORT, NONCE_HEADER, PROBE_PORT, PodPhase, SYNC_PATH,
    SyncRequest, SyncResponse,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const MASTER: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
const POD_UID: &str = "6c0e3a0e-0000-4000-8000-000000000001";
const TOKEN: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NOT_BOOTSTRAPPED: &str = "tor is bootstrapped to 0%\n";
const NO_TOR: &str = "tor does not answer on its control socket\n";

#[tokio::test]
async fn tor_takes_what_init_made_and_the_agent_finds_tor() {
    let backend = Backend::new("127.0.0.1:1").await;
    let agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;
    let tor = backend.tor();
    backend.until_ready_says(NOT_BOOTSTRAPPED).await;
    assert_eq!(backend.get(PROBE_PORT, "/startupz").await.status, 200);
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200);
    assert_eq!(backend.get(PROBE_PORT, "/readyz").await.status, 503);
    assert_eq!(backend.metric("onionbalance_agent_tor_up").await, 1);
    assert_eq!(backend.metric("onionbalance_agent_bootstrapped").await, 0);

    drop(tor);
    backend.until_ready_says(NO_TOR).await;
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200, "the agent is none the worse");
    assert_eq!(backend.metric("onionbalance_agent_tor_kills_total").await, 0);
    drop(agent);
}

#[tokio::test]
async fn a_frozen_tor_is_killed_and_the_next_one_is_found() {
    let backend = Backend::new("127.0.0.1:1").await;
    let _agent = backend.agent();
    let mut tor = backend.tor();
    backend.until_ready_says(NOT_BOOTSTRAPPED).await;

    let frozen = Instant::now();
    signal(&tor, Signal::STOP);
    let status = timeout(Duration::from_secs(20), tor.wait()).await.expect("tor was not killed").unwrap();
    let after = frozen.elapsed();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&after), "killed after {after:?}");
    backend.until_ready_says(NO_TOR).await;
    assert_eq!(backend.metric("onionbalance_agent_tor_kills_total").await, 1);

    let _tor = backend.tor();
    backend.until_ready_says(NOT_BOOTSTRAPPED).await;
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200);
}

#[tokio::test]
async fn only_the_publisher_of_this_service_is_answered_and_only_once() {
    let backend = Backend::new("127.0.0.1:1").await;
    let _agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;

    let (reply, verdict) = backend.sync(TOKEN, POD_UID, 7, PodPhase::Active).await;
    assert_eq!((reply.status, verdict), (200, Ok(())));
    let answer: SyncResponse = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(format!("{}\n", answer.onion_address), std::fs::read_to_string(backend.run("hs/hostname")).unwrap());
    assert_eq!((answer.introduction_points, answer.descriptor, answer.streams, answer.draining), (0, None, 0, false));

    let (replayed, verdict) = backend.sync(TOKEN, POD_UID, 7, PodPhase::Active).await;
    assert_eq!((replayed.status, verdict), (409, Ok(())));
    for (token, pod) in [(&"00".repeat(32)[..], POD_UID), (TOKEN, "another-pod")] {
        let (refused, verdict) = backend.sync(token, pod, 8, PodPhase::Active).await;
        assert_eq!((refused.status, verdict), (401, Err(LinkError::NotAuthentic)), "{token} {pod}");
    }
    assert_eq!(backend.request(AGENT_API_PORT, "POST", SYNC_PATH, &[], b"{}").await.status, 401);
    assert_eq!(backend.request(AGENT_API_PORT, "POST", SYNC_PATH, &[], &[b'x'; 5000]).await.status, 413);
    assert_eq!(backend.get(AGENT_API_PORT, SYNC_PATH).await.status, 405);

    // The Secret was replaced: the next call sees it.
    let other = "11".repeat(32);
    std::fs::write(backend.dir.path().join("token"), format!("{other}\n")).unwrap();
    assert_eq!(backend.sync(TOKEN, POD_UID, 9, PodPhase::Active).await.0.status, 401);
    assert_eq!(backend.sync(&other, POD_UID, 9, PodPhase::Active).await.0.status, 200);
}

#[tokio::test]
async fn a_drain_ends_after_withdrawal_linger_time_and_streams() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&listener.local_addr().unwrap().to_string()).await;
    let _agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;
    let stream = backend.open_stream().await;
    let (mut target, _) = listener.accept().await.unwrap();
    let target = tokio::spawn(async move { target.read_to_end(&mut Vec::new()).await.unwrap() });

    // Both containers' preStop at once, one as Kubernetes 1.20 asks.
    let (mut one, mut two) =
        (Box::pin(backend.get(PROBE_PORT, "/drain")), Box::pin(backend.get(PROBE_PORT, "//drain")));
    let publisher = async {
        for sequence in 1.. {
            let (reply, _) = backend.sync(TOKEN, POD_UID, sequence, PodPhase::Withdrawn).await;
            let answer: SyncResponse = serde_json::from_slice(&reply.body).unwrap();
            if sequence >= 10 {
                assert_eq!((answer.streams, answer.draining), (1, true));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = publisher => {}
        _ = &mut one => panic!("the linger time is 1 s, but a stream is open"),
        _ = &mut two => panic!("the linger time is 1 s, but a stream is open"),
    }
    drop(stream);
    for reply in [one.await, two.await] {
        assert_eq!((reply.status, reply.text()), (200, "no stream is open\n"));
    }
    target.await.unwrap();
}

#[tokio::test]
async fn a_stopped_agent_ends_at_once_and_a_killed_ones_sockets_are_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&format!("localhost:{}", listener.local_addr().unwrap().port())).await;
    let mut agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;
    signal(&agent, Signal::KILL);
    agent.wait().await.unwrap();

    let mut agent = backend.agent();
    backend.until_ready_says(NO_TOR).await;
    let mut stream = backend.open_stream().await;
    let (mut target, _) = listener.accept().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut request = String::new();
    target.read_to_string(&mut request).await.unwrap();
    target.write_all(b"pong").await.unwrap();
    drop(target);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!((request.as_str(), answer.as_str()), ("ping", "pong"));
    assert_eq!(backend.metric("onionbalance_agent_streams_total{port=\"80\"}").await, 1);

    let mut waiting = Box::pin(backend.get(PROBE_PORT, "/drain"));
    tokio::select! {
        _ = &mut waiting => panic!("/drain returned"),
        () = backend.until_draining() => {}
    }
    signal(&agent, Signal::TERM);
    let status = timeout(Duration::from_secs(5), agent.wait()).await.expect("SIGTERM was not heeded").unwrap();
    assert!(status.success(), "{status}");
}

/// tor runs with the agent's user ID and sees its processes: nothing of the agent's may be in its reach. As root, which may
/// look into everything, this test runs all of it as another user.
#[tokio::test]
async fn a_process_of_the_same_user_cannot_look_into_the_agent() {
    let backend = Backend::new("127.0.0.1:1").await;
    let user = User::of(&backend);
    let looks = |pid: u32, what: &str| {
        let mut look = user.run("sh");
        look.arg("-c").arg(format!("{what} >/dev/null 2>&1").replace("PID", &pid.to_string()));
        async move { look.status().await.unwrap().success() }
    };
    let secrets = ["cat /proc/PID/environ", "ls /proc/PID/root/", "ls /proc/PID/fd/", "cat /proc/PID/maps"];

    // That it can look into a process that does not hide.
    let mut sleeper = user.run("sleep").arg("1000").spawn().unwrap();
    let pid = sleeper.id().unwrap();
    backend.until("sleep", || async move { name_of(pid) }).await;
    for secret in secrets {
        assert!(looks(pid, secret).await, "{secret}");
    }
    sleeper.kill().await.unwrap();

    let agent = backend.with_files(user.run(user.program.to_str().unwrap()));
    let running = backend.serving(agent).spawn().unwrap();
    backend.until_ready_says(NO_TOR).await;
    let agent = running.id().unwrap();
    for secret in secrets.into_iter().chain([": </proc/PID/mem", "cat /proc/PID/root/etc/hostname"]) {
        assert!(!looks(agent, secret).await, "{secret}");
    }
    assert!(looks(agent, "cat /proc/PID/stat").await, "it is there");
}

/// What the image relies on: who may not read a program cannot look into its process, even before it hides itself.
#[tokio::test]
async fn a_program_that_cannot_be_read_is_hidden_from_its_first_moment() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: a file that its user cannot read takes root to make");
        return;
    }
    let backend = Backend::new("127.0.0.1:1").await;
    let user = User::of(&backend);
    for (mode, can_look) in [(0o755, true), (0o711, false)] {
        let program = backend.dir.path().join(format!("sleep-{mode:o}"));
        std::fs::copy("/bin/sleep", &program).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        // setpriv itself still has capabilities when it starts a program; the one after has none, as in a pod.
        let sleeper = user.run("env").arg(&program).arg("1000").spawn().unwrap();
        let pid = sleeper.id().unwrap();
        backend.until(&format!("sleep-{mode:o}"), || async move { name_of(pid) }).await;
        let looked = user.run("cat").arg(format!("/proc/{pid}/environ")).output().await.unwrap();
        assert_eq!(looked.status.success(), can_look, "{mode:o}");
    }
}

/// The name of a process's program.
fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The user that tor and the agent share.
struct User {
    id: Option<u32>,
    /// Our program where this user can run it.
    program: PathBuf,
}

impl User {
    /// As root, another one, who gets the backend's files.
    fn of(backend: &Backend) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_onionbalance-operator"));
        if !rustix::process::geteuid().is_root() {
            return Self { id: None, program };
        }
        let (id, ours) = (65532, backend.dir.path().join("program"));
        std::fs::copy(&program, &ours).unwrap();
        let owned = std::process::Command::new("chown").arg("-R").arg(id.to_string()).arg(backend.dir.path()).status();
        assert!(owned.unwrap().success());
        Self { id: Some(id), program: ours }
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new(if self.id.is_some() { "setpriv" } else { program });
        if let Some(id) = self.id {
            command.arg(format!("--reuid={id}")).arg(format!("--regid={id}")).args(["--clear-groups", "--", program]);
        }
        command.kill_on_drop(true);
        command
    }
}

/// The files of one backend, and an address of its own on the loopback.
struct Backend {
    dir: tempfile::TempDir,
    address: Ipv4Addr,
}

impl Backend {
    /// A backend that `init` has prepared, whose port 80 leads to `target`.
    async fn new(target: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed));
        let backend = Self { dir: tempfile::tempdir().unwrap(), address };
        let config = format!(
            "masterOnionAddress: {MASTER}\nports:\n- port: 80\n  target: {target}\n\
             introductionPoints: 3\ndrainTimeoutSeconds: 60\nlingerSeconds: 1\n"
        );
        std::fs::write(backend.dir.path().join("agent.yaml"), config).unwrap();
        std::fs::write(backend.dir.path().join("token"), TOKEN).unwrap();
        let status = backend.program().arg("init").status().await.unwrap();
        assert!(status.success(), "init: {status}");
        backend
    }

    fn run(&self, path: &str) -> PathBuf {
        self.dir.path().join("run").join(path)
    }

    fn program(&self) -> Command {
        self.with_files(Command::new(env!("CARGO_BIN_EXE_onionbalance-operator")))
    }

    fn with_files(&self, mut program: Command) -> Command {
        let path = |name: &str| self.dir.path().join(name);
        program.arg("backend");
        program.arg("--config").arg(path("agent.yaml"));
        program.arg("--run-dir").arg(path("run"));
        program.arg("--tor-data-dir").arg(path("data"));
        program.kill_on_drop(true);
        program
    }

    fn agent(&self) -> Child {
        self.serving(self.program()).spawn().unwrap()
    }

    fn serving(&self, mut program: Command) -> Command {
        program.arg("--token").arg(self.dir.path().join("token"));
        program.arg("--listen-address").arg(self.address.to_string());
        program.env("POD_UID", POD_UID);
        program
    }

    fn tor(&self) -> Child {
        let (run, data) = (self.run(""), self.dir.path().join("data"));
        let (run, data) = (run.display(), data.display());
        let torrc = format!(
            "DataDirectory {data}\nDisableNetwork 1\nSocksPort 0\n\
             ControlSocket unix:{run}control/socket\nCookieAuthentication 1\nCookieAuthFile {run}control/cookie\n\
             PublishHidServDescriptors 0\n\
             HiddenServiceDir {run}hs\nHiddenServiceVersion 3\nHiddenServiceOnionBalanceInstance 1\n\
             HiddenServicePort 80 unix:{run}forward/80.sock\n"
        );
        let path = self.dir.path().join("torrc");
        std::fs::write(&path, torrc).unwrap();
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(path).arg("--defaults-torrc").arg(self.run("empty"));
        tor.stdout(Stdio::null()).kill_on_drop(true);
        tor.spawn().expect("tor cannot be started: apt-get install tor")
    }

    async fn open_stream(&self) -> UnixStream {
        UnixStream::connect(self.run("forward/80.sock")).await.unwrap()
    }

    async fn get(&self, port: u16, path: &str) -> Reply {
        self.request(port, "GET", path, &[], b"").await
    }

    async fn request(&self, port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_request(port, method, path, headers, body).await.expect("the agent does not answer")
    }

    async fn try_request(
        &self,
        port: u16,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Reply> {
        let mut stream = TcpStream::connect(SocketAddr::from((self.address, port))).await?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        write!(head, "content-length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await?;
        Ok(Reply::parse(&reply))
    }

    /// A publisher's call. Also tells whether the answer is authentic.
    async fn sync(&self, token: &str, pod_uid: &str, sequence: u64, phase: PodPhase) -> (Reply, Result<(), LinkError>) {
        let token = AgentToken::from_hex(token.as_bytes()).unwrap();
        let request =
            SyncRequest { publisher: "publisher".to_owned(), sequence, leading: true, phase, known_revision: None };
        let body = serde_json::to_vec(&request).unwrap();
        let nonce = format!("{sequence:032x}");
        let mac = token.request_mac(pod_uid, "POST", SYNC_PATH, &nonce, &body);
        let headers = [(MAC_HEADER, mac.as_str()), (NONCE_HEADER, nonce.as_str())];
        let reply = self.request(AGENT_API_PORT, "POST", SYNC_PATH, &headers, &body).await;
        let expected = token.response_mac(pod_uid, "POST", SYNC_PATH, &nonce, reply.status, &reply.body);
        let verdict = AgentToken::verify(&expected, reply.headers.get(MAC_HEADER).map(String::as_str));
        (reply, verdict)
    }

    async fn until_ready_says(&self, text: &str) {
        self.until(text, || async {
            let reply = self.try_request(PROBE_PORT, "GET", "/readyz", &[], b"").await;
            reply.map_or_else(|error| error.to_string(), |reply| reply.text().to_owned())
        })
        .await;
    }

    async fn until_draining(&self) {
        let mut sequence = 0;
        self.until("draining", || {
            sequence += 1;
            async move {
                let (reply, _) = self.sync(TOKEN, POD_UID, sequence, PodPhase::Terminating).await;
                let answer: SyncResponse = serde_json::from_slice(&reply.body).unwrap();
                if answer.draining { "draining" } else { "not draining" }.to_owned()
            }
        })
        .await;
    }

    /// Asks until the answer is as wanted.
    async fn until<F: Future<Output = String>>(&self, wanted: &str, mut ask: impl FnMut() -> F) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = ask().await;
            if answer == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "wanted {wanted:?}, the last answer is {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn metric(&self, name: &str) -> u64 {
        let reply = self.get(METRICS_PORT, "/metrics").await;
        let value = reply.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::parse);
        value.unwrap_or_else(|| panic!("no {name} in {}", reply.text())).unwrap()
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole answer");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned()));
        Self { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn signal(process: &Child, signal: Signal) {
    let pid = process.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).expect("the process has ended");
    kill_process(pid, signal).unwrap();
}
