//! Runs the operator as a separate process. As in a pod, it reads its settings from environment
//! variables and stops on a signal. Unlike in a pod, it uses a kubeconfig.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::scene::PATIENCE;
use crate::server::write_kubeconfig;
use crate::wait::until;

/// A running `onionbalance-operator operator` that watches one namespace with the permissions that
/// `deploy/` grants.
pub struct Program {
    pub name: String,
    process: Child,
    folder: TempDir,
}

impl Program {
    /// Starts the operator. `name` is its pod name, and `namespace` is both its own namespace and
    /// the one that it watches.
    pub fn start(name: &str, namespace: &str, log_filter: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        write_kubeconfig(&kubeconfig, namespace);
        let process = Command::new(env!("CARGO_BIN_EXE_onionbalance-operator"))
            .arg("operator")
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
            .env("HOSTNAME", name)
            .env("RUST_LOG", log_filter)
            .envs([("TOR_IMAGE", "tor:1"), ("OPERATOR_IMAGE", "operator:1"), ("WATCH_NAMESPACE", namespace)])
            // Let the kernel choose free ports.
            .envs([("PROBE_PORT", "0"), ("METRICS_PORT", "0")])
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), process, folder }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Returns the complete log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap()).into_owned()
    }

    /// Waits until the log contains the given text.
    pub async fn wait_log(&self, text: &str) {
        until(&format!("{} logs {text:?}", self.name), PATIENCE, async || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// Kills the operator with SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the operator to exit.
    pub async fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        until(&format!("{} ends", self.name), PATIENCE, async || {
            // `Child::wait` would block. NOWAIT leaves the exit status for the call after the loop.
            let gone = rustix::process::waitid(
                rustix::process::WaitId::Pid(Pid::from_child(&self.process)),
                rustix::process::WaitIdOptions::EXITED
                    | rustix::process::WaitIdOptions::NOHANG
                    | rustix::process::WaitIdOptions::NOWAIT,
            );
            if gone.unwrap().is_some() { Ok(()) } else { Err(self.log()) }
        })
        .await;
        self.process.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
