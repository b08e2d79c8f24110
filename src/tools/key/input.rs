//! Reads a key from a file in PEM or tor's format, from a HiddenServiceDir, from text, or from a
//! manifest.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::content::{SECRET_KEY, open};
use super::manifest::{self, Found};
use crate::common::secret_file;
use crate::onion::key_file::KeyFileError;
use crate::onion::{KeyFile, KeyForm};
use crate::tools::Failure;

/// The path that denotes standard input.
pub(super) const STANDARD_INPUT: &str = "-";

/// A key that was read, and its origin.
pub(super) struct Input {
    /// The path of the file with the secret key. None if the key came from standard input.
    pub(super) path: Option<PathBuf>,
    /// The HiddenServiceDir, if the path named one.
    pub(super) directory: Option<PathBuf>,
    /// The owners of the Secret, if the input was a Secret. Kubernetes deletes the Secret together
    /// with its owner.
    pub(super) owners: Vec<String>,
    /// The reasons why neither tor nor the operator can use the key in its present form.
    pub(super) faults: Vec<String>,
    pub(super) file: KeyFile,
}

impl Input {
    /// Reads a key from `path`. An error names the file and the problem.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        if path == Path::new(STANDARD_INPUT) {
            let bytes = secret_file::read_standard_input()?;
            let read = Self::parse(&bytes, None, None);
            return read.map_err(|problem| format!("standard input: {problem}").into());
        }
        let directory = path.is_dir().then(|| path.to_owned());
        let file = if directory.is_some() { path.join(SECRET_KEY) } else { path.to_owned() };
        let bytes =
            secret_file::read(&file).map_err(|error| format!("{error}{}", hint(&error, directory.as_deref())))?;
        let read = Self::parse(&bytes, Some(file.clone()), directory);
        read.map_err(|problem| format!("{}: {problem}", file.display()).into())
    }

    fn parse(bytes: &[u8], path: Option<PathBuf>, directory: Option<PathBuf>) -> Result<Self, Failure> {
        if bytes.trim_ascii().is_empty() {
            return Err("the file is empty".into());
        }
        // A manifest can also pass for a PEM file, whose block may be indented and has other text
        // around it.
        if let Some(found) = manifest::read(bytes) {
            let Found { file, owners, faults, .. } = found?;
            return Ok(Self { path, directory, owners, faults, file });
        }
        let (file, form) = open(bytes).map_err(|error| match error {
            // The remedy for this form would be to run this command.
            KeyFileError::Form(KeyForm::Manifest) => manifest::why_unusable(bytes),
            other => other.to_string(),
        })?;
        let faults = form.map(|form| format!("the file holds {form}")).into_iter().collect();
        Ok(Self { path, directory, owners: Vec::new(), faults, file })
    }
}

/// Returns a hint about a path that cannot be read. `directory` is the path that was given, if it
/// is a directory.
fn hint(error: &io::Error, directory: Option<&Path>) -> String {
    match (error.kind(), directory) {
        (io::ErrorKind::NotFound, None) => {
            "; give the path of a HiddenServiceDir, a key file or the manifest of a Secret, or - for standard input"
                .to_owned()
        }
        (io::ErrorKind::NotFound, Some(directory)) if directory.join("private_key").exists() => {
            "; the directory has the key of a v2 onion service, which no longer works".to_owned()
        }
        (io::ErrorKind::NotFound, Some(_)) => {
            "; tor writes this file when it first starts the onion service of a HiddenServiceDir. If the key has \
             another name, give the path of the file"
                .to_owned()
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "; run the command as the owner of the file, for example with sudo -u debian-tor".to_owned()
        }
        _ => String::new(),
    }
}

/// Formats the origin of the key for messages.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(f),
            None => f.write_str("standard input"),
        }
    }
}
