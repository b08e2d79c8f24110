//! Checks with real tors that all pods of a service use the same vanguards: from the start, after a
//! restart of tor, and when relays are replaced while clients connect.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::fetches::FETCHES_PER_CLIENT;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::tornet::period::{until_quiet, wall_clock, was_quiet};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::link::{
    Layer, VANGUARDS_ENTRY, VANGUARDS_MAC_ENTRY, Vanguard, Vanguards, vanguards_of_data, vanguards_to_data,
};
use tokio::time::{Instant, sleep};

use crate::NETWORK;
use crate::frontend_pods::{Frontend, Pods};

const BACKENDS: usize = 3;
/// The backend whose tor is restarted.
const RESTARTED: usize = 0;
/// The options of tor that name the relays of each layer.
const OPTIONS: [&str; 2] = ["HSLayer2Nodes", "HSLayer3Nodes"];
const PATIENCE: Duration = Duration::from_secs(120);
/// The maximum time for which two pods use different vanguards while relays are being replaced: one
/// half of the backends waits for the other for at most 15 s, and each poll takes a second.
const DIFFER: Duration = Duration::from_secs(20);
/// The time that a replacement of relays usually takes. The leader reads the Secret every minute.
const REPLACEMENT: Duration = Duration::from_secs(110);
/// The number of relays of each layer whose time ends. With half of a small network's relays in
/// each layer, the same two relays are chosen again in at most one of six replacements.
const ENDING: usize = 2;
/// The maximum time for the replacement. It is enough for at least eight attempts, so fewer than
/// one run in a million exceeds it.
const REPLACED: Duration = Duration::from_secs(500);
/// The pause between two looks at the tors.
const LOOK: Duration = Duration::from_millis(200);

/// The number of circuits that a backend's tor has at least.
const CIRCUITS: usize = 2;
/// The number of looks at the circuits of a tor.
const LOOKS: u8 = 5;
/// A date in the past, in seconds since the Unix epoch.
const ENDED: u64 = 1;

/// The relays of each layer.
type Relays = [BTreeSet<String>; 2];

#[tokio::test]
async fn all_pods_use_the_same_vanguards() -> Result<()> {
    let _network = NETWORK.lock().await;
    let pods = Pods::start_sharing_vanguards(BACKENDS).await?;
    let outcome = Scenario::run(&pods).await;
    pods.plane.end(outcome)
}

/// A service whose pods share vanguards.
struct Scenario<'a> {
    pods: &'a Pods,
    frontends: [Frontend; 2],
}

impl<'a> Scenario<'a> {
    async fn run(pods: &'a Pods) -> Result<()> {
        let first = pods.frontend("a").await?;
        first.until_published(BACKENDS).await?;
        let second = pods.frontend("b").await?;
        pods.set_ready(&first).await?;
        pods.set_ready(&second).await?;
        let scenario = Self { pods, frontends: [first, second] };
        scenario.until_all_agree("at the start").await?;
        scenario.every_circuit_runs_through_the_layers().await?;
        scenario.a_restarted_tor_uses_the_same_vanguards().await?;
        scenario.no_request_fails_when_relays_are_replaced().await?;
        scenario.every_circuit_runs_through_the_layers().await?;
        scenario.pods.plane.no_secret_is_in_a_log()
    }

    /// Returns the vanguards in the Secret. There are none before the leader has chosen some.
    async fn stored(&self) -> Result<Vanguards> {
        let data = self.pods.guards_secret().await?.data.unwrap_or_default();
        let entry = |name: &str| data.get(name).map(|bytes| bytes.0.as_slice());
        Ok(vanguards_of_data(entry(VANGUARDS_ENTRY), entry(VANGUARDS_MAC_ENTRY), self.pods.plane.token())?)
    }

    /// Opens the control connections of all tors.
    async fn tors(&self) -> Result<Vec<Control>> {
        let mut tors = Vec::new();
        for number in 0..BACKENDS {
            tors.push(self.pods.plane.backend_control(number).await?);
        }
        for frontend in &self.frontends {
            tors.push(self.pods.control(frontend).await?);
        }
        Ok(tors)
    }

