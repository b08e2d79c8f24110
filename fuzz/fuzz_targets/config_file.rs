//! Fuzzes the stand-alone daemon's configuration file. If a configuration is accepted, writing and
//! reading it again must preserve it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::config::{Config, write};

fuzz_target!(|text: &str| {
    let Ok(config) = Config::parse(text) else { return };
    assert!(!config.services.is_empty());
    let services: Vec<_> = config
        .services
        .iter()
        .map(|service| {
            assert!(!service.instances.is_empty());
            let instances = service.instances.iter();
            let named =
                instances.map(|instance| (instance.address.to_string(), instance.name.clone().unwrap_or_default()));
            (service.key.to_str().unwrap().to_owned(), named.collect())
        })
        .collect();
    let again = Config::parse(&write(&services)).unwrap();
    assert_eq!(again.services.len(), config.services.len());
    for (again, service) in again.services.iter().zip(&config.services) {
        assert_eq!(again.key, service.key);
        let addresses = |instances: &[_]| -> Vec<_> { instances.iter().map(address).collect() };
        assert_eq!(addresses(&again.instances), addresses(&service.instances));
    }
});

fn address(instance: &onionbalance_operator::config::Instance) -> onionbalance_operator::onion::OnionAddress {
    instance.address
}
