//! Tests of the agent with a real tor, with both running as ordinary processes. No network is
//! needed: tor runs with `DisableNetwork 1`, so it has a control socket and an onion service but no
//! introduction points.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic reports the failure of a test")]

mod backend;
mod drain;
mod forwarder;
mod metrics;

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use onionbalance_operator::link::{
    AGENT_API_PORT, LinkError, MAX_REQUEST_BYTES, PROBE_PORT, PodPhase, SYNC_PATH, SyncResponse,
};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use crate::backend::{Backend, POD_UID, TOKEN, signal};

const NOT_BOOTSTRAPPED: &str = "tor is bootstrapped to 0%\n";
const NO_TOR: &str = "tor does not answer on its control socket\n";

#[tokio::test]
async fn tor_accepts_the_init_files_and_the_agent_connects() {
    let backend = Backend::new("127.0.0.1:1").await;
    let agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
    let tor = backend.tor();
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    assert_eq!(backend.get(PROBE_PORT, "/startupz").await.status, 200);
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200);
    assert_eq!(backend.get(PROBE_PORT, "/readyz").await.status, 503);
    assert_eq!(backend.metric("onionbalance_agent_tor_up").await, 1);
    assert_eq!(backend.metric("onionbalance_agent_bootstrapped").await, 0);

    drop(tor);
    backend.wait_for_readiness(NO_TOR).await;
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200, "the agent must stay alive without tor");
    assert_eq!(backend.metric("onionbalance_agent_tor_kills_total").await, 0);
    drop(agent);
}

#[tokio::test]
async fn a_new_tor_waits_for_the_shared_guards_and_uses_them() {
    let backend = Backend::new("127.0.0.1:1").await;
    std::fs::create_dir(backend.dir.path().join("guards")).unwrap();
    std::fs::remove_file(backend.run("empty")).unwrap();
    assert!(backend.program().arg("init").status().await.unwrap().success());
    let _agent = backend.agent();
    let mut tor = backend.tor();
    backend.wait_for_readiness(NO_TOR).await;
    assert!(backend.share_guards(1, None).await.awaits_guards);
    assert!(!backend.run("control/socket").exists(), "tor has not waited");

    let (fingerprint, now) = ("AB".repeat(20), Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S").to_string());
    let line = format!("Guard in=default rsa_id={fingerprint} sampled_on={now} sampled_idx=0 listed=1\n");
    assert!(!backend.share_guards(2, Some(&line)).await.awaits_guards);
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    assert!(backend.run("empty").is_file());
    // Tor writes its state file, with the guards that it knows, before it ends.
    signal(&tor, Signal::TERM);
    tor.wait().await.unwrap();
    let state = std::fs::read_to_string(backend.dir.path().join("data/state")).unwrap();
    assert!(state.contains("TorVersion") && state.contains(&fingerprint), "{state}");
}

#[tokio::test]
async fn kills_a_frozen_tor_and_connects_to_its_replacement() {
    let backend = Backend::new("127.0.0.1:1").await;
    let log = backend.dir.path().join("agent.log");
    let mut agent = backend.serving(backend.program());
    let _agent = agent.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let mut tor = backend.tor();
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;

    let frozen = Timestamp::now();
    signal(&tor, Signal::STOP);
    let status = timeout(Duration::from_secs(20), tor.wait()).await.expect("tor was not killed").unwrap();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    backend.wait_for_readiness(NO_TOR).await;
    assert_eq!(backend.metric("onionbalance_agent_tor_kills_total").await, 1);
    let log = std::fs::read_to_string(log).unwrap();
    let killed = log.lines().find(|line| line.contains("killed a frozen tor")).unwrap_or_else(|| panic!("{log}"));
    let killed: Timestamp = killed.split(' ').next().unwrap().parse().unwrap();
    let after: Duration = killed.duration_since(frozen).try_into().unwrap();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&after), "killed after {after:?}");

    let _tor = backend.tor();
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    assert_eq!(backend.get(PROBE_PORT, "/livez").await.status, 200);
}

