//! Tests that run `config generate` on files.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;

use super::*;
use crate::config::Config;
use crate::onion::{KeyFile, KeyFormat, MasterKey};

#[derive(Debug, clap::Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

fn generate(words: &[&str], answers: Option<&str>) -> Result<String, String> {
    let program =
        Program::try_parse_from([&["config", "generate"], words].concat()).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let ended = run(program.args, answers.is_some(), &mut answers.unwrap_or_default().as_bytes(), &mut out);
    ended.map(|()| String::from_utf8(out).unwrap()).map_err(|error| error.to_string())
}

#[derive(Debug, clap::Parser)]
struct PythonProgram {
    #[command(flatten)]
    args: python::Args,
}

/// Runs the generator as `onionbalance-config`. Returns its standard output and its messages.
fn generate_like_python(words: &[&str], answers: Option<&str>) -> Result<(String, String), String> {
    let program = PythonProgram::try_parse_from([&["onionbalance-config"], words].concat());
    let args = program.map_err(|error| error.to_string())?.args;
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let mut input = answers.unwrap_or_default().as_bytes();
    let ended = python::run(args, answers.is_some(), &mut input, &mut out, &mut messages);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    ended.map(|()| (text(out), text(messages))).map_err(|error| error.to_string())
}

/// Returns the names of the files in a directory, the key first.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort_by_key(|name| name == "config.yaml");
    names
}

fn read(directory: &Path) -> String {
    fs::read_to_string(directory.join("config.yaml")).unwrap()
}

fn address(out: &str) -> OnionAddress {
    out.lines().next().unwrap().parse().unwrap()
}

#[test]
fn writes_the_same_files_as_python_onionbalance() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("config");
    let out = generate(&["--output", output.to_str().unwrap(), "-n", "3"], None).unwrap();
    let address = address(&out);
    let key = fs::read(output.join(format!("{}.key", address.identifier()))).unwrap();
    let key = KeyFile::read(&key).unwrap();
    assert_eq!((key.format(), key.address()), (KeyFormat::Pem, address));
    let text = read(&output);
    assert_eq!(text.matches(crate::config::PLACEHOLDER).count(), 3);
    assert!(text.contains("name: node3"), "{text}");
    assert!(Config::parse(&text).unwrap_err().to_string().contains("placeholder; replace it with the address"));
    let directory = output.join(address.identifier());
    assert_eq!(fs::read_to_string(directory.join("ob_config")).unwrap(), format!("MasterOnionAddress {address}\n"));
    let torrc = fs::read_to_string(directory.join("torrc")).unwrap();
    assert!(torrc.contains("HiddenServicePort 80 127.0.0.1:80\nHiddenServiceOnionBalanceInstance 1\n"), "{torrc}");

    let again = generate(&["--output", output.to_str().unwrap()], None).unwrap_err();
    assert!(again.contains("config.yaml already exists"), "{again}");
    assert_eq!(read(&output), text);
}

#[test]
fn accepts_existing_keys_and_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = MasterKey::generate(&mut crate::tools::generator());
    fs::write(path("secret"), key.to_tor_secret_key_file()).unwrap();
    let instance = MasterKey::generate(&mut crate::tools::generator()).address();

    let words = ["--output", &path("out"), "--key", &path("secret"), "--instance", &instance.to_string(), "-t", "web"];
    let out = generate(&words, None).unwrap();
    assert_eq!(address(&out), key.address());
    let config = Config::parse(&read(Path::new(&path("out")))).unwrap();
    assert_eq!(config.services[0].key, PathBuf::from(format!("{}.key", key.address().identifier())));
    assert_eq!(config.services[0].instances[0].address, instance);
    assert_eq!(config.services[0].instances[0].name.as_deref(), Some("web1"));
    let copy = fs::read(Path::new(&path("out")).join(&config.services[0].key)).unwrap();
    assert_eq!(*copy, *key.to_tor_secret_key_file());

    let twice =
        generate(&["--output", &path("b"), "--key", &path("secret"), "--key", &path("secret")], None).unwrap_err();
    assert!(twice.starts_with("two services cannot have the same key"), "{twice}");
    assert!(!Path::new(&path("b")).exists());
    let missing = generate(&["--output", &path("b"), "--key", &path("none")], None).unwrap_err();
    assert!(missing.contains("none: No such file"), "{missing}");
    let whose = generate(&["-s", "2", "--instance", &instance.to_string()], None).unwrap_err();
    assert!(whose.starts_with("--instance is ambiguous"), "{whose}");
}

