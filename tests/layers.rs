//! Enforces the layers of `docs/architecture.md`: a layer imports only from lower layers.

#![allow(clippy::expect_used, reason = "a test may stop at a file that it cannot read")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer, or part of a layer, with the layers that it may import.
const ALLOWED: &[(&str, &[&str])] = &[
    ("onion", &[]),
    ("consensus", &["onion"]),
    ("merge", &["onion", "consensus"]),
    ("control", &["onion"]),
    ("link", &["onion"]),
    ("crd", &["onion"]),
    ("config", &["onion"]),
    ("common", &[]),
    ("backend", &["onion", "consensus", "control", "link", "common"]),
    ("frontend", &["onion", "consensus", "merge", "control", "link", "crd", "config", "common"]),
    ("tools", &["onion", "config", "common"]),
    ("operator", &["onion", "link", "crd", "common"]),
    ("status", &["onion", "crd"]),
    // The four programs. The program in the images must not contain the commands for people.
    ("cli", &["common", "crd", "backend", "frontend", "operator", "tools", "status"]),
    ("cli/onionbalance_operator", &["cli", "common", "crd", "backend", "frontend", "operator"]),
    ("cli/kubectl_onionbalance", &["cli", "common", "crd", "tools", "status"]),
    ("cli/onionbalance", &["cli", "common", "frontend"]),
    ("cli/onionbalance_config", &["cli", "common", "tools"]),
    // The entry points, which use the library from outside.
    ("bin", &[]),
];

/// The names that must not occur in pure code: IO, clocks, the global random generator, and async.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "rand::rng(",
    "tokio::",
    "kube::Client",
    "kube::Api",
];
/// The pure layers, and the pure parts of other layers.
const PURE: &[&str] = &[
    "onion",
    "consensus",
    "merge",
    "link",
    "crd",
    "config",
    "operator/plan",
    "operator/children",
    "frontend/conduct",
    "frontend/targets",
    "status/doctor/judge",
];

#[test]
fn layers_import_only_lower_layers() {
    let mut faults = Vec::new();
    for (layer, allowed) in ALLOWED {
        for (file, line, text) in code_lines(layer) {
            for (other, _) in ALLOWED.iter().filter(|(other, _)| other != layer && !allowed.contains(other)) {
                if names_layer(&text, other) {
                    faults.push(format!("{}:{line}: `{layer}` must not import `{other}`: {text}", file.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn pure_layers_do_no_io() {
    let mut faults = Vec::new();
    for layer in PURE {
        for (file, line, text) in code_lines(layer) {
            for word in IMPURE.iter().filter(|word| text.contains(*word)) {
                faults.push(format!("{}:{line}: `{layer}` is pure but uses `{word}`: {text}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_folder_of_src_is_a_known_layer() {
    let mut found: Vec<_> = entries(&source()).into_iter().filter(|path| path.is_dir()).collect();
    found.sort();
    let layers = ALLOWED.iter().filter(|(layer, _)| !layer.contains('/'));
    let mut known: Vec<_> = layers.map(|(layer, _)| source().join(layer)).collect();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn imports_are_recognised_in_every_form() {
    for text in [
        "use crate::merge::Engine;",
        "crate::merge::Now",
        "use crate::{frontend, merge};",
        "use crate::{merge::A, onion};",
    ] {
        assert!(names_layer(text, "merge"), "{text}");
    }
    let broken = statements("use crate::{\n    frontend,\n    merge,\n};\n// crate::link\nfn f() {}");
    assert_eq!(broken.len(), 2);
    assert!(names_layer(&broken[0].1, "merge"));
    assert!(!names_layer("use crate::merger::A;", "merge"));
    assert!(!names_layer("use crate::{onion::merge};", "merge"));
}

/// Returns true if a line of code names `crate::<layer>`, also within braces.
fn names_layer(text: &str, layer: &str) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let direct = text
        .match_indices("crate::")
        .any(|(at, found)| text[at + found.len()..].strip_prefix(layer).is_some_and(is_end));
    let braced = text.split_once("crate::{").is_some_and(|(_, list)| {
        list.split(['{', '}', ',', ' ', ';']).any(|item| item.strip_prefix(layer).is_some_and(is_end))
    });
    direct || braced
}

/// Returns the statements of a layer, or of a part of a layer, without comments and test modules.
/// A `use` that rustfmt broke over several lines counts as one line.
fn code_lines(layer: &str) -> Vec<(PathBuf, usize, String)> {
    let mut found = Vec::new();
    // A part of a layer can be a folder and a file next to the folder.
    let mut open = vec![source().join(layer), source().join(layer).with_extension("rs")];
    open.retain(|path| path.exists());
    while let Some(path) = open.pop() {
        if path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("test")) {
            continue;
        }
        if path.is_dir() {
            open.extend(entries(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("readable source");
            found.extend(statements(&text).into_iter().map(|(line, text)| (path.clone(), line, text)));
        }
    }
    assert!(!found.is_empty(), "no source found for layer {layer}");
    found
}

fn statements(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut lines = text.lines().map(str::trim).enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let opens_tests = line == "#[cfg(test)]" && lines.peek().is_some_and(|(_, next)| next.ends_with('{'));
        if opens_tests {
            break;
        }
        match found.last_mut() {
            Some((_, open)) if open.starts_with("use ") && !open.ends_with(';') => open.push_str(line),
            _ if line.starts_with("//") => {}
            _ => found.push((number + 1, line.to_owned())),
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .expect("could not list the folder")
        .map(|entry| entry.expect("could not read the entry").path())
        .collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
