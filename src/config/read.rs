//! Parses a `config.yaml`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Config, ConfigError, Instance, PLACEHOLDER, ServiceConfig};
use crate::onion::descriptor::MAX_INTRODUCTION_POINTS;

const SERVICES: &str = "services";
const STATUS_SOCKET: &str = "status-socket-location";
const MAX_POINTS: &str = "max-introduction-points";
const NO_BREAK_SPACE: char = '\u{a0}';
const HOW_TO_START: &str = "`kubectl-onionbalance config generate` creates a valid file";

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    read(text).map_err(|error| with_hint(error, text))
}

fn read(text: &str) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let root = parse_yaml(text, &mut warnings)?;
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
    let services = services.collect::<Result<_, _>>()?;
    let status_socket = status_socket(root, &mut warnings)?;
    Ok(Config { services, status_socket, warnings })
}

/// Parses YAML. If a mapping has the same key twice, the last value is used, as in Python.
fn parse_yaml(text: &str, warnings: &mut Vec<String>) -> Result<Value, ConfigError> {
    let error = match serde_saphyr::from_str(text) {
        Ok(root) => return Ok(root),
        Err(error) => error,
    };
    let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error.without_snippet() else {
        return Err(explain(&error));
    };
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    let root = serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(&error))?;
    let key = key.as_deref().unwrap_or("a setting");
    warnings.push(format!("{key}: set more than once in one place{}; the last value is used", in_line(&error)));
    Ok(root)
}

fn explain(error: &serde_saphyr::Error) -> ConfigError {
    if let serde_saphyr::Error::MultipleDocuments { .. } = error.without_snippet() {
        let problem = format!("the file has a second YAML document{}; keep one of them", in_line(error));
        return field(SERVICES, problem);
    }
    ConfigError::Yaml(explain_yaml(error))
}

/// Explains a YAML error to somebody who does not know the YAML library, without the text around
/// the error, which may contain a secret.
pub fn explain_yaml(error: &serde_saphyr::Error) -> String {
    let mut options = serde_saphyr::RenderOptions::new(&serde_saphyr::UserMessageFormatter);
    options.snippets = serde_saphyr::SnippetMode::Off;
    error.render_with_options(options)
}

/// Adds a hint to an error if the text contains a no-break space. A parser takes such a space for a
/// letter, so the error can be somewhere else.
fn with_hint(mut error: ConfigError, text: &str) -> ConfigError {
    if let Some(index) = text.lines().position(|line| line.contains(NO_BREAK_SPACE)) {
        let (ConfigError::Yaml(problem) | ConfigError::Field { problem, .. }) = &mut error;
        *problem = format!("{problem}; line {} contains a no-break space (U+00A0); replace it with a space", index + 1);
    }
    error
}

fn in_line(error: &serde_saphyr::Error) -> String {
    error.location().map(|location| format!(" (line {})", location.line())).unwrap_or_default()
}

fn status_socket(root: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Option<PathBuf>, ConfigError> {
    match root.get(STATUS_SOCKET) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(path)) if path.is_empty() => {
            warnings.push(format!("{STATUS_SOCKET}: is empty, so there is no status socket; remove the setting"));
            Ok(None)
        }
        Some(Value::String(path)) => Ok(Some(path.into())),
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
        None | Some(Value::Null) => {
            return Err(field(
                &format!("{at}.key"),
                "is missing; it must be the path of the master key file".to_owned(),
            ));
        }
        Some(_) => return Err(field(&format!("{at}.key"), "must be the path of the master key file".to_owned())),
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
    ignore_others(instance, &["address", "name", MAX_POINTS], at, warnings);
    let max_introduction_points = max_points(instance, at)?;
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
            Ok(address) => return Ok(Instance { address, name, max_introduction_points }),
            Err(error) => format!("{text:?} is not an onion address: {error}"),
        },
        Some(other) => format!("{other} is not an onion address"),
    };
    Err(field(&at, problem))
}

fn max_points(instance: &Map<String, Value>, at: &str) -> Result<Option<usize>, ConfigError> {
    let limit = match instance.get(MAX_POINTS) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_u64().and_then(|limit| usize::try_from(limit).ok()),
    };
    match limit.filter(|limit| (1..=MAX_INTRODUCTION_POINTS).contains(limit)) {
        Some(limit) => Ok(Some(limit)),
        None => Err(field(
            &format!("{at}.{MAX_POINTS}"),
            format!("must be a number from 1 to {MAX_INTRODUCTION_POINTS}; without the setting, the limit is 3"),
        )),
    }
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
