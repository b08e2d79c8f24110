//! The setting in which faults are injected: a service on the cluster, a plain onion service for
//! comparison, clients of both, and the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use data_encoding::HEXUPPER;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use onionbalance_operator::link::{AgentToken, Guard, GuardSample, Revision};
use onionbalance_operator::onion::ClientPublicKey;

use super::clients::Clients;
use super::effort::Effort;
use super::hops::{of_pods, primary_guards_of_pods};
use super::judge::{HeldDescriptor, Judge};
use super::needs::Needs;
use super::plain::PlainService;
use super::target::{Mood, Target};
use super::traffic::Onions;
use crate::agent;
use crate::bringup::tor_network;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::node::Node;
use crate::process::Processes;
use crate::service::{BackendPod, Service};
use crate::state::State;
use crate::steps::step;
use crate::torclient::TorClient;
use crate::tornet::TorNetwork;
use crate::wait::{Seen, until};

/// The name of the `OnionBalancedService` under test.
const NAME: &str = "web";
/// The settings of the probe, unless a fault changes them. A failure ends within two minutes after
/// the repair, so that it does not reach into the next run.
pub const PROBE: &str = r#"{"periodSeconds":60,"timeoutSeconds":60,"http":null}"#;
/// The torrc line with the time after which all tors of the stage but the relays give up a circuit
/// of three hops. On the public network, tor learns such a time from its own circuits. Here, it
/// would learn some milliseconds. A circuit of four hops gets twice the time (C tor's
/// `circuit_expire_building`).
const CIRCUITS: &str = "CircuitBuildTimeout 3";
/// The time limit for pods to start, bootstrap and be published.
const PUBLISHED: Duration = Duration::from_secs(240);

/// Everything that a fault acts on, and everything that observes the effect.
pub struct Stage {
    /// The `kubectl` command with the administrator's credentials.
    pub kubectl: Kubectl,
    /// The cluster on which the service runs.
    pub cluster: Cluster,
    /// The node of the cluster.
    pub node: Node,
    /// The processes of the environment, and the tor processes that this stage adds.
    pub processes: Processes,
    /// The private Tor network.
    pub network: TorNetwork,
    /// The namespace of the service.
    pub namespace: String,
    /// The service under test.
    pub service: Service,
    /// The onion addresses of both services.
    pub onions: Onions,
    /// The clients of both services.
    pub clients: Arc<Clients>,
    /// The length of the runs on this stage, and their number of requests and clients.
    pub effort: Effort,
    token: AgentToken,
    plain: PlainService,
    judge: Judge,
    target: Target,
}

impl Stage {
    /// Sets up everything in an existing namespace on a cluster that runs the operator.
    pub async fn set_up(state: &State, namespace: &str, needs: Needs, effort: Effort) -> Result<Self> {
        let (cluster, processes) = (Cluster::open(state)?, Processes::open(state.dir())?);
        let (kubectl, network) = (cluster.kubectl(), tor_network(state)?);
        let (torrc, dir) = (format!("{}{CIRCUITS}\n", network.torrc_lines()?), state.dir().join(namespace));
        let target = Target::listen().await?;
        // `prepare` adds further frontends, which then find the shared guards.
        let object = format!(
            "apiVersion: onionbalance.dev/v1alpha1\nkind: OnionBalancedService\nmetadata: {{name: {NAME}}}\nspec:\n  \
             ports: [{{port: 80, target: {{address: \"{}\"}}}}]\n  backends: {{replicas: {}, \
             extraTorrc: {CIRCUITS}}}\n  frontend: {{replicas: 1, probe: {PROBE}, extraTorrc: {CIRCUITS}}}\n",
            target.address(),
            needs.backends
        );
        kubectl.run_with_input(&["--namespace", namespace, "apply", "-f", "-"], &object).await?;
        let service = Service::new(&cluster.client().await?, namespace, NAME);

        // The other tors start later, so that the first pods choose their guards in peace.
        step("our service is published", service.wait_published(needs.backends, PUBLISHED)).await?;
        let pods = service.pods().await?.iter().filter_map(Pod::uid).collect();
        let ours = primary_guards_of_pods(&pods).await?.into_values().flatten().collect();
        let guards = guards_but(&network.relays()?, &ours)?;
        let (name, folder) = (format!("{namespace}-plain"), dir.join("plain"));
        let plain = PlainService::start(&processes, (&name, &folder), &torrc, target.plain_address(), &guards);
        let plain = step("the plain onion service", plain).await?;
        let clients =
            step("clients", Clients::start(&processes, namespace, &dir, &torrc, effort.fresh_clients)).await?;
        let name = format!("{namespace}-judge");
        let judge = TorClient::fresh(&processes, &name, &dir.join("judge"), &torrc, None).await?;
        let onions = Onions { ours: service.onion_address().await?, plain: plain.onion().to_owned() };
        let judge = Judge::start(judge, &onions.ours, network.fingerprints()?.keys()).await?;
        Ok(Self {
            token: service.agent_token().await?,
            node: Node::open(state)?,
            namespace: namespace.to_owned(),
            clients: Arc::new(clients),
            effort,
            kubectl,
            cluster,
            processes,
            network,
            service,
            onions,
            plain,
            judge,
            target,
        })
    }

