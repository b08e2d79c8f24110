//! Tests of the publishers' Lease. The publishers run as in frontend pods, with the permissions
//! that the operator has granted their account. However, they have no tor. The tests write the pod
//! statuses, as the kubelet would.

use std::cell::Cell;
use std::ops::Range;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use onionbalance_operator::crd::PUBLISHER_MANAGER;
use onionbalance_operator::crd::names::{Component, labels};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::scene::{PATIENCE, Scene};
use crate::server::kubeconfig_as;
use crate::wait::until;

const NAME: &str = "web-frontend";
const KEY_FILE: &str = "hs_ed25519_secret_key";
/// The time after which a Lease expires if it is not renewed.
const EXPIRY: Duration = Duration::from_secs(15);
/// The time between the last renewal and the takeover of an expired Lease, by the publishers' own
/// clocks. A standby reads the Lease every 2 s, so it takes over after about 15 to 19 s. On a busy
/// machine, each of its requests to the API server may take some seconds more.
const TAKEN_OVER: Range<Duration> = EXPIRY..Duration::from_secs(45);
const COUNTERS: &str = "onionbalance.dev/revision-counters";

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_publisher_releases_the_lease_to_its_successor() {
    let stage = Stage::start("lease-stop").await;
    let mut first = stage.publisher("a").await;
    let lease = stage.held_by(&first).await;
    assert!(
        lease.managed_fields().iter().all(|entry| entry.manager.as_deref() == Some(PUBLISHER_MANAGER)),
        "{lease:?}"
    );
    let second = stage.publisher("b").await;
    second.wait_metric("leading", 0).await;
    let counters = json!({"metadata": {"annotations": {COUNTERS: "20500=17,20501=4294967296123"}}});
    stage.leases().patch(NAME, &PatchParams::default(), &Patch::Merge(counters)).await.unwrap();

    first.signal(Signal::TERM);
    let released = first.wait_log("released the Lease").await;
    let status = timeout(PATIENCE, first.process.wait()).await.expect("the publisher ignored SIGTERM").unwrap();
    assert!(status.success(), "{status}");
    let lease = stage.held_by(&second).await;
    let after = between(released, acquired(&lease));
    assert!(after < EXPIRY / 2, "took over after {after:?}");
    second.wait_metric("leading", 1).await;
    assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(1));
    assert_eq!(lease.annotations()[COUNTERS], "20500=17,20501=4294967296123", "the revision counters must be kept");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_replaces_a_dead_leader_and_a_resumed_leader_stays_standby() {
    let stage = Stage::start("lease-dead").await;
    let first = stage.publisher("a").await;
    stage.held_by(&first).await;
    let mut second = stage.publisher("b").await;
    second.wait_metric("leading", 0).await;

    first.signal(Signal::STOP);
    let (_, after) = stage.taken_over_by(&second).await;
    assert!(TAKEN_OVER.contains(&after), "took over after {after:?}");
    first.signal(Signal::CONT);
    first.wait_metric("leading", 0).await;
    stage.held_by(&second).await;

    second.process.start_kill().unwrap();
    second.process.wait().await.unwrap();
    let (lease, after) = stage.taken_over_by(&first).await;
    assert!(TAKEN_OVER.contains(&after), "took over after {after:?}");
    assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(2));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_without_tor_yields_only_to_a_ready_publisher() {
    let stage = Stage::start("lease-unfit").await;
    let first = stage.publisher("a").await;
    let lease = stage.held_by(&first).await;
    let second = stage.publisher("b").await;
    second.wait_metric("leading", 0).await;
    stage.set_ready(&second, false).await;
    // Wait for more than 20 s of renewals, which are 5 s apart. By then, the holder would have
    // released the Lease to a Ready pod.
    let later = renewed(&lease) + Duration::from_secs(20);
    stage.scene.wait_for::<Lease>(NAME, |lease| renewed(lease) > later).await;
    assert_eq!(stage.holder().await, first.identity);

    // The kubelet would report a frontend pod with a bootstrapped tor as Ready.
    stage.set_ready(&second, true).await;
    stage.held_by(&second).await;
    first.wait_metric("leading", 0).await;
    // Neither publisher has a tor, and no other pod is Ready, so the holder keeps the Lease.
    let before = renewed(&stage.leases().get(NAME).await.unwrap());
    stage.scene.wait_for::<Lease>(NAME, |lease| renewed(lease) > before + Duration::from_secs(15)).await;
    assert_eq!(stage.holder().await, second.identity);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_a_foreign_lease_alone() {
    let stage = Stage::start("lease-foreign").await;
    // The Lease has no holder, so a publisher could acquire it immediately.
    let foreign = json!({
        "metadata": {"name": NAME, "labels": {"app": "another"}},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 1},
    });
    let foreign: Lease = serde_json::from_value(foreign).unwrap();
    let before = stage.leases().create(&PostParams::default(), &foreign).await.unwrap();
    let mut publisher = stage.publisher("a").await;
    publisher.wait_log("web-frontend exists and does not belong to this service").await;
    publisher.wait_metric("leading", 0).await;
    let touch = json!({"metadata": {"annotations": {"example.org/touch": "1"}}});
    stage.scene.change("web", touch).await;
    let message = stage.scene.wait_condition("web", "Accepted", "False NameTaken").await;
    assert!(message.starts_with("Lease web-frontend exists and does not belong to this object"), "{message}");
    stage.scene.wait_condition("web", "Ready", "False NameTaken").await;
    let after = stage.leases().get(NAME).await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version());

    // The holder stops leading when its Lease is replaced by a foreign one.
    stage.leases().delete(NAME, &DeleteParams::default()).await.unwrap();
    stage.held_by(&publisher).await;
    publisher.wait_metric("leading", 1).await;
    stage.scene.wait_condition("web", "Accepted", "True Valid").await;
    let others = json!({"metadata": {"labels": labels("other", Some(Component::Frontend))}});
    stage.leases().patch(NAME, &PatchParams::default(), &Patch::Merge(others)).await.unwrap();
    publisher.wait_metric("leading", 0).await;
    stage.end().await;
}

