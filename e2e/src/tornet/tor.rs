//! A tor process on this machine with its own folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::torrc;
use crate::node::remove_dir;
use crate::process::{Processes, last_lines};
use crate::wait::{Seen, until};

/// The words with which tor logs its progress when it starts.
const PROGRESS: &str = "Bootstrapped ";

/// A tor process. Its `name` is unique among the processes of the environment.
#[derive(Debug, Clone)]
pub struct Tor {
    name: String,
    dir: PathBuf,
    processes: Processes,
}

impl Tor {
    /// Returns the tor process with the given name, whose files are in `dir`, whether or not it is
    /// running.
    pub fn open(processes: &Processes, name: &str, dir: &Path) -> Self {
        Self { name: name.to_owned(), dir: dir.to_owned(), processes: processes.clone() }
    }

    /// Returns the folder that holds tor's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of tor's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// Returns the path of tor's control authentication cookie.
    pub fn cookie(&self) -> PathBuf {
        self.dir.join("cookie")
    }

    /// Starts tor unless it is running. `program` is `tor`, possibly preceded by a wrapper command.
    pub fn start(&self, program: Command, configuration: &str) -> Result<()> {
        if self.processes.is_alive(&self.name) {
            return Ok(());
        }
        make_private_dir(&self.dir)?;
        let torrc = self.dir.join("torrc");
        // tor refuses /dev/null as a configuration file.
        let empty = self.dir.join("empty");
        fs::write(&empty, "")?;
        fs::write(&torrc, torrc::local(&self.dir) + configuration)?;
        // A log from an earlier process would report how far that process had bootstrapped.
        if let Err(error) = fs::remove_file(self.log())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        let mut program = program;
        program.arg("-f").arg(&torrc).arg("--defaults-torrc").arg(&empty);
        self.processes.start(&self.name, &mut program)
    }

    /// Reports whether tor has bootstrapped to 100 %. If not, the result contains the last
    /// bootstrap line of its log.
    pub fn bootstrapped(&self) -> Result<Seen<()>> {
        // tor writes its messages to its own log as soon as it has opened that log.
        self.processes
            .check(&self.name)
            .with_context(|| format!("{} ends with:\n{}", self.log().display(), last_lines(&self.log())))?;
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        if log.contains("Bootstrapped 100%") {
            return Ok(Seen::Yes(()));
        }
        let last = log.lines().rfind(|line| line.contains(PROGRESS)).or(log.lines().last()).unwrap_or("no log yet");
        Ok(Seen::not_yet(format!("{}: {last}", self.name)))
    }

    /// Waits until tor has bootstrapped.
    pub async fn wait_bootstrapped(&self) -> Result<()> {
        until(&format!("{} has bootstrapped", self.name), Duration::from_secs(120), async || self.bootstrapped()).await
    }

    /// Returns the address of the SOCKS port, which tor may have chosen itself.
    pub fn socks_address(&self) -> Result<String> {
        let log = fs::read_to_string(self.log())?;
        let line = log.lines().rfind(|line| line.contains("Opened Socks listener connection"));
        let address = line.and_then(|line| line.rsplit(' ').next());
        Ok(address.with_context(|| format!("the log of {} contains no SOCKS port", self.name))?.to_owned())
    }

    /// Makes tor read its configuration again, which also ends its pauses between failed downloads.
    /// Does nothing while tor is starting: SIGHUP ends a tor that has no signal handlers yet,
    /// without a word in any log. C tor sets them up before it logs its first progress
    /// (`run_tor_main_loop`).
    pub fn reload(&self) -> Result<()> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        if log.contains(PROGRESS) { self.processes.signal(&self.name, Signal::HUP) } else { Ok(()) }
    }

    /// Stops tor and keeps its files.
    pub async fn stop(&self) -> Result<()> {
        self.processes.stop(&self.name).await
    }

    /// Stops tor and removes its files.
    pub async fn remove(&self) -> Result<()> {
        self.stop().await?;
        remove_dir(&self.dir).await
    }

    fn log(&self) -> PathBuf {
        self.dir.join("notice.log")
    }
}

/// Creates a folder that only its owner can access, as tor requires.
pub fn make_private_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("could not create {}", dir.display()))
}
