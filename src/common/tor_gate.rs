//! Keeps tor from starting for the first time until the shared entry guards are known.
//!
//! On the very first start of a service, there are no shared guards yet: the tor of one frontend
//! chooses them, and no other tor must choose others. Tor reads the file of `--defaults-torrc`
//! before anything else. While this file is a named pipe that our program holds open, tor waits for
//! its end. Our program ends the wait as soon as it knows the guards, or after a while.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::time::sleep;

use super::{tor_directories, tor_state};

/// The maximum time for which tor waits for the shared guards. The wait costs nothing, because
/// nothing is published before the first frontend's tor has chosen guards. A frontend whose node
/// must pull the images first can take more than a minute.
const PATIENCE: Duration = Duration::from_secs(120);
/// The time for which the pipe stays open after the file has replaced it, so that a tor that is
/// just opening the pipe finds its end.
const CLOSES: Duration = Duration::from_millis(100);

/// Makes tor wait, unless it has run before. A pod without a volume for the guards does not share
/// them. Must be called before the empty file is created. A file or pipe that exists is kept,
/// because two processes call this function.
pub fn close(run_dir: &Path, guards_dir: &Path, data_dir: &Path) -> io::Result<()> {
    if !guards_dir.is_dir() || tor_state::exists(data_dir)? {
        return Ok(());
    }
    match mknodat(CWD, tor_directories::empty_file(run_dir), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) => Ok(()),
        Err(error) if error == rustix::io::Errno::EXIST => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Our program's end of the pipe for which tor waits.
#[derive(Debug)]
pub struct Gate {
    file: PathBuf,
    data_dir: PathBuf,
    /// The open pipe, or None if tor does not wait.
    pipe: Mutex<Option<File>>,
}

impl Gate {
    /// Opens the pipe, if there is one.
    pub fn new(run_dir: &Path, data_dir: &Path) -> io::Result<Self> {
        let file = tor_directories::empty_file(run_dir);
        let is_pipe = fs::metadata(&file).is_ok_and(|metadata| metadata.file_type().is_fifo());
        // A pipe that is opened for both reading and writing does not wait for a peer.
        let pipe = is_pipe.then(|| OpenOptions::new().read(true).write(true).open(&file)).transpose()?;
        Ok(Self { file, data_dir: data_dir.to_owned(), pipe: Mutex::new(pipe) })
    }

    /// Returns true while tor waits for the shared guards.
    pub fn is_closed(&self) -> bool {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Lets tor start with the guards in these lines of a state file, if it still waits.
    pub fn offer(&self, lines: &str) {
        if !self.is_closed() {
            return;
        }
        match tor_state::write_first(&self.data_dir, lines) {
            Ok(_) => tracing::info!("tor starts with the shared guards"),
            Err(error) => tracing::warn!(%error, "could not use the shared guards, so tor chooses its own"),
        }
        self.open();
    }

    /// Lets tor start with its own guards if there are no shared ones in time.
    pub async fn expire(self: Arc<Self>) {
        sleep(PATIENCE).await;
        if self.is_closed() {
            tracing::warn!("there are no shared guards after {PATIENCE:?}, so tor chooses its own");
            self.open();
        }
    }

    /// Lets tor start: puts the empty file in the place of the pipe, and ends the pipe.
    pub fn open(&self) {
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

    /// The directories of a pod whose tor has never run.
    fn pod() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let [run_dir, data, guards] = ["run", "data", "guards"].map(|name| dir.path().join(name));
        for path in [&run_dir, &data, &guards] {
            fs::create_dir(path).unwrap();
        }
        (dir, run_dir, data, guards)
    }

    const GUARD: &str = "Guard in=default rsa_id=0707070707070707070707070707070707070707 sampled_on=2026-07-01T10:00:00 sampled_idx=0 listed=1\n";

    /// Reads the file as tor does, on a thread of its own.
    fn tor(run_dir: &Path) -> tokio::task::JoinHandle<usize> {
        let path = tor_directories::empty_file(run_dir);
        tokio::task::spawn_blocking(move || File::open(path).unwrap().read_to_end(&mut Vec::new()).unwrap())
    }

    #[tokio::test]
    async fn a_new_tor_waits_for_the_guards() {
        let (_dir, run_dir, data, guards) = pod();
        close(&run_dir, &guards, &data).unwrap();
        tor_directories::make(&run_dir, &data).unwrap();
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
        assert!(fs::metadata(tor_directories::empty_file(&run_dir)).unwrap().is_file());
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
        assert!(fs::metadata(tor_directories::empty_file(&run_dir)).unwrap().is_file());
        assert!(!tor_state::exists(&data).unwrap());
    }

    #[tokio::test]
    async fn a_tor_that_has_run_or_shares_no_guards_does_not_wait() {
        let (dir, run_dir, data, guards) = pod();
        close(&run_dir, &dir.path().join("missing"), &data).unwrap();
        assert!(!tor_directories::empty_file(&run_dir).exists());
        assert!(tor_state::write_first(&data, GUARD).unwrap());
        close(&run_dir, &guards, &data).unwrap();
        tor_directories::make(&run_dir, &data).unwrap();
        assert!(!Gate::new(&run_dir, &data).unwrap().is_closed());
        assert_eq!(tor(&run_dir).await.unwrap(), 0);
    }
}
