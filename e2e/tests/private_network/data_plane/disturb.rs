//! Disturbs a service and its network: ends, freezes and restarts their processes, and sends
//! commands to the relays.

use anyhow::{Context as _, Result};
use onionbalance_e2e::tornet::{Place, TorNetwork};
use rustix::process::Signal;

use super::DataPlane;

impl DataPlane {
    /// Sends a signal to a relay.
    pub fn signal_relay(&self, fingerprint: &str, signal: Signal) -> Result<()> {
        self.processes
            .signal(self.relays.get(fingerprint).context("the network has no relay with this fingerprint")?, signal)
    }

    /// Sends a signal to a backend's agent.
    pub fn signal_agent(&self, number: usize, signal: Signal) -> Result<()> {
        self.processes.signal(&format!("backend{number}-agent"), signal)
    }

    /// Sends a command to the control socket of every relay.
    pub async fn command_relays(&self, command: &str) -> Result<()> {
        TorNetwork::open(&self.network, Place::Loopback, &self.processes).command_all(command).await
    }

    /// Gives every relay of the network a new microdescriptor. A tor whose consensus lists the new
    /// microdescriptors cannot build circuits until it has fetched most of them.
    pub async fn replace_microdescriptors(&self) -> Result<()> {
        let family = self.relays.keys().next().context("the network has no relay")?;
        self.command_relays(&format!("SETCONF MyFamily=${family}")).await
    }

    /// Kills a backend's agent and tor.
    pub fn kill_backend(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("backend{number}-agent"), Signal::KILL)?;
        self.processes.signal(&format!("backend{number}-tor"), Signal::KILL)
    }

    /// Kills a backend's tor. The backend's agent keeps running and notices that tor has ended.
    pub async fn kill_backends_tor(&self, number: usize) -> Result<()> {
        self.processes.kill(&format!("backend{number}-tor")).await
    }

    /// Stops a backend's tor but keeps its files.
    pub async fn stop_backends_tor(&self, number: usize) -> Result<()> {
        self.processes.stop(&format!("backend{number}-tor")).await
    }

    /// Starts a backend's tor again with its existing files.
    pub fn restart_backends_tor(&self, number: usize) -> Result<()> {
        self.run_tor(&format!("backend{number}-tor"), &self.path(&format!("backend{number}")))
    }

    /// Kills an external backend's tor. External backends are numbered after the backends with
    /// agents.
    pub fn kill_external(&self, number: usize) -> Result<()> {
        self.processes.signal(&format!("external{number}"), Signal::KILL)
    }

    /// Starts an external backend's tor again with its existing key.
    pub fn restart_external(&self, number: usize) -> Result<()> {
        let dir = self.path(&format!("external{number}"));
        self.run_tor(&format!("external{number}"), &dir)
    }
}
