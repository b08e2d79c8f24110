//! Reads and writes files that contain secrets. Only the owner can read a file that is written
//! here, and an existing file is overwritten only on request.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The maximum length of a key file in bytes. A longer file was probably specified by mistake.
const MAX_LEN: u64 = 64 * 1024;

/// Reads a file of at most 64 KiB. Errors name the file.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_at_most(path, MAX_LEN)
}

/// Reads a file of at most `max_len` bytes, for example a signing kit. Errors name the file.
pub fn read_at_most(path: &Path, max_len: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let read = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > max_len {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the file has {length} bytes, but a key file has at most {max_len}"),
            ));
        }
        // The buffer never grows, so no unerased copy of the secret is left behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(max_len).unwrap_or_default()));
        file.take(max_len).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| with_path(path, &error))
}

/// Reads standard input to its end, at most 64 KiB.
pub fn read_standard_input() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_LEN).unwrap_or_default()));
    io::stdin().lock().take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file with mode 0600. An existing file is replaced atomically if `force` is true, and is
/// an error otherwise. Errors name the file.
pub fn write(path: &Path, bytes: &[u8], force: bool) -> io::Result<()> {
    let write = || {
        if !force {
            return fill(path, bytes);
        }
        let new = temporary_name(path);
        let written = fill(&new, bytes).and_then(|()| std::fs::rename(&new, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    };
    write().map_err(|error| with_path(path, &error))
}

/// Returns the file's mode if it grants access to the group or to others, and None otherwise.
pub fn too_open(path: &Path) -> io::Result<Option<u32>> {
    let metadata = std::fs::metadata(path).map_err(|error| with_path(path, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    Ok(Some(mode).filter(|mode| mode & 0o077 != 0))
}

fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_existing_file_is_overwritten_only_with_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write(&path, b"one", false).unwrap();
        assert_eq!((mode(&path), too_open(&path).unwrap()), (0o600, None));
        let refused = write(&path, b"two", false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(refused.to_string().starts_with(path.to_str().unwrap()));
        assert_eq!(*read(&path).unwrap(), b"one");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(too_open(&path).unwrap(), Some(0o644));
        write(&path, b"two", true).unwrap();
        assert_eq!((read(&path).unwrap().as_slice(), mode(&path)), (b"two".as_slice(), 0o600));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        assert!(read(&path).unwrap_err().to_string().contains("long: No such file"));
        std::fs::write(&path, vec![0; 70_000]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("long: the file has 70000 bytes, but a key file has at most 65536"), "{error}");
    }
}
