//! Builds container images with `setup/images.sh`.

use std::path::PathBuf;

use anyhow::Result;

use crate::command::{command, output};
use crate::state::source_tree;

/// Builds an image unless it exists already, and returns the path of its archive.
pub async fn make_image(arguments: &[&str]) -> Result<PathBuf> {
    let script = source_tree().join("e2e/setup/images.sh");
    let path = output(&mut command(&script.display().to_string(), arguments)).await?;
    Ok(PathBuf::from(path.trim()))
}
