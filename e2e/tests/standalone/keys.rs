//! Checks that Python Onionbalance and tor load the keys that our commands write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::command::output;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::Tor;
use onionbalance_e2e::wait::{Seen, until};
use serde_json::Value;

use crate::setup::{plugin, python};

/// Loads keys in the way in which Python Onionbalance loads the keys of its configuration. Prints,
/// for each file, whether the key is in tor's format, and its address.
const LOAD: &str = "
import json, sys
from onionbalance.hs_v3.service import OnionbalanceService
keys = [OnionbalanceService({'key': file, 'instances': []}, 'config.yaml') for file in sys.argv[1:]]
print(json.dumps([[key.is_priv_key_in_tor_format, key.onion_address] for key in keys]))
";

#[tokio::test]
async fn python_onionbalance_and_tor_load_our_keys() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let pem = path("frontend.key");
    let address = run(&["key", "generate", "--to", "pem", "--output"], &pem).await?;
    let mut convert = Command::new(plugin()?);
    convert.args(["key", "convert"]).arg(&pem).arg("--output").arg(path("converted"));
    ensure!(first_line(&output(&mut convert.into()).await?)? == address, "converting the key changed its address");
    let generated = run(&["key", "generate", "--output"], &path("generated")).await?;
    let of_config = run(&["config", "generate", "--output"], &path("config")).await?;
    let file_of_config = path("config").join(of_config.replace(".onion", ".key"));

    let in_tors_format = |directory: &str| path(directory).join("hs_ed25519_secret_key");
    let files = [pem, file_of_config, in_tors_format("converted"), in_tors_format("generated")];
    let expected = serde_json::json!([[false, address], [false, of_config], [true, address], [true, generated]]);
    let loaded = loaded_by_python(&files).await?;
    ensure!(loaded == expected, "Python loaded {loaded} instead of {expected}");

    for (directory, address) in [("converted", &address), ("generated", &generated)] {
        let before = fs::read(in_tors_format(directory))?;
        ensure!(loaded_by_tor(dir.path(), &path(directory)).await? == *address, "{directory}");
        ensure!(fs::read(in_tors_format(directory))? == before, "tor replaced the key in {directory}");
    }
    Ok(())
}

/// Runs our plugin with the given path as the last argument. Returns the address that it prints.
async fn run(arguments: &[&str], path: &Path) -> Result<String> {
    let mut command = Command::new(plugin()?);
    command.args(arguments).arg(path);
    first_line(&output(&mut command.into()).await?)
}

fn first_line(text: &str) -> Result<String> {
    Ok(text.lines().next().context("the program printed nothing")?.to_owned())
}

async fn loaded_by_python(files: &[PathBuf]) -> Result<Value> {
    let mut load = Command::new(python().await?);
    load.args(["-c", LOAD]).args(files);
    Ok(serde_json::from_str(&first_line(&output(&mut load.into()).await?)?)?)
}

/// Returns the address that a tor reports for the key in a `HiddenServiceDir`. The address that our
/// command wrote is removed first. `dir` is a folder for tor's own files.
async fn loaded_by_tor(dir: &Path, key: &Path) -> Result<String> {
    let hostname = key.join("hostname");
    fs::remove_file(&hostname)?;
    let processes = Processes::open(dir)?;
    let tor = Tor::open(&processes, "reader", &dir.join("tor"));
    let service = key.display();
    let owner = std::process::id();
    let torrc = format!(
        "DisableNetwork 1\nSocksPort 0\n__OwningControllerProcess {owner}\nHiddenServiceDir {service}\nHiddenServicePort 80\n"
    );
    tor.start(Command::new("tor"), &torrc)?;
    let address = until("tor has written the address", Duration::from_secs(60), async || {
        processes.check("reader")?;
        let address = fs::read_to_string(&hostname).unwrap_or_default();
        Ok(if address.ends_with('\n') { Seen::Yes(address.trim().to_owned()) } else { Seen::not_yet("no address") })
    })
    .await?;
    tor.remove().await?;
    Ok(address)
}
