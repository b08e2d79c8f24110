//! Formats a `config.yaml` as Python Onionbalance's generator does, byte for byte.

use std::fmt::Write as _;

use serde_json::Value;

/// The placeholder for an instance's address that is not yet known.
pub const PLACEHOLDER: &str = "<Enter the instance onion address here>";

/// The words that YAML 1.1 does not read as text.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Formats a `config.yaml`. Each service is a pair of its key file and its instances, and each
/// instance is a pair of its address (or [`PLACEHOLDER`]) and its name.
pub fn write(services: &[(String, Vec<(String, String)>)]) -> String {
    let mut text = "# Onionbalance Config File\nservices:\n".to_owned();
    for (key, instances) in services {
        text.push_str("- instances:\n");
        for (address, name) in instances {
            _ = writeln!(text, "  - address: {}\n    name: {}", scalar(address), scalar(name));
        }
        _ = writeln!(text, "  key: {}", scalar(key));
    }
    text
}

/// Returns a text as a YAML scalar, with quotes if they can be necessary. Python's YAML library
/// writes some of these scalars without quotes or over several lines; both forms mean the same.
fn scalar(text: &str) -> String {
    if text == PLACEHOLDER || is_plain(text) {
        text.to_owned()
    } else if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        Value::from(text).to_string()
    }
}

/// Returns true if every YAML parser reads the characters as this text.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // Without a sign or a dot in front, a number starts with a digit. It has no letters except
    // those of `0xaf`, `0o7` and `1e5`.
    let of_no_number = |c: char| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit() && !"oxOX".contains(c);
    let starts_with_letter = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let is_no_number = starts_with_letter || (starts_with_digit && text.chars().any(of_no_number));
    let is_word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    text.chars().all(plain) && is_no_number && !is_word
}
