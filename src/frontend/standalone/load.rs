//! Loads the daemon's configuration and the keys to which it refers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::secret_file;
use crate::config::{Config, ServiceConfig};
use crate::frontend::RunError;
use crate::onion::{KeyFile, MasterKey, OnionAddress};

/// The loaded configuration, including the keys to which it refers.
pub(super) struct Loaded {
    pub(super) services: Vec<LoadedService>,
    pub(super) status_socket: Option<PathBuf>,
}

/// A service of the loaded configuration.
pub(super) struct LoadedService {
    pub(super) key: MasterKey,
    pub(super) instances: Vec<OnionAddress>,
}

/// Reads the configuration and its keys, whose paths are relative to the configuration's directory.
/// An error names the file, the field and the remedy.
pub(super) fn load(path: &Path) -> Result<Loaded, RunError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "; name the configuration with --config (`kubectl-onionbalance config generate` creates one), or, in a pod, \
                 the service with --service"
            }
            _ => "",
        };
        format!("{}: {error}{hint}", path.display())
    })?;
    let config = Config::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut seen = BTreeSet::new();
    let mut services = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        let refused = |field: &str, problem: &str| format!("{}: services[{index}].{field}: {problem}", path.display());
        let key = key(service, directory).map_err(|error| refused("key", &error.to_string()))?;
        let address = key.address();
        if !seen.insert(address) {
            return Err(
                refused("key", &format!("an earlier service has this key ({address}); remove one of the two")).into()
            );
        }
        let instances: Vec<_> = service.instances.iter().map(|instance| instance.address).collect();
        if instances.contains(&address) {
            let problem = format!("{address} is the master address; list the instances' own addresses");
            return Err(refused("instances", &problem).into());
        }
        services.push(LoadedService { key, instances });
    }
    Ok(Loaded { services, status_socket: config.status_socket })
}

fn key(service: &ServiceConfig, directory: &Path) -> Result<MasterKey, RunError> {
    let path = directory.join(&service.key);
    let bytes = secret_file::read(&path)?;
    let file = KeyFile::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(mode) = secret_file::too_open(&path)? {
        tracing::warn!("{}: other users can read this key (mode {mode:04o}); run chmod 0600 on it", path.display());
    }
    tracing::info!(address = %file.address(), form = %file.format(), "read {}", path.display());
    Ok(file.into_key()?)
}
