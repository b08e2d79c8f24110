//! Checks keys for damage, for files that do not belong together, and for loose permissions.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::content::{HOSTNAME, PUBLIC_KEY};
use super::delegate;
use super::input::Input;
use crate::common::secret_file;
use crate::onion::Kit;
use crate::onion::kit::KitError;
use crate::tools::Failure;

/// Prints one line to `out` for each valid key and for each problem. Returns an error if there are
/// any problems.
pub(super) fn run(inputs: &[PathBuf], out: &mut impl Write) -> Result<(), Failure> {
    let mut bad = 0_usize;
    for path in inputs {
        match check(path) {
            Ok(address) => writeln!(out, "{}: ok, {address}", path.display())?,
            Err(faults) => {
                bad += 1;
                faults.iter().try_for_each(|fault| writeln!(out, "{fault}"))?;
            }
        }
    }
    match bad {
        0 => Ok(()),
        1 => Err("the key check failed".into()),
        _ => Err(format!("{bad} keys failed the check").into()),
    }
}

fn check(path: &Path) -> Result<String, Vec<String>> {
    if let Some(kit) = delegate::read_kit(path) {
        return check_kit(path, kit).map_err(|problem| vec![format!("{}: {problem}", path.display())]);
    }
    let input = Input::read(path).map_err(|error| vec![error.to_string()])?;
    let shown = input.to_string();
    let Input { path, directory, owners, faults: unusable, file } = input;
    let address = file.address();
    let key = file.into_key().map_err(|error| vec![format!("{shown}: {error}")])?;

    let convert = |fault| format!("{shown}: {fault}, so tor and the operator cannot use it; use key convert");
    let mut faults: Vec<String> = unusable.into_iter().map(convert).collect();
    let mut note = |path: &Path, result: Result<(), String>| {
        if let Err(problem) = result {
            faults.push(format!("{}: {problem}", path.display()));
        }
    };
    if let Some(path) = &path {
        note(path, private(path, 0o600));
        if !owners.is_empty() {
            let problem = "Kubernetes deletes a Secret with these ownerReferences together with its owner, even after a restore; \
                           use key convert --secret";
            note(path, Err(format!("{problem} ({})", owners.join(", "))));
        }
    }
    if let Some(directory) = &directory {
        note(directory, private(directory, 0o700));
        let public = directory.join(PUBLIC_KEY);
        let fits = |bytes: &[u8]| key.check_tor_public_key_file(bytes).map_err(|error| error.to_string());
        note(&public, beside(&public, fits));
        let hostname = directory.join(HOSTNAME);
        let fits = |bytes: &[u8]| key.check_tor_hostname_file(bytes).map_err(|error| error.to_string());
        note(&hostname, beside(&hostname, fits));
    }
    if faults.is_empty() { Ok(address.to_string()) } else { Err(faults) }
}

fn check_kit(path: &Path, kit: Result<Kit, KitError>) -> Result<String, String> {
    let kit = kit.map_err(|error| error.to_string())?;
    kit.check_all().map_err(|error| error.to_string())?;
    private(path, 0o600)?;
    Ok(kit.address().to_string())
}

fn private(path: &Path, wanted: u32) -> Result<(), String> {
    match secret_file::too_open(path) {
        Ok(None) => Ok(()),
        Ok(Some(mode)) => Err(format!("mode {mode:04o} gives other users access; run chmod {wanted:04o}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks that a file does not belong to a different key. The file is allowed to be missing,
/// because tor recreates it.
fn beside(path: &Path, fits: impl Fn(&[u8]) -> Result<(), String>) -> Result<(), String> {
    match std::fs::read(path) {
        Ok(bytes) => fits(&bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
