//! Runs a backend's processes, and sends the agent the requests that the kubelet, Prometheus and
//! the publisher would send.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use onionbalance_operator::link::{
    AGENT_API_PORT, AgentToken, CLOSE_PATH, CloseRequest, LinkError, MAC_HEADER, METRICS_PORT, NONCE_HEADER,
    PROBE_PORT, PodPhase, SYNC_PATH, SyncRequest, SyncResponse,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

pub const MASTER: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
pub const POD_UID: &str = "6c0e3a0e-0000-4000-8000-000000000001";
pub const TOKEN: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// The files and the loopback address of one backend.
pub struct Backend {
    pub dir: tempfile::TempDir,
    address: Ipv4Addr,
}

impl Backend {
    /// Creates a backend whose port 80 leads to `target`, using `backend init`.
    pub async fn new(target: &str) -> Self {
        Self::with_ports(&[(80, target)]).await
    }

    /// Creates a backend with the given ports and targets, using `backend init`. The targets are
    /// not checked, so every connection to a target belongs to a stream.
    pub async fn with_ports(ports: &[(u16, &str)]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed));
        let backend = Self { dir: tempfile::tempdir().unwrap(), address };
        let mut lines = String::new();
        for (port, target) in ports {
            writeln!(lines, "- port: {port}\n  target: {target}\n  check: {{enabled: false}}").unwrap();
        }
        let config = format!(
            "masterOnionAddress: {MASTER}\nports:\n{lines}\
             introductionPoints: 3\ndrainTimeoutSeconds: 60\nlingerSeconds: 1\n"
        );
        std::fs::write(backend.dir.path().join("agent.yaml"), config).unwrap();
        std::fs::write(backend.dir.path().join("token"), TOKEN).unwrap();
        let status = backend.program().arg("init").status().await.unwrap();
        assert!(status.success(), "backend init failed: {status}");
        backend
    }

    pub fn run(&self, path: &str) -> PathBuf {
        self.dir.path().join("run").join(path)
    }

    pub fn program(&self) -> Command {
        self.with_files(Command::new(env!("CARGO_BIN_EXE_onionbalance-operator")))
    }

    pub fn with_files(&self, mut program: Command) -> Command {
        let path = |name: &str| self.dir.path().join(name);
        program.arg("backend");
        program.arg("--config").arg(path("agent.yaml"));
        program.arg("--run-dir").arg(path("run"));
        program.arg("--tor-data-dir").arg(path("data"));
        program.arg("--guards-dir").arg(path("guards"));
        program.kill_on_drop(true);
        program
    }

    pub fn agent(&self) -> Child {
        self.serving(self.program()).spawn().unwrap()
    }

    pub fn serving(&self, mut program: Command) -> Command {
        program.arg("--token").arg(self.dir.path().join("token"));
        program.arg("--listen-address").arg(self.address.to_string());
        program.env("POD_UID", POD_UID);
        program
    }

    pub fn tor(&self) -> Child {
        self.tor_with("DisableNetwork 1\n")
    }

    /// Starts tor with additional lines in its torrc.
    pub fn tor_with(&self, lines: &str) -> Child {
        self.tor_from(Command::new("tor"), lines)
    }

    /// Starts tor by a command that runs the program `tor`, with additional lines in its torrc.
    pub fn tor_from(&self, mut tor: Command, lines: &str) -> Child {
        let (run, data) = (self.run(""), self.dir.path().join("data"));
        let (run, data) = (run.display(), data.display());
        let torrc = format!(
            "DataDirectory {data}\n{lines}SocksPort 0\n\
             ControlSocket unix:{run}control/socket\nCookieAuthentication 1\nCookieAuthFile {run}control/cookie\n\
             PublishHidServDescriptors 0\n\
             HiddenServiceDir {run}hs\nHiddenServiceVersion 3\nHiddenServiceOnionBalanceInstance 1\n\
             HiddenServicePort 80 unix:{run}forward/80.sock\n"
        );
        let path = self.dir.path().join("torrc");
        std::fs::write(&path, torrc).unwrap();
        tor.arg("-f").arg(path).arg("--defaults-torrc").arg(self.run("empty"));
        tor.stdout(Stdio::null()).kill_on_drop(true);
        tor.spawn().expect("could not start tor; run apt-get install tor")
    }

    pub async fn open_stream(&self) -> UnixStream {
        self.open_stream_to(80).await
    }

    pub async fn open_stream_to(&self, port: u16) -> UnixStream {
        UnixStream::connect(self.run(&format!("forward/{port}.sock"))).await.unwrap()
    }

    pub async fn get(&self, port: u16, path: &str) -> Reply {
        self.request(port, "GET", path, &[], b"").await
    }

    pub async fn request(&self, port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_request(port, method, path, headers, body).await.expect("the agent did not respond")
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

    /// Sends a publisher's request. Returns the response and the result of verifying its
    /// authentication code.
    pub async fn sync(
        &self,
        token: &str,
        pod_uid: &str,
        sequence: u64,
        phase: PodPhase,
    ) -> (Reply, Result<(), LinkError>) {
        self.send(token, pod_uid, &request(sequence, phase)).await
    }

    /// Sends a publisher's request with the guards that all tors share, and returns the response.
    pub async fn share_guards(&self, sequence: u64, shared: Option<&str>) -> SyncResponse {
        let shared_guards = shared.map(ToOwned::to_owned);
        let request = SyncRequest { known_guards: Some(0), shared_guards, ..request(sequence, PodPhase::Active) };
        let (reply, verdict) = self.send(TOKEN, POD_UID, &request).await;
        assert_eq!(verdict, Ok(()));
        serde_json::from_slice(&reply.body).unwrap()
    }

    async fn send(&self, token: &str, pod_uid: &str, request: &SyncRequest) -> (Reply, Result<(), LinkError>) {
        let token = AgentToken::from_hex(token.as_bytes()).unwrap();
        let sequence = request.sequence;
        let body = serde_json::to_vec(request).unwrap();
        let nonce = format!("{sequence:032x}");
        let mac = token.request_mac(pod_uid, "POST", SYNC_PATH, &nonce, &body);
        let headers = [(MAC_HEADER, mac.as_str()), (NONCE_HEADER, nonce.as_str())];
        let reply = self.request(AGENT_API_PORT, "POST", SYNC_PATH, &headers, &body).await;
        let expected = token.response_mac(pod_uid, "POST", SYNC_PATH, &nonce, reply.status, &reply.body);
        let verdict = AgentToken::verify(&expected, reply.headers.get(MAC_HEADER).map(String::as_str));
        (reply, verdict)
    }

    /// Adds limits of circuits to the agent's configuration. The agent then expects tor's PROXY
    /// header on each stream.
    pub fn limit_circuits(&self) {
        let path = self.dir.path().join("agent.yaml");
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{config}circuitLimits:\n  openStreams: 8\n")).unwrap();
    }

    /// Sends a publisher's request to close a circuit. Returns the status of the response.
    pub async fn close_circuit(&self, sequence: u64, circuit: u32) -> u16 {
        let token = AgentToken::from_hex(TOKEN.as_bytes()).unwrap();
        let request = CloseRequest { publisher: "publisher".to_owned(), sequence, circuit };
        let body = serde_json::to_vec(&request).unwrap();
        let nonce = format!("{sequence:032x}");
        let mac = token.request_mac(POD_UID, "POST", CLOSE_PATH, &nonce, &body);
        let headers = [(MAC_HEADER, mac.as_str()), (NONCE_HEADER, nonce.as_str())];
        self.request(AGENT_API_PORT, "POST", CLOSE_PATH, &headers, &body).await.status
    }

    pub async fn wait_for_readiness(&self, text: &str) {
        self.until(text, || async {
            let reply = self.try_request(PROBE_PORT, "GET", "/readyz", &[], b"").await;
            reply.map_or_else(|error| error.to_string(), |reply| reply.text().to_owned())
        })
        .await;
    }

    pub async fn wait_until_draining(&self) {
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

    /// Repeats a query until it returns the expected answer. Panics after 30 s.
    pub async fn until<F: Future<Output = String>>(&self, wanted: &str, mut ask: impl FnMut() -> F) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = ask().await;
            if answer == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "expected {wanted:?}, but the last answer was {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn metric(&self, name: &str) -> u64 {
        let reply = self.get(METRICS_PORT, "/metrics").await;
        let value = reply.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::parse);
        value.unwrap_or_else(|| panic!("the metrics have no {name}: {}", reply.text())).unwrap()
    }
}

fn request(sequence: u64, phase: PodPhase) -> SyncRequest {
    SyncRequest {
        publisher: "publisher".to_owned(),
        sequence,
        leading: true,
        phase,
        known_revision: None,
        known_guards: None,
        shared_guards: None,
        vanguards: None,
        round: 0,
        unhealthy: false,
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("the response has no complete head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned()));
        Self { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub fn signal(process: &Child, signal: Signal) {
    let pid = process.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).expect("the process has already ended");
    kill_process(pid, signal).unwrap();
}
