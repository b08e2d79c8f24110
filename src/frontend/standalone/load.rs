//! Loads the daemon's configuration and the keys to which it refers.

use std::io;
use std::path::{Path, PathBuf};

use crate::common::secret_file;
use crate::config::{Config, Instance, ServiceConfig};
use crate::frontend::{RunError, external, kits};
use crate::merge::{Counters, PointLimits};
use crate::onion::{KeyFile, OnionAddress, ServiceKey};

/// The loaded configuration, including the keys to which it refers.
pub(super) struct Loaded {
    pub(super) services: Vec<LoadedService>,
    pub(super) status_socket: Option<PathBuf>,
}

/// A service of the loaded configuration.
pub(super) struct LoadedService {
    pub(super) key: ServiceKey,
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
    fn of(instances: &[Instance]) -> Self {
        let limit = |instance: &Instance| Some((external::id(&instance.address), instance.max_introduction_points?));
        let individual = instances.iter().filter_map(limit).collect();
        Self {
            addresses: instances.iter().map(|instance| instance.address).collect(),
            limits: PointLimits { individual, ..PointLimits::default() },
        }
    }
}

/// Reads the configuration and its keys, whose paths are relative to the configuration's directory.
/// Signing kits are refused if the daemon outruns other publishers: with a kit, the daemon would
/// help a thief as much as the owner. An error names the file, the field and the remedy.
pub(super) fn load(path: &Path, counters: Counters) -> Result<Loaded, RunError> {
    let text = read(path)?;
    let config = Config::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut services: Vec<(ServiceKey, Vec<Instance>)> = Vec::new();
    for (index, service) in config.services.into_iter().enumerate() {
        let refused = |field: &str, problem: &str| format!("{}: services[{index}].{field}: {problem}", path.display());
        let key = key(&service, directory).map_err(|error| refused("key", &error.to_string()))?;
        if counters == Counters::Outrun && key.kits().is_some() {
            let problem = "--outrun needs the master key, but this is a signing kit; name the file of the master key";
            return Err(refused("key", problem).into());
        }
        let address = key.address();
        if service.instances.iter().any(|instance| instance.address == address) {
            let problem = format!("{address} is the master address; list the instances' own addresses");
            return Err(refused("instances", &problem).into());
        }
        match services.iter_mut().find(|(earlier, _)| earlier.address() == address) {
            // Two services with the same key would replace each other's descriptors.
            Some((_, instances)) => {
                tracing::warn!(
                    %address,
                    "{}: services[{index}]: an earlier service has the same key and gets these instances, too; list \
                     them all there",
                    path.display()
                );
                add_new(instances, service.instances);
            }
            None => services.push((key, service.instances)),
        }
    }
    let loaded = |(key, instances): (_, Vec<Instance>)| LoadedService { key, instances: Instances::of(&instances) };
    Ok(Loaded { services: services.into_iter().map(loaded).collect(), status_socket: config.status_socket })
}

/// Adds the instances whose address is not in the list yet.
fn add_new(instances: &mut Vec<Instance>, more: Vec<Instance>) {
    for instance in more {
        if instances.iter().all(|known| known.address != instance.address) {
            instances.push(instance);
        }
    }
}

fn read(path: &Path) -> Result<String, RunError> {
    let bytes = std::fs::read(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "; name the configuration with --config (`kubectl-onionbalance config generate` creates one)"
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

/// Reads the key of a service: a master key, a signing kit, or all signing kits in a directory.
fn key(service: &ServiceConfig, directory: &Path) -> Result<ServiceKey, RunError> {
    let path = directory.join(&service.key);
    let found = kits::list(&path);
    if !found.is_empty() || kits::is_kit(&path) {
        let paths = if found.is_empty() { vec![path.clone()] } else { found };
        let kits = kits::read(&paths, None)?;
        paths.iter().try_for_each(|path| warn_if_open(path))?;
        tracing::info!(address = %kits.address(), "read the signing kits in {}", path.display());
        return Ok(kits.into());
    }
    let bytes = secret_file::read(&path).map_err(|error| format!("{error}{}", hint(&path, &service.key)))?;
    let file = KeyFile::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    warn_if_open(&path)?;
    tracing::info!(address = %file.address(), form = %file.format(), "read {}", path.display());
    Ok(file.into_key()?.into())
}

fn warn_if_open(path: &Path) -> io::Result<()> {
    if let Some(mode) = secret_file::too_open(path)? {
        tracing::warn!("{}: other users can read this key (mode {mode:04o}); run chmod 0600 on it", path.display());
    }
    Ok(())
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
