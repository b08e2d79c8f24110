//! What is made for tor before it starts, in both kinds of pod.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// The control socket's directory, the `DataDirectory` and the empty file for `--defaults-torrc`: tor refuses directories
/// that others may enter, and `/dev/null` as a configuration file.
pub fn make(run_dir: &Path, data_dir: &Path) -> io::Result<()> {
    make_private(&run_dir.join("control"))?;
    make_private(data_dir)?;
    File::create(run_dir.join("empty")).map(drop)
}

/// A directory with mode 0700, also when it is there with another mode. A volume with an `fsGroup` hands its setgid bit
/// down to new directories: the mode is set again. An error names the directory.
pub fn make_private(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_what_tor_wants_and_can_be_repeated() {
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
