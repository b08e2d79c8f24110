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