#[test]
fn generates_the_keys_of_the_instances() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("c");
    let words = [
        "--output",
        output.to_str().unwrap(),
        "-s",
        "2",
        "-n",
        "2",
        "--instance-keys",
        "--service-virtual-port",
        "443",
    ];
    let out = generate(&words, None).unwrap();
    let config = Config::parse(&read(&output)).unwrap();
    assert_eq!(config.services.len(), 2);
    let first = &config.services[0];
    let directory = output.join(address(&out).identifier()).join("node2");
    let hostname = fs::read_to_string(directory.join("hostname")).unwrap();
    assert_eq!(hostname, format!("{}\n", first.instances[1].address));
    assert!(fs::read_to_string(directory.join("torrc")).unwrap().contains("HiddenServicePort 443 127.0.0.1:443\n"));
    assert!(directory.join("ob_config").exists());
}

#[test]
fn asks_questions_without_options() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("asked");
    let answers = format!("{}\nmany\n1\n\n3\nweb\n8080\n10.0.0.1:80\n", output.display());
    let out = generate(&[], Some(&answers)).unwrap();
    assert!(out.contains("Number of services [1]: Please enter a number from 1 to 100."), "{out}");
    assert!(out.contains("host and port at which the instances reach it [127.0.0.1:8080]: "), "{out}");
    let text = read(&output);
    assert!(text.contains("name: web3"), "{text}");
    let ended = generate(&[], Some("x\n")).unwrap_err();
    assert!(ended.starts_with("standard input ended"), "{ended}");
    let not_asked = folder.path().join("not-asked");
    generate(&["--no-interactive", "--output", not_asked.to_str().unwrap()], Some("")).unwrap();
    assert!(not_asked.join("config.yaml").exists());
}

/// The inputs are those of the functional tests of Python Onionbalance.
#[test]
fn onionbalance_config_writes_only_the_files_of_python_onionbalance() {
    let folder = tempfile::tempdir().unwrap();
    let (asked, automatic) = (folder.path().join("asked"), folder.path().join("automatic"));
    let answers = format!("{}\n1\n\n\n\n", asked.display());
    let (out, messages) = generate_like_python(&[], Some(&answers)).unwrap();
    for question in [
        "store generated config",
        "Number of services",
        "path to master service private key",
        "Number of instance services",
        "Provide a tag name",
    ] {
        assert!(out.contains(question), "{out}");
    }
    assert!(messages.contains("entering interactive mode"), "{messages}");
    assert!(messages.contains("Done! Successfully generated"), "{messages}");
    let (out, messages) = generate_like_python(&["--output", automatic.to_str().unwrap()], None).unwrap();
    assert!(out.is_empty() && messages.contains("Done! Successfully generated"), "{out}{messages}");
    for directory in [asked, automatic] {
        let files = files(&directory);
        let [key, config] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!(config, "config.yaml");
        let placeholder = crate::config::PLACEHOLDER;
        let expected = format!(
            "# Onionbalance Config File\nservices:\n- instances:\n  - address: {placeholder}\n    name: node1\n  - \
             address: {placeholder}\n    name: node2\n  key: {key}\n"
        );
        assert_eq!(read(&directory), expected);
        let content = fs::read(directory.join(key)).unwrap();
        assert_eq!(KeyFile::read(&content).unwrap().format(), KeyFormat::Pem);
    }
}

#[test]
fn onionbalance_config_makes_one_service_of_an_existing_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = MasterKey::generate(&mut crate::tools::generator());
    fs::write(path("secret"), key.to_tor_secret_key_file()).unwrap();
    let words = ["-s", "2", "--key", &path("secret"), "--output", &path("out"), "-v", "error", "-p", "x"];
    assert_eq!(generate_like_python(&words, None).unwrap(), (String::new(), String::new()));
    let name = format!("{}.key", key.address().identifier());
    assert_eq!(files(Path::new(&path("out"))), [name.clone(), "config.yaml".to_owned()]);
    assert_eq!(fs::read(folder.path().join("out").join(&name)).unwrap(), *key.to_tor_secret_key_file());

    // The same key may be there already, for example after the user has removed the configuration.
    fs::remove_file(folder.path().join("out/config.yaml")).unwrap();
    generate_like_python(&words, None).unwrap();
    fs::remove_file(folder.path().join("out/config.yaml")).unwrap();
    fs::write(folder.path().join("out").join(&name), "another file").unwrap();
    let refused = generate_like_python(&words, None).unwrap_err();
    assert!(refused.contains(&name), "{refused}");
}
