//! A private Tor network: directory authorities and relays on one address, with a new consensus
//! every 20 seconds.

mod arti;
mod bandwidths;
mod grow;
pub mod period;
mod tor;
pub mod torrc;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

pub use self::tor::{Tor, make_private_dir};
use self::torrc::Role;
use crate::command::{command, output, output_with_input};
use crate::node::{BRIDGE_ADDRESS, Node};
use crate::process::Processes;
use crate::torcontrol::Control;
use crate::wait::{Seen, until};

/// The default number of relays in a network, in addition to its three authorities (which are
/// relays too).
pub const RELAYS: u16 = 8;
/// The lowest port number of a network.
pub const BASE_PORT: u16 = 15_000;
/// The longest time until every relay has a complete consensus. A new consensus is made every 20 s.
const COMPLETE: Duration = Duration::from_secs(120);

/// The place where a network runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// This machine's loopback address. The network's processes, and the tor processes that use the
    /// network, end together with this process.
    Loopback,
    /// The node's bridge, which the node's pods and this machine can reach.
    Node(Node),
}

/// A private Tor network.
#[derive(Debug, Clone)]
pub struct TorNetwork {
    dir: PathBuf,
    place: Place,
    nodes: Vec<torrc::TorNode>,
    processes: Processes,
}

impl TorNetwork {
    /// Returns the network whose files are in `dir`, whether or not it is up.
    pub fn open(dir: &Path, place: Place, processes: &Processes) -> Self {
        Self::of(RELAYS, dir, place, processes)
    }

    /// Returns a network with the given number of relays in addition to its authorities.
    pub fn of(relays: u16, dir: &Path, place: Place, processes: &Processes) -> Self {
        let nodes = torrc::nodes(BASE_PORT, relays);
        Self { dir: dir.to_owned(), place, nodes, processes: processes.clone() }
    }

    /// Starts every authority and relay that is not running, and waits until all have bootstrapped.
    /// Existing keys are kept.
    pub async fn up(&self) -> Result<()> {
        let authorities = self.authorities().await?;
        if matches!(self.place, Place::Loopback) {
            self.equalize_bandwidths().await?;
        }
        let common = self.common(&authorities);
        for node in &self.nodes {
            let configuration = common.clone() + &torrc::node(node, self.address(), self.intervals(), &self.flags());
            self.tor(node).start(self.program()?, &configuration)?;
        }
        self.wait_bootstrapped().await
    }

    /// Starts the network, and waits until the consensus of every relay lists all relays as HSDirs.
    /// The first consensus can lack a relay that was slow to start. A tor that starts then expects
    /// descriptors at other HSDirs than a tor with the next consensus.
    pub async fn up_completely(&self) -> Result<()> {
        self.up().await?;
        until("every relay knows all HSDirs", COMPLETE, async || self.knows_all_hsdirs().await).await
    }

    /// Returns the torrc lines with which any other tor joins this network.
    pub fn torrc_lines(&self) -> Result<String> {
        Ok(self.common(&self.directory_authorities()?))
    }

    /// Returns the `DirAuthority` lines of a network that is or has been up.
    fn directory_authorities(&self) -> Result<Vec<String>> {
        let file = self.authorities_file();
        let text = fs::read_to_string(&file).context("the Tor network is not up; run `e2e up`")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Returns the number of relays (authorities included) that have bootstrapped and the number
    /// that have not.
    pub fn status(&self) -> (usize, usize) {
        let up = self.nodes.iter().filter(|node| matches!(self.tor(node).bootstrapped(), Ok(Seen::Yes(())))).count();
        (up, self.nodes.len() - up)
    }

    /// Maps the fingerprint of each relay, authorities included, to the name of its process.
    pub fn fingerprints(&self) -> Result<BTreeMap<String, String>> {
        self.nodes.iter().map(|node| Ok((self.fingerprint_of(node)?, process_name(&node.name)))).collect()
    }

    /// Maps the fingerprint of each relay that is no authority to its nickname.
    pub fn relays(&self) -> Result<BTreeMap<String, String>> {
        let relays = self.nodes.iter().filter(|node| node.role == Role::Relay);
        relays.map(|node| Ok((self.fingerprint_of(node)?, node.name.clone()))).collect()
    }

    fn fingerprint_of(&self, node: &torrc::TorNode) -> Result<String> {
        let file = self.dir.join(&node.name).join("data/fingerprint");
        let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        let fingerprint = text.split_whitespace().nth(1);
        Ok(fingerprint.context("the file does not hold a nickname and a fingerprint")?.to_owned())
    }

    /// Returns the names of the authorities' processes.
    pub fn authority_processes(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.role == Role::Authority).map(|node| process_name(&node.name)).collect()
    }

