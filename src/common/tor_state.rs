//! The entry guards in tor's state file, in frontend and backend pods.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The name of the state file in tor's data directory.
const STATE: &str = "state";
/// The beginning of each line about a guard.
const GUARD: &str = "Guard ";
/// The maximum number of bytes that are read from a file. A state file has a few tens of kilobytes.
const MAX_BYTES: u64 = 256 * 1024;

/// Returns true if tor has a state file, because it has run before or [`write_first`] has created
/// the file. Errors name the file.
pub fn exists(data_dir: &Path) -> io::Result<bool> {
    let path = data_dir.join(STATE);
    path.try_exists().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Writes lines with guards into a new state file. Returns false and changes nothing if tor already
/// has a state file: the guards of a tor that has run before do not change. Errors name the file.
pub fn write_first(data_dir: &Path, lines: &str) -> io::Result<bool> {
    if exists(data_dir)? {
        return Ok(false);
    }
    let path = data_dir.join(STATE);
    // A container that is killed midway must leave no partial file. A link, unlike a rename, never
    // replaces the file of a tor that has started in the meantime.
    let new = data_dir.join(format!("{STATE}.{}.new", std::process::id()));
    let written = fill(&new, lines).and_then(|()| fs::hard_link(&new, &path));
    let _ = fs::remove_file(&new);
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

fn fill(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Returns the lines about guards in tor's state file. There are none before tor's first start.
/// Errors name the file.
pub fn guard_lines(data_dir: &Path) -> io::Result<String> {
    let state = read_optional(&data_dir.join(STATE))?.unwrap_or_default();
    let state = String::from_utf8_lossy(&state);
    Ok(state.lines().filter(|line| line.starts_with(GUARD)).flat_map(|line| [line, "\n"]).collect())
}

/// Reads a file of at most 256 KiB, or returns None if the file does not exist. Errors name the
/// file.
pub fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn guards_are_written_only_before_tors_first_start() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(guard_lines(dir.path()).unwrap(), "");
        assert!(write_first(dir.path(), "Guard in=default a\n").unwrap());
        let path = dir.path().join(STATE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        fs::write(&path, "# comment\nGuard in=default b\nTorVersion Tor 0.4.9.11\nGuard in=bridges c\n").unwrap();
        assert!(!write_first(dir.path(), "Guard in=default a\n").unwrap());
        assert_eq!(guard_lines(dir.path()).unwrap(), "Guard in=default b\nGuard in=bridges c\n");
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(write_first(&missing, "").unwrap_err().to_string().contains("missing/state"));
        assert_eq!(read_optional(&missing).unwrap(), None);
        fs::create_dir(dir.path().join(STATE)).unwrap();
        assert!(guard_lines(dir.path()).unwrap_err().to_string().contains("/state: "));
    }
}
