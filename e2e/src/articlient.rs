//! The arti client: a Tor implementation in Rust that shares no code with C tor or with this
//! project.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::command::{command, output};
use crate::node::remove_dir;
use crate::process::Processes;
use crate::state::source_tree;
use crate::torclient::fetch;
use crate::tornet::{TorNetwork, make_private_dir};
use crate::wait::{Seen, until};

/// An arti process that was started without any saved state and provides a SOCKS proxy.
#[derive(Debug)]
pub struct ArtiClient {
    name: String,
    dir: PathBuf,
    processes: Processes,
    socks: String,
}

impl ArtiClient {
    /// Starts arti with empty state in a private network that is already up, and waits until it has
    /// bootstrapped. The first call may have to build arti.
    pub async fn fresh(processes: &Processes, name: &str, dir: &Path, network: &TorNetwork) -> Result<Self> {
        make_private_dir(dir)?;
        let socks = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let file = dir.join("arti.toml");
        fs::write(&file, configuration(dir, &socks) + &network.arti_lines()?)?;
        // The log of an earlier client of this name says that it has bootstrapped.
        if processes.log(name).exists() {
            fs::remove_file(processes.log(name))?;
        }
        // Make arti exit when this process does, however that happens.
        let mut arti = Command::new("setpriv");
        arti.args(["--pdeathsig", "KILL", "--"]).arg(program().await?).arg("--config").arg(&file).arg("proxy");
        processes.start(name, &mut arti)?;
        let client = Self { name: name.to_owned(), dir: dir.to_owned(), processes: processes.clone(), socks };
        until(&format!("{name} has bootstrapped"), Duration::from_secs(120), async || client.bootstrapped()).await?;
        Ok(client)
    }

    /// Sends `GET /` to port 80 of an onion address. Requests with different `isolation` values
    /// share no circuit.
    pub async fn fetch(&self, onion: &str, isolation: &str) -> Result<String> {
        fetch(&self.socks, onion, isolation).await
    }

    /// Stops the client and removes its state.
    pub async fn remove(self) -> Result<()> {
        self.processes.stop(&self.name).await?;
        remove_dir(&self.dir).await
    }

    fn bootstrapped(&self) -> Result<Seen<()>> {
        self.processes.check(&self.name)?;
        let log = fs::read_to_string(self.processes.log(&self.name)).unwrap_or_default();
        let last = log.lines().last().unwrap_or("no log yet").to_owned();
        Ok(if log.contains("Sufficiently bootstrapped") { Seen::Yes(()) } else { Seen::NotYet(last) })
    }
}

/// Returns arti's configuration for this machine. Running arti as root is harmless because the
/// network is private.
fn configuration(dir: &Path, socks: &str) -> String {
    let dir = dir.display();
    format!(
        r#"[application]
allow_running_as_root = true
[proxy]
socks_listen = "{socks}"
[storage]
cache_dir = "{dir}/cache"
state_dir = "{dir}/state"
permissions = {{ dangerously_trust_everyone = true }}
[address_filter]
allow_local_addrs = true
allow_onion_addrs = true
[path_rules]
ipv4_subnet_family_prefix = 33
ipv6_subnet_family_prefix = 129
"#
    )
}

async fn program() -> Result<&'static Path> {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let program = PROGRAM.get_or_try_init(async || {
        let script = source_tree().join("e2e/setup/arti.sh");
        let path = output(&mut command(&script.display().to_string(), [""; 0])).await?;
        anyhow::Ok(PathBuf::from(path.trim()))
    });
    Ok(program.await?)
}
