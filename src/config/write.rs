//! To YAML, as Python Onionbalance's generator writes it.

use serde::Serialize;

/// Stands where an instance's address is not known yet.
pub const PLACEHOLDER: &str = "<Enter the instance onion address here>";

#[derive(Serialize)]
struct File<'a> {
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    key: &'a str,
    instances: Vec<Instance<'a>>,
}

#[derive(Serialize)]
struct Instance<'a> {
    address: &'a str,
    name: &'a str,
}

/// The text of a `config.yaml`: for each service its key file, and (address or [`PLACEHOLDER`], name) of each instance.
pub fn write(services: &[(String, Vec<(String, String)>)]) -> Result<String, serde_saphyr::ser::Error> {
    let services = services.iter().map(|(key, instances)| {
        let instances = instances.iter().map(|(address, name)| Instance { address, name }).collect();
        Service { key, instances }
    });
    Ok(format!("# Onionbalance Config File\n{}", serde_saphyr::to_string(&File { services: services.collect() })?))
}
