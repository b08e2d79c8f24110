//! Reads signing kits from files, and reads them again when the files change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;

use super::clock::Clock;
use crate::common::complaint::Complaint;
use crate::common::secret_file;
use crate::onion::kit::{self, CoverageState};
use crate::onion::{Kit, Kits, OnionAddress, ServiceKey};

/// The ending of the names of signing kits.
const ENDING: &str = "kit";
/// The pause between two looks at the files.
const PAUSE: Duration = Duration::from_secs(5);

/// A file with its length and the time of its last change.
type Stamp = (PathBuf, Option<(u64, Option<SystemTime>)>);

/// Returns the files in a directory whose names end in `.kit`, by name. The list is empty if the
/// directory cannot be read.
pub(super) fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_kit(path)).collect();
    paths.sort();
    paths
}

/// Returns true if this is a file whose name ends in `.kit`.
pub(super) fn is_kit(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == ENDING) && path.is_file()
}

/// Reads all kits that can be used and that belong to the expected address, or to the same address
/// as the first kit. The log names the others. Returns the first problem if no kit can be used.
pub(super) fn read(paths: &[PathBuf], expected: Option<OnionAddress>) -> Result<Kits, String> {
    let (mut kits, mut problems): (Option<Kits>, Vec<String>) = (None, Vec::new());
    for path in paths {
        let added = read_one(path).and_then(|kit| {
            let wanted = kits.as_ref().map(Kits::address).or(expected);
            match wanted.filter(|wanted| *wanted != kit.address()) {
                Some(wanted) => Err(kit::KitError::AnotherService(kit.address(), wanted).to_string()),
                None => add(&mut kits, kit).map_err(|error| error.to_string()),
            }
        });
        if let Err(problem) = added {
            problems.push(format!("{}: {problem}", path.display()));
        }
    }
    match kits {
        Some(kits) => {
            for problem in &problems {
                tracing::warn!("a signing kit is not used: {problem}");
            }
            Ok(kits)
        }
        None => Err(problems.into_iter().next().unwrap_or_else(|| "there is no signing kit".to_owned())),
    }
}

fn read_one(path: &Path) -> Result<Kit, String> {
    let bytes = secret_file::read_at_most(path, kit::MAX_LEN).map_err(|error| error.to_string())?;
    Kit::parse(&bytes).map_err(|error| error.to_string())
}

fn add(kits: &mut Option<Kits>, kit: Kit) -> Result<(), kit::KitError> {
    if let Some(kits) = kits {
        return kits.add(kit);
    }
    *kits = Some(kit.into());
    Ok(())
}

/// Extends `key` by the kits in a directory whenever its files change, forever. Kits that are
/// removed or replaced stay in use, so that no mistake makes a gap. Their time periods are dropped
/// when the files change after the periods have ended.
pub(super) async fn watch(directory: PathBuf, key: watch::Sender<ServiceKey>, clock: Clock) {
    // The files may have changed since `key` was read, so they are read once more.
    let mut seen = Vec::new();
    let (mut unusable, mut warning) = (Complaint::default(), CoverageLog::default());
    loop {
        let now = clock.now().wall;
        warning.report(&key.borrow(), now);
        sleep(PAUSE).await;
        let found = stamps(&directory);
        if found == seen {
            continue;
        }
        seen = found;
        let address = key.borrow().address();
        match read(&list(&directory), Some(address)) {
            Ok(kits) => {
                unusable.settle();
                tracing::info!("read the signing kits again");
                key.send_modify(|known| *known = known.extended_by(kits.into(), now));
            }
            Err(problem) => {
                unusable.utter("the new signing kits cannot be used; the earlier ones stay in use", &problem);
            }
        }
    }
}

fn stamps(directory: &Path) -> Vec<Stamp> {
    let stamp = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok().map(|metadata| (metadata.len(), metadata.modified().ok()));
        (path, metadata)
    };
    list(directory).into_iter().map(stamp).collect()
}

/// Logs that signing kits end soon, once for each remaining day.
#[derive(Debug, Default)]
pub(super) struct CoverageLog(Complaint);

