//! Loads the daemon's configuration and the keys that it names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::secret_file;
use crate::config::{Config, Service};
use crate::frontend::Failure;
use crate::onion::{KeyFile, MasterKey, OnionAddress};

/// All that the daemon is told.
pub(super) struct Loaded {
    pub(super) services: Vec<LoadedService>,
    pub(super) status_socket: Option<PathBuf>,
}

pub(super) struct LoadedService {
    pub(super) key: MasterKey,
    pub(super) instances: Vec<OnionAddress>,
}

/// Reads the file, and the keys relative to its directory. An error names the file, the field and what to do.
pub(super) fn load(path: &Path) -> Result<Loaded, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "; name the configuration by --config (`config generate` makes one), or, in a pod, the service by --service"
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
            return Err(refused("key", &format!("an earlier service has this key, too: {address}")).into());
        }
        let instances: Vec<_> = service.instances.iter().map(|instance| instance.address).collect();
        if instances.contains(&address) {
            let problem = format!("{address} is the master address itself; name the instances' own addresses");
            return Err(refused("instances", &problem).into());
        }
        services.push(LoadedService { key, instances });
    }
    Ok(Loaded { services, status_socket: config.status_socket })
}

fn key(service: &Service, directory: &Path) -> Result<MasterKey, Failure> {
    let path = directory.join(&service.key);
    let bytes = secret_file::read(&path)?;
    let file = KeyFile::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(mode) = secret_file::too_open(&path)? {
        tracing::warn!("{}: others may use this key (mode {mode:04o}): chmod 0600 it", path.display());
    }
    tracing::info!(address = %file.address(), form = %file.format(), "read {}", path.display());
    Ok(file.into_key()?)
}