    /// Returns the time until which the newest consensus of any relay is (or was) valid. Relays
    /// that do not answer are ignored.
    pub async fn consensus_valid_until(&self) -> Result<Timestamp> {
        const KEY: &str = "consensus/valid-until";
        let mut newest = None;
        for node in &self.nodes {
            let tor = self.tor(node);
            let Ok(mut control) = Control::open(&tor.control_socket(), &tor.cookie()).await else { continue };
            let reply = control.ask(&format!("GETINFO {KEY}")).await?.unwrap_or_default();
            let Some(time) = reply.first().and_then(|line| line.strip_prefix(KEY)?.strip_prefix('=')) else { continue };
            newest = newest.max(Some(
                format!("{time}Z").parse().with_context(|| format!("tor reported an invalid time {time:?}"))?,
            ));
        }
        newest.context("no relay has a consensus")
    }

    async fn knows_all_hsdirs(&self) -> Result<Seen<()>> {
        self.knows_flag("HSDir", self.nodes.len()).await
    }

    /// Reports whether the consensus of every relay gives a flag to at least `wanted` relays.
    async fn knows_flag(&self, flag: &str, wanted: usize) -> Result<Seen<()>> {
        let has = |line: &str| line.strip_prefix("s ").is_some_and(|flags| flags.split(' ').any(|word| word == flag));
        self.knows(wanted, &format!("relays with the flag {flag}"), has).await
    }

    /// Reports whether the consensus of every relay has at least `wanted` lines of a kind.
    async fn knows(&self, wanted: usize, what: &str, counts: impl Fn(&str) -> bool) -> Result<Seen<()>> {
        for node in &self.nodes {
            let tor = self.tor(node);
            let mut control = Control::open(&tor.control_socket(), &tor.cookie()).await?;
            let lines = control.ask("GETINFO ns/all").await?.unwrap_or_default();
            let known = lines.iter().filter(|line| counts(line)).count();
            if known < wanted {
                return Ok(Seen::NotYet(format!("{} knows {known} of {wanted} {what}", node.name)));
            }
        }
        Ok(Seen::Yes(()))
    }

    /// Reports whether the consensus of every relay has these parameters, in the order of their
    /// names (dir-spec, `params`).
    pub async fn has_parameters(&self, parameters: &str) -> Result<Seen<()>> {
        for node in &self.nodes {
            let tor = self.tor(node);
            let mut control = Control::open(&tor.control_socket(), &tor.cookie()).await?;
            let consensus = control.ask("GETINFO dir/status-vote/current/consensus-microdesc").await?;
            let mut lines = consensus.iter().flatten();
            if !lines.any(|line| line.starts_with("params ") && line.contains(parameters)) {
                return Ok(Seen::NotYet(format!("{} does not know {parameters}", node.name)));
            }
        }
        Ok(Seen::Yes(()))
    }

    /// Restarts every relay, authorities included, one after another. A relay loses the descriptors
    /// that it held as an HSDir.
    pub async fn restart_relays(&self) -> Result<()> {
        for node in &self.nodes {
            self.processes.stop(&process_name(&node.name)).await?;
            self.up().await?;
        }
        Ok(())
    }

