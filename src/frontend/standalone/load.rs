//! Loads the daemon's configuration and the keys to which it refers.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::common::secret_file;
use crate::config::{Config, ServiceConfig};
use crate::frontend::{RunError, external};
use crate::merge::PointLimits;
use crate::onion::{KeyFile, MasterKey, OnionAddress};

/// The loaded configuration, including the keys to which it refers.
pub(super) struct Loaded {
    pub(super) services: Vec<LoadedService>,
    pub(super) status_socket: Option<PathBuf>,
}

/// A service of the loaded configuration.
pub(super) struct LoadedService {
    pub(super) key: MasterKey,
    pub(super) instances: Instances,
}

/// The instances of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instances {
    /// The addresses of the instances, in the order of the configuration.
    pub(super) addresses: Vec<OnionAddress>,
    /// The number of introduction points that each instance may contribute.
    pub(super) limits: PointLimits,
}

impl Instances {
    fn of(service: &ServiceConfig) -> Self {
        let limit = |instance: &crate::config::Instance| {
            Some((external::id(&instance.address), instance.max_introduction_points?))
        };
        let individual = service.instances.iter().filter_map(limit).collect();
        Self {
            addresses: service.instances.iter().map(|instance| instance.address).collect(),
            limits: PointLimits { individual, ..PointLimits::default() },
        }
    }
}

/// Reads the configuration and its keys, whose paths are relative to the configuration's directory.
/// An error names the file, the field and the remedy.
pub(super) fn load(path: &Path) -> Result<Loaded, RunError> {
    let text = read(path)?;
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
        let instances = Instances::of(service);
        if instances.addresses.contains(&address) {
            let problem = format!("{address} is the master address; list the instances' own addresses");
            return Err(refused("instances", &problem).into());
        }
        services.push(LoadedService { key, instances });
    }
    Ok(Loaded { services, status_socket: config.status_socket })
}

fn read(path: &Path) -> Result<String, RunError> {
    let bytes = std::fs::read(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "; name the configuration with --config (`kubectl-onionbalance config generate` creates one), or, in a pod, \
                 the service with --service"
            }
            _ => "",
        };
        format!("{}: {error}{hint}", path.display())
    })?;
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    String::from_utf8(bytes).map_err(|_| {
        let encoding = if is_utf16 { "UTF-16" } else { "ENCODING" };
        format!("{}: the file is not UTF-8 text; run iconv -f {encoding} -t UTF-8 on it", path.display()).into()
    })
}

fn key(service: &ServiceConfig, directory: &Path) -> Result<MasterKey, RunError> {
    let path = directory.join(&service.key);
    let bytes = secret_file::read(&path).map_err(|error| format!("{error}{}", hint(&path, &service.key)))?;
    let file = KeyFile::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(mode) = secret_file::too_open(&path)? {
        tracing::warn!("{}: other users can read this key (mode {mode:04o}); run chmod 0600 on it", path.display());
    }
    tracing::info!(address = %file.address(), form = %file.format(), "read {}", path.display());
    Ok(file.into_key()?)
}

/// Returns a hint about a key file that cannot be read. `written` is its path as the configuration
/// has it.
fn hint(path: &Path, written: &Path) -> String {
    if path.is_dir() {
        return format!("; name the file in it, for example {}", path.join("hs_ed25519_secret_key").display());
    }
    if written.starts_with("~") {
        return "; the daemon does not replace ~ with a home directory, so write the whole path".to_owned();
    }
    String::new()
}
