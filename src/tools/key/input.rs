//! A key that is read: from a file of either form, or from a HiddenServiceDir.

use std::path::{Path, PathBuf};

use crate::onion::KeyFile;
use crate::shell::secret_file;
use crate::tools::Failure;

pub(super) const SECRET_KEY: &str = "hs_ed25519_secret_key";
pub(super) const PUBLIC_KEY: &str = "hs_ed25519_public_key";
pub(super) const HOSTNAME: &str = "hostname";

/// What a path holds.
pub(super) struct Input {
    /// The secret key's file.
    pub(super) path: PathBuf,
    /// The directory, where one was named.
    pub(super) directory: Option<PathBuf>,
    pub(super) file: KeyFile,
}

impl Input {
    /// An error names the file and what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let directory = path.is_dir().then(|| path.to_owned());
        let path = if directory.is_some() { path.join(SECRET_KEY) } else { path.to_owned() };
        let bytes = secret_file::read(&path)?;
        let file = KeyFile::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, directory, file })
    }
}