    /// Waits until every tor uses the vanguards of the Secret, and returns their relays.
    async fn until_all_agree(&self, when: &str) -> Result<Relays> {
        until(&format!("all tors use the vanguards of the Secret {when}"), PATIENCE, async || {
            let stored = relays(&self.stored().await?);
            if stored.iter().any(BTreeSet::is_empty) {
                return Ok(Seen::not_yet("the Secret has no vanguards"));
            }
            for (number, tor) in self.tors().await?.iter_mut().enumerate() {
                let used = used(tor).await?;
                if used != stored {
                    return Ok(Seen::NotYet(format!("tor {number} uses {used:?} instead of {stored:?}")));
                }
            }
            Ok(Seen::Yes(stored))
        })
        .await
    }

    /// Checks the second and third hops of all circuits for onion services, of all tors. Circuits
    /// that were in use before the vanguards were known may last for a moment.
    async fn every_circuit_runs_through_the_layers(&self) -> Result<()> {
        let mut allowed = self.until_all_agree("before the circuits are checked").await?;
        for number in 0..BACKENDS + self.frontends.len() {
            let mut looks = 0;
            until(&format!("all circuits of tor {number} run through the layers"), PATIENCE, async || {
                let mut tor = self.tors().await?.swap_remove(number);
                let circuits = tor.ask("GETINFO circuit-status").await?.unwrap_or_default();
                // The leader may replace a relay meanwhile, because relays lose flags.
                let now = relays(&self.stored().await?);
                allowed.iter_mut().zip(now).for_each(|(all, now)| all.extend(now));
                let circuits = circuits.iter().filter(|line| line.contains(" BUILT ") && line.contains(" PURPOSE=HS_"));
                let circuits: Vec<_> = circuits.collect();
                let leaves = |line: &&&String| !runs_through(line, &allowed);
                let wrong = circuits.iter().find(leaves).map(ToString::to_string);
                ensure!(
                    wrong.is_none() || looks == 0,
                    "a circuit of tor {number} leaves the layers {allowed:?}: {wrong:?}"
                );
                if let Some(wrong) = wrong {
                    return Ok(Seen::NotYet(format!("{wrong} leaves {allowed:?}")));
                }
                // The frontends' tors have circuits only when they publish.
                if number < BACKENDS && circuits.len() < CIRCUITS {
                    return Ok(Seen::NotYet(format!("there are only {circuits:?}")));
                }
                looks += 1;
                Ok(if looks < LOOKS { Seen::not_yet("looking again") } else { Seen::Yes(()) })
            })
            .await?;
        }
        Ok(())
    }

    /// A tor that restarts forgets the options.
    async fn a_restarted_tor_uses_the_same_vanguards(&self) -> Result<()> {
        self.pods.plane.stop_backends_tor(RESTARTED).await?;
        self.pods.plane.restart_backends_tor(RESTARTED)?;
        until("the restarted tor answers", PATIENCE, async || {
            let tor = self.pods.plane.backend_control(RESTARTED).await;
            Ok(tor.map_or_else(|error| Seen::not_yet(format!("{error:#}")), |_| Seen::Yes(())))
        })
        .await?;
        self.until_all_agree("after a restart").await.map(drop)
    }

    /// Replaces relays of both layers while clients connect again and again. When the time period
    /// changes, requests fail for another reason, so the relays are then replaced once more.
    async fn no_request_fails_when_relays_are_replaced(&self) -> Result<()> {
        loop {
            let (begun, is_over) = (wall_clock()?, Cell::new(false));
            let ((requests, failures), differed) =
                tokio::try_join!(self.connect_until(&is_over), self.replace_relays(&is_over))?;
            println!("{} of {requests} requests failed; the pods differed for {differed:?}", failures.len());
            ensure!(differed <= DIFFER, "the pods used different vanguards for {differed:?}");
            if failures.is_empty() {
                return Ok(());
            }
            ensure!(!was_quiet(begun, wall_clock()?), "requests failed: {failures:?}");
            println!("the time period changed meanwhile, so the relays are replaced again: {failures:?}");
            sleep(until_quiet(wall_clock()?, REPLACEMENT)).await;
        }
    }