impl CoverageLog {
    /// Logs the coverage of a key if it is a problem.
    pub(super) fn report(&mut self, key: &ServiceKey, now: SystemTime) {
        let Some(coverage) = key.coverage(now) else { return };
        match coverage.state {
            CoverageState::Enough => self.0.settle(),
            CoverageState::Expiring => {
                let days = format!("{} days are left; create the next kit with key delegate", coverage.days_left);
                self.0.utter("the signing kits expire soon", &days);
            }
            CoverageState::Missing => {
                let problem = "a time period cannot be published; create a kit with key delegate";
                self.0.utter("signing kits are missing", &problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::onion::{MasterKey, PeriodCalendar};

    const FIRST: u64 = 20_788;

    fn kit(seed: u8, first: u64, count: u32) -> Kit {
        let key = MasterKey::generate(&mut StdRng::from_seed([seed; 32]));
        Kit::issue(&key, PeriodCalendar::PUBLIC, first, count).unwrap()
    }

    fn covers(key: &ServiceKey, number: u64) -> bool {
        key.covers(PeriodCalendar::PUBLIC.period(number))
    }

    #[test]
    fn bad_and_foreign_kits_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        assert!(list(folder.path()).is_empty());
        assert_eq!(read(&[], None).unwrap_err(), "there is no signing kit");
        write("a.kit", &kit(1, FIRST, 1).to_bytes()[..99]);
        write("b.txt", &kit(1, FIRST, 1).to_bytes());
        let truncated = read(&list(folder.path()), None).unwrap_err();
        assert!(truncated.contains("a.kit: the signing kit is truncated"), "{truncated}");

        write("c.kit", &kit(1, FIRST, 2).to_bytes());
        write("d.kit", &kit(2, FIRST + 2, 1).to_bytes());
        write("e.kit", &kit(1, FIRST + 1, 3).to_bytes());
        let key = ServiceKey::from(read(&list(folder.path()), None).unwrap());
        assert_eq!(key.address(), kit(1, FIRST, 1).address());
        assert_eq!((FIRST..FIRST + 6).filter(|number| covers(&key, *number)).count(), 4);
        let expected = read(&list(folder.path()), Some(kit(2, FIRST, 1).address())).unwrap();
        assert_eq!(expected.address(), kit(2, FIRST, 1).address());
    }

    /// Connecting to the API server, for example, takes time.
    #[tokio::test(start_paused = true)]
    async fn a_kit_that_arrives_between_the_first_reading_and_the_watch_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, kit: Kit| std::fs::write(folder.path().join(name), kit.to_bytes().as_slice()).unwrap();
        write("a.kit", kit(1, FIRST, 1));
        let key = ServiceKey::from(read(&list(folder.path()), None).unwrap());
        write("b.kit", kit(1, FIRST + 1, 1));
        let (sender, mut key) = watch::channel(key);
        tokio::spawn(watch(folder.path().to_owned(), sender, Clock::start()));
        tokio::time::timeout(2 * PAUSE, key.changed()).await.expect("the new kit is read").unwrap();
        assert!(covers(&key.borrow(), FIRST + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn new_kits_extend_the_key_and_removed_ones_stay_until_they_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.kit");
        let clock = Clock::start();
        let first = PeriodCalendar::PUBLIC.period_at(clock.now().wall).unwrap().number;
        std::fs::write(&path, kit(1, first - 30, 31).to_bytes().as_slice()).unwrap();
        let key = ServiceKey::from(read(&list(folder.path()), None).unwrap());
        let (sender, mut key) = watch::channel(key);
        tokio::spawn(watch(folder.path().to_owned(), sender, clock));
        sleep(PAUSE / 2).await;

        std::fs::write(&path, b"damaged").unwrap();
        sleep(2 * PAUSE).await;
        assert!(!key.has_changed().unwrap());

        std::fs::write(&path, kit(1, first + 3, 1).to_bytes().as_slice()).unwrap();
        key.changed().await.unwrap();
        let key = key.borrow();
        assert!(covers(&key, first) && covers(&key, first + 3) && !covers(&key, first + 1));
        assert!(!covers(&key, first - 30), "the keys of a month ago are dropped");
    }
}