/// A cluster such as OpenShift runs both containers of a pod as a user of its choice. No user
/// database knows this user, whose group is that of root.
#[tokio::test]
async fn an_assigned_user_can_run_tor_and_the_agent_and_kill_a_frozen_tor() {
    let backend = Backend::new("127.0.0.1:1").await;
    let user = User::with_ids(&backend, AGENT, 1_000_680_000, 0);
    let agent = backend.with_files(user.run(user.program.to_str().unwrap()));
    let _agent = backend.serving(agent).spawn().unwrap();
    let mut tor = backend.tor_from(user.run("tor"), "DisableNetwork 1\n");
    backend.wait_for_readiness(NOT_BOOTSTRAPPED).await;
    signal(&tor, Signal::STOP);
    let status = timeout(Duration::from_secs(20), tor.wait()).await.expect("tor was not killed").unwrap();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
}

#[tokio::test]
async fn answers_each_authentic_request_only_once() {
    let backend = Backend::new("127.0.0.1:1").await;
    let _agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;

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
    let too_long = vec![b'x'; MAX_REQUEST_BYTES + 1];
    assert_eq!(backend.request(AGENT_API_PORT, "POST", SYNC_PATH, &[], &too_long).await.status, 413);
    assert_eq!(backend.get(AGENT_API_PORT, SYNC_PATH).await.status, 405);

    // After the Secret is replaced, the agent uses the new token for the next request.
    let other = "11".repeat(32);
    std::fs::write(backend.dir.path().join("token"), format!("{other}\n")).unwrap();
    assert_eq!(backend.sync(TOKEN, POD_UID, 9, PodPhase::Active).await.0.status, 401);
    assert_eq!(backend.sync(&other, POD_UID, 9, PodPhase::Active).await.0.status, 200);
}

#[tokio::test]
async fn stops_immediately_on_sigterm_and_replaces_stale_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(&format!("localhost:{}", listener.local_addr().unwrap().port())).await;
    let mut agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
    signal(&agent, Signal::KILL);
    agent.wait().await.unwrap();

    let mut agent = backend.agent();
    backend.wait_for_readiness(NO_TOR).await;
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
        _ = &mut waiting => panic!("/drain returned before the drain started"),
        () = backend.wait_until_draining() => {}
    }
    signal(&agent, Signal::TERM);
    let status = timeout(Duration::from_secs(5), agent.wait()).await.expect("the agent ignored SIGTERM").unwrap();
    assert!(status.success(), "{status}");
}

/// tor runs as the same user as the agent and in the same process namespace, but must not be able
/// to inspect the agent. Root may inspect everything, so if the test runs as root, it starts the
/// processes as another user.
#[tokio::test]
async fn the_agent_is_hidden_from_processes_of_the_same_user() {
    let backend = Backend::new("127.0.0.1:1").await;
    let user = User::of(&backend);
    let can_inspect = |pid: u32, command: &str| {
        let mut shell = user.run("sh");
        shell.arg("-c").arg(format!("{command} >/dev/null 2>&1").replace("PID", &pid.to_string()));
        async move { shell.status().await.unwrap().success() }
    };
    let secrets = ["cat /proc/PID/environ", "ls /proc/PID/root/", "ls /proc/PID/fd/", "cat /proc/PID/maps"];

    // The same commands can inspect a process that does not hide itself.
    let mut sleeper = user.run("sleep").arg("1000").spawn().unwrap();
    let pid = sleeper.id().unwrap();
    backend.until("sleep", || async move { name_of(pid) }).await;
    for secret in secrets {
        assert!(can_inspect(pid, secret).await, "{secret}");
    }
    sleeper.kill().await.unwrap();

    let agent = backend.with_files(user.run(user.program.to_str().unwrap()));
    let running = backend.serving(agent).spawn().unwrap();
    backend.wait_for_readiness(NO_TOR).await;
    let agent = running.id().unwrap();
    for secret in secrets.into_iter().chain([": </proc/PID/mem", "cat /proc/PID/root/etc/hostname"]) {
        assert!(!can_inspect(agent, secret).await, "{secret}");
    }
    assert!(can_inspect(agent, "cat /proc/PID/stat").await, "the agent must be running");
}