    /// Stops the clients, the judge and the plain onion service. The caller deletes the
    /// `OnionBalancedService` together with its namespace.
    pub async fn tear_down(self) -> Result<()> {
        self.judge.remove().await?;
        self.clients.remove().await?;
        self.plain.remove().await
    }

    /// Runs kubectl in the service's namespace. `arguments` are separated by single spaces.
    pub async fn run(&self, arguments: &str) -> Result<String> {
        self.kubectl.run(&format!("--namespace {} {arguments}", self.namespace)).await
    }

    /// Returns the `address:port` of the web server behind our service.
    pub fn target(&self) -> &str {
        self.target.address()
    }

    /// Returns the client with the most open requests to our service, and their number. The client
    /// is the source address of the PROXY header.
    pub fn busiest(&self) -> Option<(String, usize)> {
        self.target.busiest()
    }

    /// Changes how the web servers behind both services treat new streams.
    pub fn set_mood(&self, mood: Mood) {
        self.target.set_mood(mood);
    }

    /// Changes the number of backends without waiting for them.
    pub async fn scale(&self, backends: usize) -> Result<()> {
        self.run(&format!("scale obs/{NAME} --replicas={backends}")).await.map(drop)
    }

    /// Changes settings of the probe (JSON without spaces).
    pub async fn set_probe(&self, settings: &str) -> Result<()> {
        let patch = format!(r#"{{"spec":{{"frontend":{{"probe":{settings}}}}}}}"#);
        self.run(&format!("patch obs/{NAME} --type=merge --patch={patch}")).await.map(drop)
    }

    /// Sets further settings of the port (JSON that begins with a comma, or nothing) and the limits
    /// of circuits (JSON). Both without spaces.
    pub async fn set_port(&self, settings: &str, limits: &str) -> Result<()> {
        let ports = format!(r#"[{{"port":80,"target":{{"address":"{}"}}{settings}}}]"#, self.target());
        let patch = format!(r#"{{"spec":{{"ports":{ports},"backends":{{"circuitLimits":{limits}}}}}}}"#);
        self.run(&format!("patch obs/{NAME} --type=merge --patch={patch}")).await.map(drop)
    }

    /// Returns the plain onion service.
    pub fn plain(&self) -> &PlainService {
        &self.plain
    }

    /// Restricts discovery to these clients. Without clients, discovery is open.
    pub async fn restrict(&self, clients: &[ClientPublicKey]) -> Result<()> {
        let list: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, key)| format!(r#"{{"name":"client{number}","publicKey":"{key}"}}"#))
            .collect();
        let restriction =
            if list.is_empty() { "null".to_owned() } else { format!(r#"{{"clients":[{}]}}"#, list.join(",")) };
        let patch = format!(r#"{{"spec":{{"restrictedDiscovery":{restriction}}}}}"#);
        self.run(&format!("patch obs/{NAME} --type=merge --patch={patch}")).await.map(drop)
    }

    /// Returns the judge.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Scales frontends and backends to the numbers that a fault needs, and waits until the
    /// descriptors contain introduction points of every backend.
    pub async fn prepare(&self, needs: Needs) -> Result<()> {
        self.run(&format!("scale obs/{NAME} --replicas={}", needs.backends)).await?;
        let patch = format!(r#"{{"spec":{{"frontend":{{"replicas":{}}}}}}}"#, needs.frontends);
        self.run(&format!("patch obs/{NAME} --type=merge --patch={patch}")).await?;
        self.service.wait_published(needs.backends, PUBLISHED).await?;
        self.service.wait_condition("Ready", "True", PUBLISHED).await?;
        self.service.wait_condition("Reachable", "True", PUBLISHED).await?;
        self.wait_frontends(needs.frontends).await?;
        until("each backend's points are in the descriptors", PUBLISHED, async || {
            let held = self.held_points()?;
            for backend in self.service.backends().await? {
                if self.points_of(&backend).await?.is_disjoint(&held) {
                    return Ok(Seen::NotYet(format!(
                        "none of the {} published points belongs to {}",
                        held.len(),
                        backend.name
                    )));
                }
            }
            Ok(Seen::Yes(()))
        })
        .await
    }

    /// Makes the clients fetch the current descriptors.
    pub async fn refresh_clients(&self) -> Result<()> {
        self.clients.refresh([&self.onions.ours, &self.onions.plain]).await
    }

    async fn wait_frontends(&self, wanted: usize) -> Result<()> {
        until(&format!("{wanted} frontends are Ready"), PUBLISHED, async || {
            let path = "jsonpath={.spec.replicas}/{.status.readyReplicas}/{.status.replicas}";
            let seen = self.run(&format!("get deployment/{NAME}-frontend -o {path}")).await?;
            let done = seen == format!("{wanted}/{wanted}/{wanted}");
            Ok(if done { Seen::Yes(()) } else { Seen::NotYet(seen) })
        })
        .await
    }

    /// Returns the names of the introduction points that a backend's tor currently has.
    pub async fn points_of(&self, backend: &BackendPod) -> Result<BTreeSet<String>> {
        agent::points(&backend.address, &backend.uid, &self.token).await
    }

    /// Returns the revision of a backend's descriptor, which changes whenever its introduction
    /// points do.
    pub async fn revision_of(&self, backend: &BackendPod) -> Result<Revision> {
        agent::revision(&backend.address, &backend.uid, &self.token).await
    }

    /// Returns a backend that has introduction points in the descriptors, and the names of these
    /// points.
    pub async fn victim(&self) -> Result<(BackendPod, BTreeSet<String>)> {
        let held = self.held_points()?;
        for backend in self.service.backends().await? {
            let published: BTreeSet<_> = self.points_of(&backend).await?.intersection(&held).cloned().collect();
            if !published.is_empty() {
                return Ok((backend, published));
            }
        }
        anyhow::bail!("no backend has a point in the descriptors")
    }

    /// Returns true if the liveness probe of the frontends' tor has its own grace period.
    pub async fn probe_has_grace_period(&self) -> Result<bool> {
        let tor = r#"{.spec.template.spec.containers[?(@.name=="tor")]"#;
        let path = format!("jsonpath={tor}.livenessProbe.terminationGracePeriodSeconds}}");
        Ok(!self.run(&format!("get deployment/{NAME}-frontend -o {path}")).await?.trim().is_empty())
    }

    /// Returns the name and UID of the frontend pod that holds the Lease.
    pub async fn leader(&self) -> Result<(String, String)> {
        let holder = self.run(&format!("get lease/{NAME}-frontend -o jsonpath={{.spec.holderIdentity}}")).await?;
        let (name, uid) =
            holder.split_once('_').with_context(|| format!("the Lease has an unexpected holder {holder:?}"))?;
        Ok((name.to_owned(), uid.to_owned()))
    }

    /// Returns the descriptor that each HSDir holds for the period that clients use, by the HSDir's
    /// fingerprint.
    pub fn held(&self) -> Result<BTreeMap<String, HeldDescriptor>> {
        self.judge.held_for_clients()
    }

    /// Maps the fingerprints of the relays that a fault of HSDirs may affect to their nicknames.
    /// The loss of a relay through which a service enters the network is another fault. Without a
    /// majority of the authorities, there would be no consensus.
    pub async fn relays_but_guards(&self) -> Result<BTreeMap<String, String>> {
        let uids: BTreeSet<_> = self.service.pods().await?.iter().filter_map(Pod::uid).collect();
        let ours = of_pods(&uids).await?.into_values();
        let guards: BTreeSet<_> = ours.chain([self.plain().hops().await?]).flat_map(|hops| hops.in_use).collect();
        let mut relays = self.network.relays()?;
        relays.retain(|relay, _| !guards.contains(relay));
        Ok(relays)
    }

    /// Returns the highest revision counter among the descriptors that the HSDirs hold.
    pub fn newest(&self) -> Result<u64> {
        Ok(self.held()?.values().map(|held| held.revision_counter).max().unwrap_or_default())
    }

    /// Returns the names of the introduction points in the HSDirs' descriptors.
    pub fn held_points(&self) -> Result<BTreeSet<String>> {
        Ok(self.held()?.into_values().flat_map(|held| held.points).collect())
    }
}

/// Returns the guards with which the plain onion service starts: all but those of our service. If
/// the first guards of both services fail, each service then loses only one. `relays` are the
/// nicknames of the relays, by fingerprint. On a node, authorities are no guards.
#[allow(clippy::disallowed_methods, reason = "tor compares the date with the wall clock")]
fn guards_but(relays: &BTreeMap<String, String>, ours: &BTreeSet<String>) -> Result<GuardSample> {
    const A_DAY: u64 = 24 * 60 * 60;
    let sampled_on = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() - A_DAY;
    let others = relays.iter().filter(|(relay, _)| !ours.contains(*relay));
    let guards = others.map(|(relay, nickname)| {
        let identity = HEXUPPER.decode(relay.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Guard {
            identity: identity.with_context(|| format!("{relay} is no fingerprint"))?,
            nickname: nickname.clone(),
            sampled_on,
            sampled_by: String::new(),
            unlisted_since: None,
            confirmed_on: None,
        })
    });
    let guards: Vec<_> = guards.collect::<Result<_>>()?;
    ensure!(!guards.is_empty(), "every relay is a guard of our service");
    Ok(GuardSample::new(guards)?)
}
