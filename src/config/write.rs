//! Formats a `config.yaml` in the layout of Python Onionbalance's generator.

use serde::Serialize;

/// The placeholder for an instance's address that is not yet known.
pub const PLACEHOLDER: &str = "<Enter the instance onion address here>";

#[derive(Serialize)]
struct FileContent<'a> {
    services: Vec<ServiceEntry<'a>>,
}

#[derive(Serialize)]
struct ServiceEntry<'a> {
    key: &'a str,
    instances: Vec<InstanceEntry<'a>>,
}

#[derive(Serialize)]
struct InstanceEntry<'a> {
    address: &'a str,
    name: &'a str,
}

/// Formats a `config.yaml`. Each service is a pair of its key file and its instances, and each
/// instance is a pair of its address (or [`PLACEHOLDER`]) and its name.
pub fn write(services: &[(String, Vec<(String, String)>)]) -> Result<String, serde_saphyr::ser::Error> {
    let services = services.iter().map(|(key, instances)| {
        let instances = instances.iter().map(|(address, name)| InstanceEntry { address, name }).collect();
        ServiceEntry { key, instances }
    });
    Ok(format!(
        "# Onionbalance Config File\n{}",
        serde_saphyr::to_string(&FileContent { services: services.collect() })?
    ))
}