    /// Connects to the address with new clients until some time after the change. Returns the
    /// number of requests and the failures.
    async fn connect_until(&self, is_over: &Cell<bool>) -> Result<(usize, Vec<String>)> {
        let (mut requests, mut failures, mut clients_after) = (0, Vec::new(), 0);
        while clients_after < 2 {
            clients_after += usize::from(is_over.get());
            let client = self.pods.plane.client().await?;
            for number in 0..FETCHES_PER_CLIENT {
                requests += 1;
                if let Err(error) = client.fetch(self.pods.plane.onion(), &number.to_string()).await {
                    failures.push(format!("{error:#}"));
                }
            }
            client.remove().await?;
        }
        Ok((requests, failures))
    }

    /// Lets the time of some relays of each layer end, and waits until all tors use the
    /// replacements. Returns the longest time for which tors differed.
    async fn replace_relays(&self, is_over: &Cell<bool>) -> Result<Duration> {
        let (before, begun) = (self.stored().await?.id(), Instant::now());
        let (mut tors, mut since, mut longest) = (self.tors().await?, None, Duration::ZERO);
        self.end_relays_of_each_layer().await?;
        loop {
            ensure!(begun.elapsed() < REPLACED, "the vanguards have not changed");
            let mut sets = BTreeSet::new();
            for tor in &mut tors {
                sets.insert(used(tor).await?);
            }
            if sets.len() > 1 {
                since.get_or_insert_with(Instant::now);
            } else if let Some(since) = since.take() {
                longest = longest.max(since.elapsed());
            }
            let stored = self.stored().await?;
            let is_replaced = Layer::ALL.iter().flat_map(|layer| stored.of(*layer)).all(|relay| relay.expires > ENDED);
            if is_replaced && sets == BTreeSet::from([relays(&stored)]) {
                if stored.id() != before {
                    is_over.set(true);
                    return Ok(longest);
                }
                // In a small network, the same relays may be chosen again.
                self.end_relays_of_each_layer().await?;
            }
            sleep(LOOK).await;
        }
    }

    /// Writes the vanguards into the Secret with other dates, as if the time of the first relays
    /// of each layer were over.
    async fn end_relays_of_each_layer(&self) -> Result<()> {
        let stored = self.stored().await?;
        let dated = |layer: Layer| -> Vec<Vanguard> {
            let relays = stored.of(layer).iter().enumerate();
            relays
                .map(|(index, relay)| Vanguard {
                    expires: if index < ENDING { ENDED } else { relay.expires },
                    ..*relay
                })
                .collect()
        };
        let changed = Vanguards::new(dated(Layer::Second), dated(Layer::Third))?;
        self.pods.change_guards_secret(&vanguards_to_data(&changed, self.pods.plane.token())).await
    }
}

/// Returns the relays of each layer.
fn relays(vanguards: &Vanguards) -> Relays {
    let name = |relay: &Vanguard| data_encoding::HEXUPPER.encode(&relay.identity);
    Layer::ALL.map(|layer| vanguards.of(layer).iter().map(name).collect())
}

/// Returns the relays that a tor uses as second and third hops.
async fn used(tor: &mut Control) -> Result<Relays> {
    let mut relays = Relays::default();
    for (layer, option) in relays.iter_mut().zip(OPTIONS) {
        let reply = tor.ask(&format!("GETCONF {option}")).await?.with_context(|| format!("tor rejects {option}"))?;
        let value = reply.first().and_then(|line| line.split_once('=')).map_or("", |(_, value)| value);
        layer.extend(value.split(',').filter_map(|relay| relay.strip_prefix('$')).map(ToOwned::to_owned));
    }
    Ok(relays)
}

/// Returns true if the second and third hops of a circuit in `GETINFO circuit-status` are in the
/// layers, and a relay follows them.
fn runs_through(circuit: &str, layers: &Relays) -> bool {
    let path = circuit.split(' ').nth(2).unwrap_or_default();
    let hops: Vec<_> = path.split(',').map(|hop| hop.trim_start_matches('$').split(['~', '=']).next()).collect();
    hops.len() > 3 && layers.iter().zip(&hops[1..]).all(|(layer, hop)| hop.is_some_and(|hop| layer.contains(hop)))
}