    /// Resumes every relay that is stopped by a signal.
    pub fn thaw(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| self.processes.signal(&process_name(&node.name), Signal::CONT))
    }

    /// Sends a command to the control socket of every relay, authorities included.
    pub async fn command_all(&self, command: &str) -> Result<()> {
        for node in &self.nodes {
            let tor = self.tor(node);
            let mut control = Control::open(&tor.control_socket(), &tor.cookie()).await?;
            anyhow::ensure!(control.command(command).await?, "{} rejected {command}", node.name);
        }
        Ok(())
    }

    fn common(&self, authorities: &[String]) -> String {
        let owner = match self.place {
            Place::Loopback => torrc::owner(std::process::id()),
            Place::Node(_) => String::new(),
        };
        torrc::network(authorities) + &owner
    }

    /// Returns the number of voting intervals for which a consensus is valid. On a node, clients
    /// must behave as they do on the public network. On loopback, a lower number lets clients and
    /// services learn of changes sooner.
    fn intervals(&self) -> u8 {
        match self.place {
            Place::Loopback => 2,
            Place::Node(_) => 3,
        }
    }

    /// Returns the authorities' lines about the relays' flags and bandwidths. Only a network on a
    /// node can grow.
    fn flags(&self) -> String {
        let flags = match self.place {
            Place::Loopback => torrc::any_flags(),
            Place::Node(_) => torrc::flags_by_port(self.address(), BASE_PORT, RELAYS),
        };
        flags + &format!("V3BandwidthsFile {}\n", self.bandwidths_file().display())
    }

    fn address(&self) -> &'static str {
        match self.place {
            Place::Loopback => "127.0.0.1",
            Place::Node(_) => BRIDGE_ADDRESS,
        }
    }

    fn program(&self) -> Result<Command> {
        match &self.place {
            Place::Loopback => Ok(Command::new("tor")),
            Place::Node(node) => node.on_network("tor"),
        }
    }

    fn tor(&self, node: &torrc::TorNode) -> Tor {
        Tor::open(&self.processes, &process_name(&node.name), &self.dir.join(&node.name))
    }

    fn authorities_file(&self) -> PathBuf {
        self.dir.join("authorities.json")
    }

    /// Returns the `DirAuthority` lines. Generates the authorities' keys if they do not exist yet.
    async fn authorities(&self) -> Result<Vec<String>> {
        let file = self.authorities_file();
        if let Ok(text) = fs::read(&file) {
            return Ok(serde_json::from_slice(&text)?);
        }
        make_private_dir(&self.dir)?;
        let authorities = self.nodes.iter().filter(|node| node.role == Role::Authority);
        let lines = try_join_all(authorities.map(|node| self.authority(node))).await?;
        fs::write(file, serde_json::to_vec_pretty(&lines)?)?;
        Ok(lines)
    }

    async fn authority(&self, node: &torrc::TorNode) -> Result<String> {
        let dir = self.dir.join(&node.name);
        let keys = dir.join("data/keys");
        // A start that was interrupted leaves keys behind, which tor-gencert refuses to replace.
        if keys.exists() {
            fs::remove_dir_all(&keys)?;
        }
        make_private_dir(&keys)?;
        let certificate = keys.join("authority_certificate");
        let address = format!("{}:{}", self.address(), node.dir_port);
        let mut generate =
            command("tor-gencert", ["--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", &address]);
        generate.arg("-i").arg(keys.join("authority_identity_key"));
        generate.arg("-s").arg(keys.join("authority_signing_key"));
        generate.arg("-c").arg(&certificate);
        output_with_input(&mut generate, "no secret\n").await?;
        let text = fs::read_to_string(&certificate)?;
        let identity = text
            .lines()
            .find_map(|line| line.strip_prefix("fingerprint "))
            .context("the certificate contains no key fingerprint")?;

        let fingerprint = self.fingerprint(node, &dir).await?;
        Ok(format!(
            "DirAuthority {} orport={} no-v2 v3ident={identity} {address} {fingerprint}",
            node.name, node.or_port
        ))
    }

    /// Generates the relay's keys if they do not exist yet, and returns its fingerprint.
    async fn fingerprint(&self, node: &torrc::TorNode, dir: &Path) -> Result<String> {
        let empty = dir.join("empty");
        fs::write(&empty, "")?;
        let mut list = command("tor", ["--list-fingerprint", "--hush", "--SocksPort", "0", "--Nickname", &node.name]);
        list.arg("-f").arg(&empty).arg("--defaults-torrc").arg(&empty).arg("--DataDirectory").arg(dir.join("data"));
        list.args(["--Address", self.address(), "--ORPort", &format!("{}:{}", self.address(), node.or_port)]);
        // Without an authority line, tor would act as a relay of the public network and verify its
        // address.
        list.args(["--DirAuthority", "x 127.0.0.1:1 ffffffffffffffffffffffffffffffffffffffff"]);
        let printed = output(&mut list).await?;
        let fingerprint =
            printed.lines().last().and_then(|line| line.split_once(' ')).map(|(_, hex)| hex.replace(' ', ""));
        fingerprint.filter(|hex| hex.len() == 40).with_context(|| format!("tor --list-fingerprint printed {printed:?}"))
    }

    /// Waits until all authorities and relays have bootstrapped. A relay that could not get the
    /// first consensus pauses for minutes; reloading its configuration ends the pause.
    async fn wait_bootstrapped(&self) -> Result<()> {
        const RELOAD_EVERY: Duration = Duration::from_secs(5);
        let start = Instant::now();
        let mut reloaded = start;
        loop {
            let mut late = Vec::new();
            for node in &self.nodes {
                if let Seen::NotYet(why) = self.tor(node).bootstrapped()? {
                    late.push((node, why));
                }
            }
            let Some((_, why)) = late.first() else { return Ok(()) };
            anyhow::ensure!(
                start.elapsed() < Duration::from_secs(180),
                "the Tor network did not bootstrap within 180 s: {why}"
            );
            if late.len() < self.nodes.len() && reloaded.elapsed() >= RELOAD_EVERY {
                reloaded = Instant::now();
                for (node, _) in &late {
                    self.tor(node).reload()?;
                }
            }
            sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Returns the name of the process of a relay or authority with this nickname.
pub fn process_name(nickname: &str) -> String {
    format!("tor-{nickname}")
}
