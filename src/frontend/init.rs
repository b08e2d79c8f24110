//! What a pod's init container makes before tor starts.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// The control socket's directory, the `DataDirectory` and the empty file for `--defaults-torrc`: tor refuses directories
/// that others may enter, and `/dev/null` as a configuration file.
pub fn tor_directories(run_dir: &Path, data_dir: &Path) -> io::Result<()> {
    private_directory(&run_dir.join("control"))?;
    private_directory(data_dir)?;
    File::create(run_dir.join("empty")).map(drop)
}

/// A directory with mode 0700, also when it is there with another mode or the umask is unusual.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_what_tor_wants_and_can_be_repeated() {
        let root = tempfile::tempdir().unwrap();
        let (run_dir, data_dir) = (root.path().join("run"), root.path().join("tor/data"));
        tor_directories(&run_dir, &data_dir).unwrap();
        std::fs::set_permissions(&data_dir, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(data_dir.join("state"), "kept").unwrap();
        tor_directories(&run_dir, &data_dir).unwrap();
        for directory in [run_dir.join("control"), data_dir.clone()] {
            assert_eq!(std::fs::metadata(directory).unwrap().permissions().mode() & 0o7777, 0o700);
        }
        assert_eq!(std::fs::metadata(run_dir.join("empty")).unwrap().len(), 0);
        assert_eq!(std::fs::read_to_string(data_dir.join("state")).unwrap(), "kept");
    }
}
