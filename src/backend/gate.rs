//! Keeps tor from starting for the first time until the shared entry guards are known.
//!
//! On the very first start of a service, there are no shared guards yet: the frontend's tor chooses
//! them, and the backends' tors must not choose others. Tor reads the file of `--defaults-torrc`
//! before anything else. While this file is a named pipe that the agent holds open, tor waits for
//! its end. The agent ends the wait as soon as a publisher has sent the guards, or after a while.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::time::sleep;

use super::paths::RunDir;
use crate::common::tor_state;
use crate::link::GuardSample;

/// The maximum time for which tor waits for the shared guards. Without a frontend, nothing is
/// published, so a tor that starts earlier would be of no use.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time for which the pipe stays open after the file has replaced it, so that a tor that is
/// just opening the pipe finds its end.
const CLOSES: Duration = Duration::from_millis(100);

/// Makes tor wait, unless it has run before. A pod without a volume for the guards does not share
/// them. Must be called before the empty file is created. A file or pipe that exists is kept,
/// because two processes call this function.
pub fn close(run_dir: &RunDir, guards_dir: &Path, data_dir: &Path) -> io::Result<()> {
    if !guards_dir.is_dir() || tor_state::exists(data_dir)? {
        return Ok(());
    }
    match mknodat(CWD, run_dir.empty_file(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) => Ok(()),
        Err(error) if error == rustix::io::Errno::EXIST => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The agent's end of the pipe for which tor waits.
#[derive(Debug)]
pub struct Gate {
    file: PathBuf,
    data_dir: PathBuf,
    /// The open pipe, or None if tor does not wait.
    pipe: Mutex<Option<File>>,
}

impl Gate {
    /// Opens the pipe, if there is one.
    pub fn new(run_dir: &RunDir, data_dir: &Path) -> io::Result<Self> {
        let file = run_dir.empty_file();
        let is_pipe = fs::metadata(&file).is_ok_and(|metadata| metadata.file_type().is_fifo());
        // A pipe that is opened for both reading and writing does not wait for a peer.
        let pipe = is_pipe.then(|| OpenOptions::new().read(true).write(true).open(&file)).transpose()?;
        Ok(Self { file, data_dir: data_dir.to_owned(), pipe: Mutex::new(pipe) })
    }

    /// Returns true while tor waits for the shared guards.
    pub fn is_closed(&self) -> bool {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Lets tor start with these guards, if it still waits.
    pub fn offer(&self, lines: &str) {
        if !self.is_closed() {
            return;
        }
        let written = GuardSample::parse(lines).map_err(|error| error.to_string()).and_then(|sample| {
            tor_state::write_first(&self.data_dir, &sample.to_string()).map_err(|error| error.to_string())
        });
        match written {
            Ok(_) => tracing::info!("tor starts with the shared guards"),
            Err(error) => tracing::warn!(error, "could not use the shared guards, so tor chooses its own"),
        }
        self.open();
    }

    /// Lets tor start with its own guards if nobody has sent any in time.
    pub async fn expire(self: Arc<Self>) {
        sleep(PATIENCE).await;
        if self.is_closed() {
            tracing::warn!("no publisher has sent the shared guards within {PATIENCE:?}, so tor chooses its own");
            self.open();
        }
    }

    /// Puts the empty file in the place of the pipe, and ends the pipe.
    fn open(&self) {
        let Some(pipe) = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let new = self.file.with_extension("new");
        if let Err(error) = File::create(&new).and_then(|_| fs::rename(&new, &self.file)) {
            tracing::error!(%error, "could not create {}", self.file.display());
        }
        tokio::spawn(async move {
            sleep(CLOSES).await;
            drop(pipe);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::common::tor_directories;

    /// The directories of a pod whose tor has never run.
    fn pod() -> (tempfile::TempDir, RunDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (run_dir, data, guards) =
            (RunDir::new(dir.path().join("run")), dir.path().join("data"), dir.path().join("g"));
        for path in [run_dir.path(), &data, &guards] {
            fs::create_dir(path).unwrap();
        }
        (dir, run_dir, data, guards)
    }

    const GUARD: &str = "Guard in=default rsa_id=0707070707070707070707070707070707070707 sampled_on=2026-07-01T10:00:00 sampled_idx=0 listed=1\n";

    /// Reads the file as tor does, on a thread of its own.
    fn tor(run_dir: &RunDir) -> tokio::task::JoinHandle<usize> {
        let path = run_dir.empty_file();
        tokio::task::spawn_blocking(move || File::open(path).unwrap().read_to_end(&mut Vec::new()).unwrap())
    }

    #[tokio::test]
    async fn a_new_tor_waits_until_a_publisher_sends_the_guards() {
        let (_dir, run_dir, data, guards) = pod();
        close(&run_dir, &guards, &data).unwrap();
        tor_directories::make(run_dir.path(), &data).unwrap();
        close(&run_dir, &guards, &data).unwrap();
        let gate = Gate::new(&run_dir, &data).unwrap();
        assert!(gate.is_closed());
        let tor = tor(&run_dir);
        tokio::task::yield_now().await;
        assert!(!tor.is_finished());
        gate.offer(GUARD);
        assert_eq!(tor.await.unwrap(), 0);
        assert!(!gate.is_closed());
        assert_eq!(tor_state::guard_lines(&data).unwrap(), GUARD);
        assert!(fs::metadata(run_dir.empty_file()).unwrap().is_file());
        gate.offer("anything");
        assert_eq!(tor_state::guard_lines(&data).unwrap(), GUARD, "only the first offer counts");
    }

    #[tokio::test]
    async fn a_tor_without_guards_starts_after_a_while() {
        let (_dir, run_dir, data, guards) = pod();
        close(&run_dir, &guards, &data).unwrap();
        let gate = Arc::new(Gate::new(&run_dir, &data).unwrap());
        tokio::time::pause();
        gate.clone().expire().await;
        assert!(!gate.is_closed());
        assert!(fs::metadata(run_dir.empty_file()).unwrap().is_file());
        assert!(!tor_state::exists(&data).unwrap());
    }

    #[tokio::test]
    async fn damaged_guards_do_not_keep_tor_from_starting() {
        let (_dir, run_dir, data, guards) = pod();
        close(&run_dir, &guards, &data).unwrap();
        let gate = Gate::new(&run_dir, &data).unwrap();
        gate.offer("Guard in=default\n");
        assert!(!gate.is_closed() && !tor_state::exists(&data).unwrap());
    }

    #[tokio::test]
    async fn a_tor_that_has_run_or_shares_no_guards_does_not_wait() {
        let (dir, run_dir, data, guards) = pod();
        close(&run_dir, &dir.path().join("missing"), &data).unwrap();
        assert!(!run_dir.empty_file().exists());
        assert!(tor_state::write_first(&data, GUARD).unwrap());
        close(&run_dir, &guards, &data).unwrap();
        tor_directories::make(run_dir.path(), &data).unwrap();
        assert!(!Gate::new(&run_dir, &data).unwrap().is_closed());
        assert_eq!(tor(&run_dir).await.unwrap(), 0);
    }
}
