//! Parses a `config.yaml`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Config, ConfigError, Instance, PLACEHOLDER, ServiceConfig};

const SERVICES: &str = "services";
const STATUS_SOCKET: &str = "status-socket-location";
const HOW_TO_START: &str = "`kubectl-onionbalance config generate` creates a valid file";

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    let root: Value = serde_saphyr::from_str(text).map_err(|error| ConfigError::Yaml(error.to_string()))?;
    let mut warnings = Vec::new();
    let root = match &root {
        Value::Object(root) => root,
        Value::Null => return Err(field(SERVICES, format!("the file is empty; {HOW_TO_START}"))),
        _ => {
            return Err(field(SERVICES, format!("the file must be a mapping with the key `services`; {HOW_TO_START}")));
        }
    };
    ignore_others(root, &[SERVICES, STATUS_SOCKET], "", &mut warnings);

    let services = list(root, SERVICES, SERVICES, "a list of services with `key` and `instances`")?;
    let services = services.iter().enumerate();
    let services = services.map(|(index, value)| service(value, &format!("{SERVICES}[{index}]"), &mut warnings));
    Ok(Config { services: services.collect::<Result<_, _>>()?, status_socket: status_socket(root)?, warnings })
}

fn status_socket(root: &Map<String, Value>) -> Result<Option<std::path::PathBuf>, ConfigError> {
    match root.get(STATUS_SOCKET) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(path)) if !path.is_empty() => Ok(Some(path.into())),
        Some(_) => {
            Err(field(STATUS_SOCKET, "must be a path; remove the setting to run without a status socket".to_owned()))
        }
    }
}

fn service(value: &Value, at: &str, warnings: &mut Vec<String>) -> Result<ServiceConfig, ConfigError> {
    let service = mapping(value, at, "`key` and `instances`")?;
    ignore_others(service, &["key", "instances"], at, warnings);
    let key = match service.get("key") {
        Some(Value::String(key)) if !key.is_empty() => key.into(),
        _ => return Err(field(&format!("{at}.key"), "must be the path of the master key file".to_owned())),
    };

    let at = format!("{at}.instances");
    let mut seen = BTreeSet::new();
    let mut instances = Vec::new();
    for (index, value) in list(service, "instances", &at, "a list of instances with `address`")?.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let instance = instance(value, &at, warnings)?;
        if seen.insert(instance.address) {
            instances.push(instance);
        } else {
            warnings.push(format!("{at}: {} is already listed; the duplicate is ignored", instance.address));
        }
    }
    Ok(ServiceConfig { key, instances })
}

fn instance(value: &Value, at: &str, warnings: &mut Vec<String>) -> Result<Instance, ConfigError> {
    let instance = mapping(value, at, "`address`")?;
    ignore_others(instance, &["address", "name"], at, warnings);
    let name = match instance.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(other) => Some(other.to_string()),
    };
    let at = format!("{at}.address");
    let problem = match instance.get("address") {
        None | Some(Value::Null) => "is missing; copy the address from the instance's `hostname` file".to_owned(),
        Some(Value::String(text)) if text == PLACEHOLDER => {
            "still contains the generator's placeholder; replace it with the address in the instance's `hostname` file"
                .to_owned()
        }
        Some(Value::String(text)) => match text.trim().parse() {
            Ok(address) => return Ok(Instance { address, name }),
            Err(error) => format!("{text:?} is not an onion address: {error}"),
        },
        Some(other) => format!("{other} is not an onion address"),
    };
    Err(field(&at, problem))
}

/// Returns the list at `key`, or an error if the list is missing or empty.
fn list<'a>(map: &'a Map<String, Value>, key: &str, at: &str, what: &str) -> Result<&'a [Value], ConfigError> {
    match map.get(key) {
        Some(Value::Array(list)) if !list.is_empty() => Ok(list),
        Some(Value::Array(_)) => Err(field(at, format!("is empty; it must be {what}"))),
        None | Some(Value::Null) => Err(field(at, format!("is missing; it must be {what}"))),
        Some(_) => Err(field(at, format!("must be {what}"))),
    }
}

fn mapping<'a>(value: &'a Value, at: &str, what: &str) -> Result<&'a Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| field(at, format!("must be a mapping with {what}")))
}

/// Adds a warning for each unknown key. Python Onionbalance ignores unknown keys silently, but a
/// mistyped key should not go unnoticed.
fn ignore_others(map: &Map<String, Value>, known: &[&str], at: &str, warnings: &mut Vec<String>) {
    for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
        let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        warnings.push(format!("{at}: unknown setting, ignored"));
    }
}

fn field(field: &str, problem: String) -> ConfigError {
    ConfigError::Field { field: field.to_owned(), problem }
}
