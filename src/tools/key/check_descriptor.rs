//! Checks whether published descriptors betray the key that signed them.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::onion::UncheckedDescriptor;
use crate::onion::known_nonce::{PublishedSignature, Weakness};
use crate::tools::Failure;

/// Prints one line to `out` for each descriptor. Returns an error if one cannot be read, or if one
/// betrays its key.
pub(super) fn run(paths: &[PathBuf], out: &mut impl Write) -> Result<(), Failure> {
    let signatures = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let mut is_lost = false;
    for (path, signature) in paths.iter().zip(&signatures) {
        let path = path.display();
        let cause = match signature.weakness(&signatures) {
            None => {
                writeln!(out, "{path}: ok, the signature does not betray the key")?;
                continue;
            }
            Some(Weakness::ConstantPrefix) => "the program that signed this descriptor uses a constant nonce prefix",
            Some(Weakness::RepeatedNonce) => "another of these descriptors was signed with the same nonce",
        };
        is_lost = true;
        writeln!(out, "{path}: {cause}, so everyone who has seen the descriptor can compute the master key")?;
    }
    if is_lost {
        return Err("the master key is lost to others; generate a new key, and move the service to its address".into());
    }
    Ok(())
}

fn read(path: &Path) -> Result<PublishedSignature, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let descriptor = UncheckedDescriptor::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(descriptor.published_signature())
}
