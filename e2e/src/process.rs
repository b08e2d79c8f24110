//! Long-running processes that outlive this program. Each is recorded by process ID and start time,
//! and only recorded processes are ever stopped.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::wait::{Seen, until};

/// The processes recorded in one folder. Their records are in `processes/`, and their output is in
/// `logs/`.
#[derive(Debug, Clone)]
pub struct Processes {
    dir: PathBuf,
}

/// The record of a process. The start time (in clock ticks since boot) distinguishes the process
/// from a later one with the same ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    started: u64,
}

impl Processes {
    /// Opens the folder of the records, and creates its subfolders if necessary.
    pub fn open(dir: &Path) -> Result<Self> {
        for sub in ["processes", "logs"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("could not create {}", dir.join(sub).display()))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Starts a process in its own process group and appends its output to `logs/NAME.log`. Does
    /// nothing if the process is running already. The last line of the log says how the process has
    /// ended, if that was before the end of this program.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<()> {
        if self.is_alive(name) {
            return Ok(());
        }
        let mut log = fs::File::options().create(true).append(true).open(self.log(name))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id())?;
        let record = Record { pid, started: stat(pid).context("the process ended immediately")?.started };
        fs::write(self.record(name), serde_json::to_vec(&record)?)?;
        // This thread reaps the process, which would otherwise become a zombie when it ends.
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // Nobody reads the log of a folder that is gone.
                let _ = writeln!(log, "process {pid} has ended: {status}");
            }
        });
        Ok(())
    }

    /// Returns the process ID if the process is running.
    pub fn pid(&self, name: &str) -> Option<i32> {
        let record: Record = serde_json::from_slice(&fs::read(self.record(name)).ok()?).ok()?;
        let now = stat(record.pid)?;
        (now.started == record.started && !now.zombie).then_some(record.pid)
    }

    /// Returns true if the process is running.
    pub fn is_alive(&self, name: &str) -> bool {
        self.pid(name).is_some()
    }

    /// Returns an error if the process is not running. The error quotes the last lines of the
    /// process's log.
    pub fn check(&self, name: &str) -> Result<()> {
        if self.is_alive(name) {
            return Ok(());
        }
        let log = self.log(name);
        bail!("{name} is not running; its log {} ends with:\n{}", log.display(), last_lines(&log))
    }

    /// Sends a signal to the process if it is running.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        if let Some(pid) = self.pid(name).and_then(Pid::from_raw) {
            kill_process(pid, signal).with_context(|| format!("could not send a signal to {name}"))?;
        }
        Ok(())
    }

    /// Stops the process with SIGTERM, followed by SIGKILL if it is still running after 5 seconds.
    pub async fn stop(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::TERM)?;
        if self.gone(name, Duration::from_secs(5)).await.is_err() {
            return self.kill(name).await;
        }
        self.forget(name)
    }

    /// Stops the process with SIGKILL.
    pub async fn kill(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::KILL)?;
        self.gone(name, Duration::from_secs(10)).await?;
        self.forget(name)
    }

    fn forget(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.record(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the names of all recorded processes, whether they are running or not.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.dir.join("processes"))? {
            if let Some(name) = entry?.file_name().to_str().and_then(|file| file.strip_suffix(".json")) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Stops all recorded processes concurrently.
    pub async fn stop_all(&self) -> Result<()> {
        let names = self.names()?;
        futures::future::try_join_all(names.iter().map(|name| self.stop(name))).await?;
        Ok(())
    }

    /// Sends SIGKILL to all recorded processes without waiting for them to end. Intended for code
    /// that cannot await.
    pub fn kill_all(&self) {
        for name in self.names().unwrap_or_default() {
            // Nothing more can be done about a process that cannot be killed.
            let _ = self.signal(&name, Signal::KILL);
        }
    }

    /// Returns the path of the process's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Returns the times of all lines in the process's log that contain the given words. The
    /// process must be one of our programs, whose lines begin with the time.
    pub fn logged(&self, name: &str, words: &str) -> Result<Vec<Timestamp>> {
        let log = String::from_utf8_lossy(&fs::read(self.log(name))?).into_owned();
        let lines = log.lines().filter(|line| line.contains(words));
        lines
            .map(|line| {
                let time = line.split(' ').next().unwrap_or_default();
                time.parse().with_context(|| format!("a line of {name} does not begin with a time: {line:?}"))
            })
            .collect()
    }

    fn record(&self, name: &str) -> PathBuf {
        self.dir.join("processes").join(format!("{name}.json"))
    }

    async fn gone(&self, name: &str, limit: Duration) -> Result<()> {
        until(&format!("{name} has ended"), limit, async || {
            Ok(if self.is_alive(name) { Seen::not_yet("it is still running") } else { Seen::Yes(()) })
        })
        .await
    }
}

/// Returns the last lines of a log, or nothing if the log cannot be read.
pub fn last_lines(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

struct Stat {
    started: u64,
    zombie: bool,
}

/// Reads `/proc/PID/stat`. The fields follow the program's name, which may contain spaces and
/// parentheses.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat { zombie: *fields.first()? == "Z", started: fields.get(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_lines_are_read_from_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let processes = Processes::open(dir.path()).unwrap();
        let log = "2026-11-28T21:47:43.250000Z  INFO driver: uploading hsdir=A\n\
                   2026-11-28T21:47:44.500000Z DEBUG driver: uploaded hsdir=A\nnot a line of ours\n";
        fs::write(processes.log("publisher"), log).unwrap();
        let found = processes.logged("publisher", "uploaded hsdir=").unwrap();
        assert_eq!(found, ["2026-11-28T21:47:44.5Z".parse().unwrap()]);
        assert_eq!(processes.logged("publisher", "stopped").unwrap(), []);
        assert!(processes.logged("publisher", "not a line").is_err());
    }

    #[tokio::test]
    async fn the_error_about_a_process_that_has_ended_says_how() {
        let dir = tempfile::tempdir().unwrap();
        let processes = Processes::open(dir.path()).unwrap();
        processes.start("short", Command::new("sh").args(["-c", "echo the last words; kill -TERM $$"])).unwrap();
        let error = until("the end is reported", Duration::from_secs(10), async || {
            let error = processes.check("short").map_or_else(|error| error.to_string(), |()| String::new());
            Ok(if error.contains("has ended") { Seen::Yes(error) } else { Seen::NotYet(error) })
        })
        .await
        .unwrap();
        assert!(error.contains("the last words\n") && error.contains("signal: 15 (SIGTERM)"), "{error}");
    }

    #[tokio::test]
    async fn only_the_recorded_process_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let processes = Processes::open(dir.path()).unwrap();
        processes.start("sleeper", Command::new("sleep").arg("1000")).unwrap();
        let pid = processes.pid("sleeper").unwrap();

        // The same ID with a different start time belongs to a process that is not ours.
        let forged = Record { pid, started: 1 };
        let honest = fs::read(processes.record("sleeper")).unwrap();
        fs::write(processes.record("sleeper"), serde_json::to_vec(&forged).unwrap()).unwrap();
        processes.stop("sleeper").await.unwrap();
        assert!(stat(pid).is_some_and(|now| !now.zombie));

        fs::write(processes.record("sleeper"), honest).unwrap();
        processes.stop("sleeper").await.unwrap();
        assert!(stat(pid).is_none_or(|now| now.zombie));
        assert!(!processes.is_alive("sleeper"));
    }
}
