//! Files that hold secrets: nobody else may read them, and none is overwritten by mistake.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// More than any key file has; what is longer was named by mistake.
const MAX_LEN: u64 = 64 * 1024;

/// Reads a file of at most 64 KiB. An error names it.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let read = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > MAX_LEN {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a key file is shorter than {length} bytes"),
            ));
        }
        // With room for all at once no copy stays behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_LEN).unwrap_or_default()));
        file.take(MAX_LEN).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| name(path, &error))
}

/// Reads standard input to its end, at most 64 KiB.
pub fn read_standard_input() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_LEN).unwrap_or_default()));
    io::stdin().lock().take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file with mode 0600; one that is there is an error, or replaced in one step where `force`d. An error names it.
pub fn write(path: &Path, bytes: &[u8], force: bool) -> io::Result<()> {
    let write = || {
        if !force {
            return fill(path, bytes);
        }
        let new = beside(path);
        let written = fill(&new, bytes).and_then(|()| std::fs::rename(&new, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written
    };
    write().map_err(|error| name(path, &error))
}

/// The permission bits that let others in, where there are any.
pub fn too_open(path: &Path) -> io::Result<Option<u32>> {
    let metadata = std::fs::metadata(path).map_err(|error| name(path, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    Ok(Some(mode).filter(|mode| mode & 0o077 != 0))
}

fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn name(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn nothing_is_overwritten_unless_forced() {
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
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        assert!(read(&path).unwrap_err().to_string().contains("long: No such file"));
        std::fs::write(&path, vec![0; 70_000]).unwrap();
        assert!(read(&path).unwrap_err().to_string().ends_with("long: a key file is shorter than 70000 bytes"));
    }
}