/// Returns the time of the last renewal, by the holder's clock.
fn renewed(lease: &Lease) -> Timestamp {
    lease.spec.as_ref().unwrap().renew_time.as_ref().unwrap().0
}

/// Returns the time of the acquisition, by the holder's clock.
fn acquired(lease: &Lease) -> Timestamp {
    lease.spec.as_ref().unwrap().acquire_time.as_ref().unwrap().0
}

fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).try_into().unwrap()
}

/// Returns the account of the publishers in a namespace.
pub fn account(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:{NAME}")
}

/// A service whose frontend pods are simulated by the test.
pub struct Stage {
    pub scene: Scene,
    /// The folder that holds the master key and the kubeconfig.
    dir: tempfile::TempDir,
}

impl Stage {
    async fn start(name: &str) -> Self {
        Self::start_with(name, json!({"frontend": {"replicas": 2}})).await
    }

    /// Starts a stage whose service has the given fields in its spec.
    pub async fn start_with(name: &str, spec: Value) -> Self {
        let scene = Scene::start(name).await;
        scene.create("web", spec).await;
        scene.wait_children("web").await;
        let dir = tempfile::tempdir().unwrap();
        let key = scene.wait_for::<Secret>("web-master-key", |_| true).await.data.unwrap();
        std::fs::write(dir.path().join(KEY_FILE), &key[KEY_FILE].0).unwrap();
        let account = account(&scene.namespace);
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig_as(Some(&account), &scene.namespace).to_string())
            .unwrap();
        Self { scene, dir }
    }

    pub async fn end(self) {
        self.scene.end().await;
    }

    fn leases(&self) -> Api<Lease> {
        self.scene.api()
    }

    async fn holder(&self) -> String {
        self.leases().get(NAME).await.unwrap().spec.unwrap().holder_identity.unwrap()
    }

    async fn held_by(&self, publisher: &Publisher) -> Lease {
        let holds = |lease: &Lease| lease.spec.as_ref().unwrap().holder_identity.as_ref() == Some(&publisher.identity);
        self.scene.wait_for::<Lease>(NAME, holds).await
    }

    /// Waits until a publisher has taken over the Lease from another holder. Returns the Lease, and
    /// the time between the other holder's last renewal and the takeover.
    async fn taken_over_by(&self, publisher: &Publisher) -> (Lease, Duration) {
        let last = Cell::new(renewed(&self.leases().get(NAME).await.unwrap()));
        until(&format!("{} takes over", publisher.name), PATIENCE, async || {
            let lease = self.leases().get(NAME).await.map_err(|error| error.to_string())?;
            if lease.spec.as_ref().unwrap().holder_identity.as_ref() == Some(&publisher.identity) {
                let after = between(last.get(), acquired(&lease));
                return Ok((lease, after));
            }
            last.set(renewed(&lease));
            Err(format!("{:?}", lease.spec))
        })
        .await
    }

    /// Gives the publishers' tor a guard, and makes the publishers that start later share it.
    /// Returns the guard's fingerprint.
    pub fn share_guards(&self) -> String {
        for name in ["guards", "data"] {
            std::fs::create_dir_all(self.dir.path().join(name)).unwrap();
        }
        let (fingerprint, now) = ("AB".repeat(20), Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S").to_string());
        let line = format!("Guard in=default rsa_id={fingerprint} sampled_on={now} sampled_idx=0 listed=1\n");
        std::fs::write(self.dir.path().join("data/state"), line).unwrap();
        fingerprint
    }

    /// Creates a frontend pod that is not Ready, and starts its publisher.
    pub async fn publisher(&self, suffix: &str) -> Publisher {
        let name = format!("{NAME}-{suffix}");
        let pod = json!({
            "metadata": {"name": name, "labels": labels("web", Some(Component::Frontend))},
            "spec": {
                "serviceAccountName": NAME, "automountServiceAccountToken": false,
                "containers": [{"name": "publisher", "image": "operator:1"}],
            },
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let uid = self.scene.api::<Pod>().create(&PostParams::default(), &pod).await.unwrap().uid().unwrap();
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [probes, metrics] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        drop(listeners);
        let mut program = Command::new(env!("CARGO_BIN_EXE_onionbalance-operator"));
        program.args(["frontend", "--service", "web", "--namespace", &self.scene.namespace]);
        program.args(["--pod-name", &name, "--pod-uid", &uid, "--listen-address", "127.0.0.1"]);
        program.args(["--probe-port", &probes.port().to_string(), "--metrics-port", &metrics.port().to_string()]);
        program.arg("--tor-data-dir").arg(self.dir.path().join("data"));
        program.arg("--guards-dir").arg(self.dir.path().join("guards"));
        program.arg("--master-key-dir").arg(self.dir.path()).arg("--run-dir").arg(self.dir.path().join("run"));
        program.env("KUBECONFIG", self.dir.path().join("kubeconfig")).env("NO_COLOR", "1");
        program.stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = program.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Publisher { process, log, metrics, identity: format!("{name}_{uid}"), name }
    }

    async fn set_ready(&self, publisher: &Publisher, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let pods: Api<Pod> = self.scene.api();
        pods.patch_status(&publisher.name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

/// A running publisher, which is killed when this value is dropped.
pub struct Publisher {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    metrics: std::net::SocketAddr,
    name: String,
    /// The holder identity of this publisher in the Lease.
    identity: String,
}

impl Publisher {
    fn signal(&self, signal: Signal) {
        let pid =
            self.process.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).expect("the publisher has ended");
        kill_process(pid, signal).unwrap();
    }

    /// Waits until a metric of this publisher has the given value.
    async fn wait_metric(&self, figure: &str, value: u64) {
        let line = format!("onionbalance_publisher_{figure} {value}\n");
        until(&format!("{}: {line}", self.name), PATIENCE, async || {
            let mut text = String::new();
            let mut stream = TcpStream::connect(self.metrics).await.map_err(|error| error.to_string())?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.map_err(|error| error.to_string())?;
            stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
            if text.contains(&line) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// Waits until a line of this publisher's log contains the given words. Returns the time at
    /// which the publisher logged the line.
    pub async fn wait_log(&mut self, words: &str) -> Timestamp {
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(words) {
                    return line.split(' ').next().unwrap().parse().unwrap();
                }
            }
            panic!("the publisher ended without logging {words:?}");
        });
        found.await.unwrap_or_else(|_| panic!("the publisher did not log {words:?} in time"))
    }
}
