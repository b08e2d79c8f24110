//! The directories and files that tor needs before it starts, in frontend and backend pods.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Returns the path of the empty file for options of tor that need a file.
pub fn empty_file(run_dir: &Path) -> PathBuf {
    run_dir.join("empty")
}

/// Creates the control socket's directory, the `DataDirectory`, and the empty file for
/// `--defaults-torrc`. Tor rejects directories that others can access, and does not accept
/// `/dev/null` as a configuration file. An existing file is kept, even if it is a named pipe.
pub fn make(run_dir: &Path, data_dir: &Path) -> io::Result<()> {
    make_private(&run_dir.join("control"))?;
    make_private(data_dir)?;
    match File::create_new(empty_file(run_dir)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Creates a directory with mode 0700 if it does not exist. An existing directory, also one behind
/// a symbolic link, is left as it is. Errors name the directory.
pub fn create_private(path: &Path) -> io::Result<()> {
    if path.is_dir() { Ok(()) } else { make_private(path) }
}

/// Creates a directory with mode 0700, or sets the mode of an existing one. A new directory's mode
/// is set once more after its creation, because directories in a volume with an `fsGroup` inherit
/// the volume's setgid bit. Errors name the directory.
pub fn make_private(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_directory_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let (shared, link) = (root.path().join("shared"), root.path().join("link"));
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&shared, &link).unwrap();
        for directory in [&shared, &link, &root.path().join("new")] {
            create_private(directory).unwrap();
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&shared), mode(&root.path().join("new"))), (0o755, 0o700));
    }

    #[test]
    fn tors_directories_are_created_and_a_second_run_keeps_their_files() {
        let root = tempfile::tempdir().unwrap();
        let (run_dir, data_dir) = (root.path().join("run"), root.path().join("tor/data"));
        make(&run_dir, &data_dir).unwrap();
        std::fs::set_permissions(&data_dir, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(data_dir.join("state"), "kept").unwrap();
        make(&run_dir, &data_dir).unwrap();
        for directory in [run_dir.join("control"), data_dir.clone()] {
            assert_eq!(std::fs::metadata(directory).unwrap().permissions().mode() & 0o7777, 0o700);
        }
        assert_eq!(std::fs::metadata(run_dir.join("empty")).unwrap().len(), 0);
        assert_eq!(std::fs::read_to_string(data_dir.join("state")).unwrap(), "kept");
    }
}
