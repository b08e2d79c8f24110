//! The names of tor's files, and the forms of a key that the commands read.

use crate::onion::key_file::KeyFileError;
use crate::onion::{KeyFile, KeyForm};

pub(super) const SECRET_KEY: &str = "hs_ed25519_secret_key";
pub(super) const PUBLIC_KEY: &str = "hs_ed25519_public_key";
pub(super) const HOSTNAME: &str = "hostname";

/// Parses a key file, or a key that is encoded as text. For encoded text, the second value is the
/// form of the text.
pub(super) fn open(bytes: &[u8]) -> Result<(KeyFile, Option<KeyForm>), KeyFileError> {
    match KeyFile::read(bytes) {
        Err(KeyFileError::Form(form)) => match KeyForm::decode(bytes) {
            Some(file) => Ok((KeyFile::read(&file)?, Some(form))),
            None => Err(KeyFileError::Form(form)),
        },
        other => Ok((other?, None)),
    }
}