/// If a user starts a program whose file that user cannot read, the kernel hides the process from
/// the start, before the process can hide itself. Our image relies on this. The test starts a
/// program that does not hide itself, with the mode that our program has in our image.
#[tokio::test]
async fn the_mode_in_our_image_hides_a_process_from_its_start() {
    let backend = Backend::new("127.0.0.1:1").await;
    let user = User::of(&backend);
    // In the image, the program belongs to root, so the mode's last digit applies to its user. Here
    // the program may belong to its user, so the digit applies to everyone.
    for (mode, is_readable) in [(0o555, true), ((mode_in_our_image() & 0o7) * 0o111, false)] {
        let program = backend.dir.path().join(format!("program-{mode:o}"));
        std::fs::copy("/bin/sleep", &program).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        // setpriv still has capabilities when it starts a program. The program that env starts has
        // none, just as in a pod.
        let sleeper = user.run("env").arg(&program).arg("1000").spawn().unwrap();
        let pid = sleeper.id().unwrap();
        backend.until(&format!("program-{mode:o}"), || async move { name_of(pid) }).await;
        let inspection = user.run("cat").arg(format!("/proc/{pid}/environ")).output().await.unwrap();
        assert_eq!(inspection.status.success(), is_readable, "mode {mode:o}");
    }
}

/// The commands for people read keys as well, and wait for input meanwhile.
#[tokio::test]
async fn the_commands_that_read_keys_are_hidden() {
    let backend = Backend::new("127.0.0.1:1").await;
    let user = User::with_ids(&backend, env!("CARGO_BIN_EXE_kubectl-onionbalance"), 65532, 65532);
    let name = user.program.file_name().unwrap().to_str().unwrap();
    // The kernel truncates the name.
    let name = &name[..name.len().min(15)];
    for arguments in [["key", "show", "-"].as_slice(), &["config", "generate"]] {
        let mut command = user.run("env");
        command.arg(&user.program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
        let waits = command.spawn().unwrap();
        let pid = waits.id().unwrap();
        backend.until(name, || async move { name_of(pid) }).await;
        let inspect = || async {
            let inspection = user.run("cat").arg(format!("/proc/{pid}/environ")).output().await.unwrap();
            if inspection.status.success() { "visible".to_owned() } else { "hidden".to_owned() }
        };
        backend.until("hidden", inspect).await;
        assert_eq!(name_of(pid), name, "the process must be running");
    }
}

/// Returns the mode of our program in the image. The Dockerfile and the script that builds the same
/// image without Docker must agree.
fn mode_in_our_image() -> u32 {
    let mode = |text: &str| {
        let path = "/usr/local/bin/onionbalance-operator ";
        let (_, mode) = text.split_once(path).unwrap_or_else(|| panic!("no {path:?} in {text}"));
        u32::from_str_radix(mode.split_whitespace().next().unwrap(), 8).unwrap()
    };
    let modes =
        [include_str!("../../deploy/images/operator.Dockerfile"), include_str!("../../e2e/setup/images.sh")].map(mode);
    assert_eq!(modes[0], modes[1]);
    modes[0]
}

/// Returns the name of a process's program.
fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The path of the program that contains the agent.
const AGENT: &str = env!("CARGO_BIN_EXE_onionbalance-operator");

/// The user that tor and the agent share.
struct User {
    /// The IDs of the user and of its group. `None` stands for the current user.
    ids: Option<(u32, u32)>,
    /// The path of one of our programs, or of a copy that this user can run.
    program: PathBuf,
}

impl User {
    /// Returns the current user or, if that is root, another user, who becomes the owner of the
    /// backend's files.
    fn of(backend: &Backend) -> Self {
        Self::with_ids(backend, AGENT, 65532, 65532)
    }

    /// Returns the current user or, if that is root, the user with the given IDs, who becomes the
    /// owner of the backend's files.
    fn with_ids(backend: &Backend, program: &str, id: u32, group: u32) -> Self {
        let program = PathBuf::from(program);
        if !rustix::process::geteuid().is_root() {
            return Self { ids: None, program };
        }
        let ours = backend.dir.path().join("program");
        std::fs::copy(&program, &ours).unwrap();
        let owned = std::process::Command::new("chown").arg("-R").arg(id.to_string()).arg(backend.dir.path()).status();
        assert!(owned.unwrap().success());
        Self { ids: Some((id, group)), program: ours }
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new(if self.ids.is_some() { "setpriv" } else { program });
        if let Some((id, group)) = self.ids {
            command.arg(format!("--reuid={id}")).arg(format!("--regid={group}"));
            command.args(["--clear-groups", "--", program]);
        }
        command.kill_on_drop(true);
        command
    }
}
