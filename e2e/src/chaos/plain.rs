//! The plain onion service with which ours is compared: one stock tor that forwards to a web
//! server of the same kind and publishes its own descriptor.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use onionbalance_operator::link::GuardSample;

use super::circuits::FailedCircuits;
use super::hops::{Hops, primary_guards};
use crate::process::Processes;
use crate::tornet::{Tor, make_private_dir};

/// A stock tor with one onion service.
#[derive(Debug)]
pub struct PlainService {
    tor: Tor,
    onion: String,
}

impl PlainService {
    /// Starts the tor process with these guards, as if it had chosen them in this order. The
    /// HSDirs hold its onion service's descriptor a few seconds later.
    pub async fn start(
        processes: &Processes,
        (name, dir): (&str, &Path),
        torrc_lines: &str,
        target: &str,
        guards: &GuardSample,
    ) -> Result<Self> {
        let tor = Tor::open(processes, name, dir);
        tor.remove().await?;
        let data = dir.join("data");
        make_private_dir(&data)?;
        fs::write(data.join("state"), guards.to_string())?;
        let service = dir.join("service");
        let torrc = format!(
            "{torrc_lines}SocksPort 0\nHiddenServiceDir {}\nHiddenServicePort 80 {target}\n",
            service.display()
        );
        tor.start(Command::new("tor"), &torrc)?;
        tor.wait_bootstrapped().await?;
        let onion = fs::read_to_string(service.join("hostname"))?.trim().to_owned();
        Ok(Self { tor, onion })
    }

    /// Returns the onion address, with its `.onion` suffix.
    pub fn onion(&self) -> &str {
        &self.onion
    }

    /// Returns the relays through which the tor process enters the network.
    pub async fn hops(&self) -> Result<Hops> {
        Hops::of(&self.tor.control_socket(), &self.tor.cookie()).await
    }

    /// Counts the circuits to HSDirs that the tor process cannot complete.
    pub async fn watch_circuits(&self) -> Result<FailedCircuits> {
        FailedCircuits::watch(&self.tor.control_socket(), &self.tor.cookie()).await
    }

    /// Returns the guards that the tor process tries before all others, in their order.
    pub async fn primary_guards(&self) -> Result<Vec<String>> {
        primary_guards(&self.tor.control_socket(), &self.tor.cookie()).await
    }

    /// Stops the tor process and deletes the onion service's key.
    pub async fn remove(&self) -> Result<()> {
        self.tor.remove().await
    }
}

/// Returns true if the first guard of each service is none of the other's primary guards.
pub fn are_apart(one: &[String], other: &[String]) -> bool {
    let has_none = |guards: &[String], first: Option<&String>| first.is_some_and(|first| !guards.contains(first));
    has_none(one, other.first()) && has_none(other, one.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_apart_if_neither_has_the_first_guard_of_the_other() {
        let guards = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let ours = guards(&["a", "b", "c"]);
        for (plain, apart) in [
            (&["d", "e", "f"][..], true),
            (&["d", "b", "c"], true),
            (&["b", "d", "e"], false),
            (&["d", "e", "a"], false),
            (&[], false),
        ] {
            assert_eq!(are_apart(&guards(plain), &ours), apart, "{plain:?}");
        }
    }
}
