//! The relays through which tors enter the network, as their control ports report them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use onionbalance_operator::link::paths::{CONTROL_COOKIE, CONTROL_SOCKET};
use rustix::process::Pid;
use tokio::time::timeout;

use super::pods::{PodProgram, all_processes};
use crate::torcontrol::Control;

/// The maximum time that a tor may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The length of a fingerprint.
const FINGERPRINT: usize = 40;
/// The number of guards that a tor tries before all others (guard-spec, `N_PRIMARY_GUARDS`).
const PRIMARY: usize = 3;

/// The relays through which one tor enters the network, by fingerprint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hops {
    /// The relays to which tor has a connection or is opening one.
    pub connected: BTreeSet<String>,
    /// The first relays of tor's complete circuits. Directory requests are not counted: their
    /// circuits have only one hop, and tor spreads them over its first three guards.
    pub in_use: BTreeSet<String>,
}

impl Hops {
    /// Asks the tor with this control socket.
    pub async fn of(socket: &Path, cookie: &Path) -> Result<Self> {
        let asked = async {
            let mut control = Control::open(socket, cookie).await?;
            let connections = control.ask("GETINFO orconn-status").await?.context("tor has no orconn-status")?;
            let circuits = control.ask("GETINFO circuit-status").await?.context("tor has no circuit-status")?;
            anyhow::Ok(Self::read(&connections, &circuits))
        };
        timeout(ANSWER, asked).await.context("tor did not answer")?
    }

    /// Reads tor's answers to `GETINFO orconn-status` and `GETINFO circuit-status`.
    fn read(connections: &[String], circuits: &[String]) -> Self {
        let connected = connections.iter().filter_map(|line| fingerprint(line.trim_start_matches("orconn-status=")));
        Self { connected: connected.collect(), in_use: circuits.iter().filter_map(|line| entry(line)).collect() }
    }
}

/// Returns the first relay of a complete circuit with several hops (control-spec, "CIRC").
fn entry(line: &str) -> Option<String> {
    let mut words = line.trim_start_matches("circuit-status=").split(' ').skip(1);
    let (state, path) = (words.next()?, words.next()?);
    let is_request = line.contains("ONEHOP_TUNNEL");
    fingerprint(path).filter(|_| state == "BUILT" && !is_request)
}

/// Returns the fingerprint at the start of `$FINGERPRINT~nickname`.
fn fingerprint(text: &str) -> Option<String> {
    text.strip_prefix('$')?.get(..FINGERPRINT).map(str::to_owned)
}

/// Asks the tor with this control socket for the guards that it tries before all others, in their
/// order.
pub async fn primary_guards(socket: &Path, cookie: &Path) -> Result<Vec<String>> {
    let asked = async {
        let mut control = Control::open(socket, cookie).await?;
        control.ask("GETINFO entry-guards").await?.context("tor has no entry-guards")
    };
    Ok(first_guards(&timeout(ANSWER, asked).await.context("tor did not answer")??))
}

/// Reads tor's answer to `GETINFO entry-guards`, which lists the guards in the order of the sample.
fn first_guards(lines: &[String]) -> Vec<String> {
    lines.iter().filter_map(|line| fingerprint(line.trim_start_matches("entry-guards="))).take(PRIMARY).collect()
}

/// Asks the tors of the pods with these UIDs for their first hops. Omits tors that do not answer,
/// because a pod may be starting or ending.
pub async fn of_pods(uids: &BTreeSet<String>) -> Result<BTreeMap<String, Hops>> {
    ask_pods(uids, Hops::of).await
}

/// Asks the tors of the pods with these UIDs for the guards that they try before all others, in
/// their order. Omits tors that do not answer.
pub async fn primary_guards_of_pods(uids: &BTreeSet<String>) -> Result<BTreeMap<String, Vec<String>>> {
    ask_pods(uids, primary_guards).await
}

async fn ask_pods<T>(
    uids: &BTreeSet<String>,
    ask: impl AsyncFn(&Path, &Path) -> Result<T>,
) -> Result<BTreeMap<String, T>> {
    let ask = &ask;
    let asked = all_processes(PodProgram::Tor)?.into_iter().filter_map(|(process, cgroup)| {
        let uid = uids.iter().find(|uid| cgroup.contains(*uid))?.clone();
        Some(async move {
            let (socket, cookie) = control_of(process);
            Some((uid, ask(&socket, &cookie).await.ok()?))
        })
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

/// Returns the control socket and the cookie of a tor that runs in a pod, as paths of this machine.
pub fn control_of(process: Pid) -> (PathBuf, PathBuf) {
    let path = |inside: &str| PathBuf::from(format!("/proc/{}/root{inside}", process.as_raw_nonzero()));
    (path(CONTROL_SOCKET), path(CONTROL_COOKIE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn connections_and_the_first_hops_of_complete_circuits_are_read() {
        let [a, b, c] = ["A", "B", "C"].map(|digit| digit.repeat(FINGERPRINT));
        let connections = format!("orconn-status=\n${a}~one CONNECTED\n${b}~two LAUNCHED\nOK");
        let circuits = format!(
            "circuit-status=\n1 BUILT ${a}~one,${c}~three BUILD_FLAGS=NEED_CAPACITY PURPOSE=HS_SERVICE_INTRO\n\
             2 EXTENDED ${b}~two BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL\n\
             3 BUILT ${c}~three BUILD_FLAGS=ONEHOP_TUNNEL,IS_INTERNAL PURPOSE=GENERAL\n\
             4 LAUNCHED BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL\nOK"
        );
        let hops = Hops::read(&lines(&connections), &lines(&circuits));
        assert_eq!(hops, Hops { connected: [a.clone(), b].into(), in_use: [a.clone()].into() });
        let one = Hops::read(&[format!("orconn-status=${a}~one CONNECTED")], &["circuit-status=".to_owned()]);
        assert_eq!(one, Hops { connected: [a].into(), in_use: [].into() });
    }

    #[test]
    fn the_first_three_guards_of_the_sample_are_the_primary_ones() {
        let [a, b, c, d] = ["A", "B", "C", "D"].map(|digit| digit.repeat(FINGERPRINT));
        let guards = format!("entry-guards=\n${b}~two up\n${a}~one never-connected\n${d}~four up\n${c}~three up\nOK");
        assert_eq!(first_guards(&lines(&guards)), [b, a, d]);
    }
}
