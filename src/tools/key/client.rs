//! Generates the key pairs of authorized clients.

use std::io::Write;
use std::path::Path;

use crate::common::{secret_file, tor_directories};
use crate::onion::{ClientSecretKey, OnionAddress};
use crate::tools::{Failure, generator};

/// Writes `<name>.auth` for the service and `<name>.auth_private` for the client, and prints the
/// public key to `out`. The files are written to the current directory by default.
pub(super) fn generate(
    name: &str,
    address: &OnionAddress,
    directory: Option<&Path>,
    force: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(format!(
            "--client {name:?}: the name becomes part of two file names; choose a name without '/' and without a leading '.'"
        )
        .into());
    }
    let key = ClientSecretKey::generate(&mut generator());
    let public = key.public();
    let directory = directory.unwrap_or(Path::new("."));
    tor_directories::create_private(directory)?;
    // The private file is written first. If it already exists, the command fails without changing
    // anything.
    let private = key.to_auth_private(address);
    secret_file::write(&directory.join(format!("{name}.auth_private")), format_line(&private).as_bytes(), force)?;
    secret_file::write(&directory.join(format!("{name}.auth")), format!("{public}\n").as_bytes(), true)?;
    Ok(writeln!(out, "{public}")?)
}

fn format_line(text: &str) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(format!("{text}\n"))
}
