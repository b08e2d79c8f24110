//! A test of the stand-alone daemon with a real tor that has no network. It requires the program
//! `tor`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic reports the failure of a test")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// The maximum time to wait for a program on a busy machine. Passing tests never wait this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks at a log.
const PAUSE: Duration = Duration::from_millis(50);
/// An address that is a valid instance.
const INSTANCE: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// Starts a tor with a control socket and the given torrc lines, but without a network.
fn tor(folder: &Path, lines: &str) -> Child {
    fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    let path = folder.display();
    let torrc = format!(
        "{lines}\nDisableNetwork 1\nSocksPort 0\nDataDirectory {path}/data\nControlSocket unix:{path}/control\n\
         CookieAuthentication 1\nCookieAuthFile {path}/cookie\nGeoIPFile {path}/empty\nGeoIPv6File {path}/empty\n"
    );
    fs::write(folder.join("torrc"), torrc).unwrap();
    let mut command = Command::new("tor");
    command.arg("-f").arg(folder.join("torrc")).arg("--defaults-torrc").arg(folder.join("empty"));
    let started = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
    started.expect("this test needs the program tor; run apt-get install tor")
}

/// Starts a daemon that publishes one service through the tor in the same folder, and that logs to
/// the file `log`.
fn daemon(folder: &Path) -> Child {
    let key = MasterKey::generate(&mut StdRng::seed_from_u64(1));
    fs::write(folder.join("key"), key.to_tor_secret_key_file()).unwrap();
    fs::set_permissions(folder.join("key"), Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.join("config.yaml"), format!("services:\n- key: key\n  instances:\n  - address: {INSTANCE}\n"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onionbalance"));
    command.arg("--config").arg(folder.join("config.yaml")).arg("--socket").arg(folder.join("control"));
    command.arg("--status-socket-location").arg(folder.join("status"));
    // The daemon refuses to run in a pod, but the tests may.
    command.env_remove("KUBERNETES_SERVICE_HOST").env("RUST_LOG", "info");
    command.stderr(File::create(folder.join("log")).unwrap()).kill_on_drop(true).spawn().unwrap()
}

/// Waits until the daemon has logged a text, and returns the whole log.
async fn logged(folder: &Path, text: &str) -> String {
    let log = || fs::read_to_string(folder.join("log")).unwrap();
    let appears = async {
        while !log().contains(text) {
            sleep(PAUSE).await;
        }
    };
    assert!(timeout(PATIENCE, appears).await.is_ok(), "the daemon did not log {text:?}: {}", log());
    log()
}

/// A tor that never fetches microdescriptors has nothing to tell the daemon, so the daemon must say
/// what to change, and must say so once. It need not wait for tor's bootstrap, which never ends
/// here.
#[tokio::test]
async fn a_tor_without_microdescriptors_is_explained_once() {
    let folder = TempDir::with_prefix("daemon-real-tor").unwrap();
    let folder = folder.path();
    let _tor = tor(folder, "UseMicrodescriptors 0");
    let mut daemon = daemon(folder);
    let explanation = "set UseMicrodescriptors 1 and reload tor";
    logged(folder, explanation).await;
    kill_process(Pid::from_raw(i32::try_from(daemon.id().unwrap()).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert!(timeout(PATIENCE, daemon.wait()).await.unwrap().unwrap().success());
    let log = logged(folder, explanation).await;
    assert_eq!(log.matches(explanation).count(), 1, "{log}");
    let problems: Vec<_> = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR ")).collect();
    let others: Vec<_> = problems
        .iter()
        // Tor may need a moment until it opens its control socket.
        .filter(|line| !line.contains(explanation) && !line.contains("control"))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}
