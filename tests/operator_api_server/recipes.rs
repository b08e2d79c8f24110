//! The shell blocks of `docs/operations.md`, as they stand: each section's in a folder of its own, with a kubeconfig of the test's
//! namespace, kubectl, and our program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use curve25519_dalek::Scalar;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::ObjectMeta;
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{PATIENCE, Scene};
use crate::server::{kubeconfig_as, source_tree};
use crate::wait::until;

/// The sections with shell blocks, in their order, with how many. Each is run by a test below.
const SECTIONS: [(&str, usize); 10] = [
    ("Back up a key", 2),
    ("Restore a key", 3),
    ("Change the address on purpose", 1),
    ("Give an address up", 2),
    ("From a plain tor", 1),
    ("From Python Onionbalance", 1),
    ("From tor-controller", 2),
    ("From tor-operator", 2),
    ("Scale, suspend, upgrade", 2),
    ("What is wrong", 1),
];

/// The shell blocks by section.
fn blocks() -> Vec<(String, Vec<String>)> {
    let page = std::fs::read_to_string(source_tree().join("docs/operations.md")).unwrap();
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(text), "```") => {
                sections.last_mut().expect("a heading").1.push(std::mem::take(text));
                block = None;
            }
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, line) if line.starts_with('#') => {
                sections.push((line.trim_start_matches('#').trim().to_owned(), Vec::new()));
            }
            (None, _) => {}
        }
    }
    sections.retain(|(_, blocks)| !blocks.is_empty());
    sections
}

#[test]
fn every_section_with_commands_is_run() {
    let found: Vec<_> = blocks().into_iter().map(|(heading, blocks)| (heading, blocks.len())).collect();
    assert_eq!(found, SECTIONS.map(|(heading, count)| (heading.to_owned(), count)));
}

/// Somebody at a terminal, in a folder of their own.
struct Person {
    folder: TempDir,
}

impl Person {
    fn new(namespace: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        let program = env!("CARGO_BIN_EXE_onionbalance-operator");
        std::os::unix::fs::symlink(program, programs.join("onionbalance-operator")).unwrap();
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig_as(None, namespace).to_string()).unwrap();
        std::fs::create_dir(folder.path().join("here")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("here").join(name)
    }

    /// Runs the block of this number (from 0) of a section; each line must succeed. Gives what it prints.
    async fn run(&self, section: &str, number: usize) -> String {
        let (_, blocks) = blocks().into_iter().find(|(heading, _)| heading == section).expect("the section");
        self.shell(&blocks[number]).await
    }

    async fn shell(&self, script: &str) -> String {
        let path = format!("{}/programs:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path().join("here"));
        shell.env("PATH", path).env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        shell.env("HOME", self.folder.path()).stdin(Stdio::null());
        let done = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
        let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{script}\n{out}\n{err}");
        out
    }
}

fn key(seed: u64) -> MasterKey {
    MasterKey::generate(&mut StdRng::seed_from_u64(seed))
}

async fn create_secret(scene: &Scene, metadata: ObjectMeta, kind: Option<&str>, data: &[(&str, &[u8])]) {
    let entries = data.iter().map(|(name, bytes)| ((*name).to_owned(), ByteString(bytes.to_vec())));
    let data: BTreeMap<_, _> = entries.collect();
    let type_ = kind.map(ToOwned::to_owned);
    let secret = Secret { metadata, type_, data: Some(data), ..Secret::default() };
    scene.api().create(&PostParams::default(), &secret).await.unwrap();
}

/// As another operator's Secret is: its own object's, with which it goes.
fn metadata(name: &str, api_version: &str, kind: &str, labels: Value) -> ObjectMeta {
    let owner = json!({"apiVersion": api_version, "kind": kind, "name": "example", "uid": "b6a2", "controller": true,
        "blockOwnerDeletion": true});
    serde_json::from_value(json!({"name": name, "labels": labels, "ownerReferences": [owner]})).unwrap()
}

/// The Secret `web-master-key` has this key and no owner; an object `web` serves the address.
async fn serves(scene: &Scene, key: &MasterKey) {
    let secret = scene.api::<Secret>().get("web-master-key").await.unwrap();
    assert_eq!(secret.metadata.owner_references, None);
    assert_eq!(secret.data.unwrap()["hs_ed25519_secret_key"].0, *key.to_tor_secret_key_file());
    scene.create("web", json!({})).await;
    assert_eq!(scene.address("web").await, key.address().to_string());
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
}

async fn delete_secret(scene: &Scene, name: &str) {
    scene.api::<Secret>().delete(name, &DeleteParams::default()).await.unwrap();
}

/// Deletes the object, as the garbage collector does its children.
async fn delete_service(scene: &Scene) {
    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    scene.collect_garbage("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_backed_up_and_restored() {
    let scene = Scene::set("backup").await;
    let person = Person::new(&scene.namespace);
    // The policy makes the Secret the object's: restored as it was, Kubernetes would delete it again.
    scene.create("web", json!({"deletionPolicy": "Delete"})).await;
    let address = scene.address("web").await;
    scene.wait_for("web-master-key", |secret: &Secret| secret.metadata.owner_references.is_some()).await;
    let said = person.run("Back up a key", 0).await;
    assert_eq!(said, format!("{address}\nweb-master-key.yaml: ok, {address}\n"));
    person.run("Back up a key", 1).await;
    let whole = "umask 077; kubectl get secret web-master-key -o yaml >whole.yaml; ! onionbalance-operator key check whole.yaml";
    let faults = person.shell(whole).await;
    assert!(faults.contains("together with its owner") && faults.contains("OnionBalancedService web"), "{faults}");

    // The Secret is lost, and comes back under the object.
    delete_secret(&scene, "web-master-key").await;
    scene.wait_condition("web", "MasterKeyReady", "False SecretNotFound").await;
    person.run("Restore a key", 0).await;
    let said = person.run("Restore a key", 2).await;
    assert!(said.ends_with(&address), "{said}");

    // All is lost; the Secret is there before the object, from the other form of the backup.
    delete_service(&scene).await;
    delete_secret(&scene, "web-master-key").await;
    person.run("Restore a key", 1).await;
    scene.create("web", json!({"deletionPolicy": "Delete"})).await;
    let said = person.run("Restore a key", 2).await;
    assert!(said.ends_with(&address), "{said}");
    scene.wait_children("web").await;
    let secret = scene.api::<Secret>().get("web-master-key").await.unwrap();
    assert_eq!((secret.immutable, secret.metadata.owner_references), (None, None), "it is the user's");

    // What Retain leaves can be restored from a plain copy, with kubectl alone.
    delete_service(&scene).await;
    delete_secret(&scene, "web-master-key").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    scene.wait_children("web").await;
    person.shell("kubectl get secret web-master-key -o yaml >plain.yaml").await;
    delete_service(&scene).await;
    delete_secret(&scene, "web-master-key").await;
    person.shell("kubectl create -f plain.yaml").await;
    scene.create("web", json!({})).await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_changes_on_purpose_only() {
    let scene = Scene::set("rotation").await;
    let person = Person::new(&scene.namespace);
    scene.create("web", json!({})).await;
    let old = scene.address("web").await;
    scene.wait_children("web").await;
    let hash = |deployment: &Deployment| {
        let template = deployment.spec.clone().unwrap().template.metadata.unwrap();
        template.annotations.unwrap()["onionbalance.dev/config-hash"].clone()
    };
    let hashes = async || {
        let deployments = scene.api::<Deployment>();
        let [frontend, backend] = ["web-frontend", "web-backend"].map(|name| deployments.get(name));
        [hash(&frontend.await.unwrap()), hash(&backend.await.unwrap())]
    };
    let before = hashes().await;

    let said = person.run("Change the address on purpose", 0).await;
    let new = said.lines().next().unwrap().to_owned();
    assert_ne!(new, old);
    until("the new address", PATIENCE, async || {
        let status = scene.status("web").await;
        if status.onion_address.as_ref() == Some(&new) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    let frontend = scene.wait_for("web-frontend", |deployment| hash(deployment) != before[0]).await;
    scene.wait_for("web-backend", |deployment| hash(deployment) != before[1]).await;
    let template = serde_json::to_string(&frontend.spec.unwrap().template).unwrap();
    assert!(template.contains("web-key-2") && template.contains(&new) && !template.contains(&old), "{template}");
    scene.api::<Secret>().get("web-master-key").await.expect("the old key stays");

    // The way back.
    let back = json!({"spec": {"masterKey": {"secretName": null, "onionAddress": old}}});
    scene.change("web", back).await;
    until("the old address", PATIENCE, async || {
        let status = scene.status("web").await;
        if status.onion_address.as_ref() == Some(&old) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;

    // And the end of both.
    person.run("Give an address up", 0).await;
    scene.wait_for("web-master-key", |secret: &Secret| secret.metadata.owner_references.is_some()).await;
    person.run("Give an address up", 1).await;
    let left = scene.api::<Secret>().list(&ListParams::default()).await.unwrap();
    assert!(left.items.iter().all(|secret| secret.metadata.name.as_deref() != Some("web-master-key")));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_tors_key_is_taken() {
    let scene = Scene::set("from-tor").await;
    let person = Person::new(&scene.namespace);
    let directory = person.path("hidden_service");
    have_tor_make_a_key(&directory).await;
    let said = person.run("From a plain tor", 0).await;
    assert!(said.contains("hidden_service: ok, "), "{said}");
    let file = std::fs::read(directory.join("hs_ed25519_secret_key")).unwrap();
    let key = MasterKey::from_tor_secret_key_file(&file).unwrap();
    let hostname = std::fs::read_to_string(directory.join("hostname")).unwrap();
    assert_eq!(hostname.trim_end(), key.address().to_string());
    serves(&scene, &key).await;
    scene.end().await;
}

/// A real tor makes it, without any network.
async fn have_tor_make_a_key(directory: &Path) {
    let parent = directory.parent().unwrap();
    let empty = parent.join("torrc");
    std::fs::write(&empty, "").unwrap();
    let mut tor = Command::new("tor");
    tor.arg("-f").arg(&empty).arg("--defaults-torrc").arg(&empty).args(["--DisableNetwork", "1", "--SocksPort", "0"]);
    tor.arg("--DataDirectory").arg(parent.join("data")).arg("--HiddenServiceDir").arg(directory);
    let mut tor = tor.args(["--HiddenServicePort", "80"]).stdout(Stdio::null()).spawn().unwrap();
    until("tor makes an onion key", PATIENCE, async || {
        std::fs::read_to_string(directory.join("hostname")).map_err(|error| error.to_string())
    })
    .await;
    tor.kill().unwrap();
    tor.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn python_onionbalances_key_is_taken() {
    let scene = Scene::set("from-python").await;
    let person = Person::new(&scene.namespace);
    let script = source_tree().join("e2e/setup/python-onionbalance.sh");
    let python = person.shell(&script.display().to_string()).await;
    let generate = Path::new(python.trim()).with_file_name("onionbalance-config");
    person.shell(&format!("{} -n 1 --output config", generate.display())).await;

    person.run("From Python Onionbalance", 0).await;
    let mut files = std::fs::read_dir(person.path("config")).unwrap().map(|entry| entry.unwrap().file_name());
    let address = files.find_map(|name| Some(name.to_str()?.strip_suffix(".key")?.to_owned())).unwrap();
    scene.create("web", json!({})).await;
    assert_eq!(scene.address("web").await, format!("{address}.onion"));
    scene.end().await;
}

/// Every field of the Secret that tor-controller makes (v0.10): its type, its entries, its owner.
#[tokio::test(flavor = "multi_thread")]
async fn tor_controllers_key_is_taken() {
    let scene = Scene::set("from-controller").await;
    let person = Person::new(&scene.namespace);
    let key = key(1);
    let (address, secret_key, public_key) =
        (key.address().to_string(), key.to_tor_secret_key_file(), key.to_tor_public_key_file());
    let owned = metadata("example-tor-secret", "tor.k8s.torproject.org/v1alpha2", "OnionBalancedService", Value::Null);
    let data: [(&str, &[u8]); 5] = [
        ("onionAddress", address.as_bytes()),
        ("privateKey", &secret_key[32..]),
        ("privateKeyFile", &secret_key),
        ("publicKey", &public_key[32..]),
        ("publicKeyFile", &public_key),
    ];
    create_secret(&scene, owned, Some("tor.k8s.torproject.org/onion-v3"), &data).await;
    let before = scene.api::<Secret>().get("example-tor-secret").await.unwrap();

    person.run("From tor-controller", 0).await;
    delete_secret(&scene, "web-master-key").await;
    person.run("From tor-controller", 1).await;
    serves(&scene, &key).await;
    assert_eq!(scene.api::<Secret>().get("example-tor-secret").await.unwrap(), before, "it is copied, not moved");
    scene.end().await;
}

/// Every field of the Secret that tor-operator makes. Its library keeps the scalar reduced modulo the group's order, not clamped as
/// tor writes it.
#[tokio::test(flavor = "multi_thread")]
async fn tor_operators_key_is_taken() {
    let scene = Scene::set("from-operator").await;
    let person = Person::new(&scene.namespace);
    let mut secret_key = key(2).to_tor_secret_key_file().to_vec();
    let scalar: [u8; 32] = secret_key[32..64].try_into().unwrap();
    secret_key[32..64].copy_from_slice(Scalar::from_bytes_mod_order(scalar).as_bytes());
    let reduced = MasterKey::from_tor_secret_key_file(&secret_key).unwrap();
    assert_eq!(reduced.address(), key(2).address());
    let labels = json!({"app.kubernetes.io/component": "onion-key", "app.kubernetes.io/instance": "example",
        "app.kubernetes.io/managed-by": "tor-operator", "app.kubernetes.io/name": "tor"});
    let owned = metadata("tor-ingress-example", "tor.agabani.co.uk/v1", "OnionKey", labels);
    let (address, public_key) = (reduced.address().to_string(), reduced.to_tor_public_key_file());
    let data: [(&str, &[u8]); 3] = [
        ("hostname", address.as_bytes()),
        ("hs_ed25519_public_key", &public_key),
        ("hs_ed25519_secret_key", &secret_key),
    ];
    create_secret(&scene, owned, None, &data).await;
    let before = scene.api::<Secret>().get("tor-ingress-example").await.unwrap();

    person.run("From tor-operator", 0).await;
    delete_secret(&scene, "web-master-key").await;
    person.run("From tor-operator", 1).await;
    serves(&scene, &reduced).await;
    delete_service(&scene).await;
    // As the page says, it could be used as it is.
    scene.create("web", json!({"masterKey": {"secretName": "tor-ingress-example"}})).await;
    assert_eq!(scene.address("web").await, address);
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(scene.api::<Secret>().get("tor-ingress-example").await.unwrap(), before, "it is copied, not moved");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_scaled_suspended_and_looked_at() {
    let scene = Scene::set("day").await;
    let person = Person::new(&scene.namespace);
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let replicas = |wanted: i32| {
        move |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(wanted)
    };
    person.run("Scale, suspend, upgrade", 0).await;
    scene.wait_for("web-backend", replicas(5)).await;
    person.run("Scale, suspend, upgrade", 1).await;
    scene.wait_for("web-backend", replicas(0)).await;
    scene.wait_condition("web", "Published", "False Suspended").await;

    let said = person.run("What is wrong", 0).await;
    let kinds: BTreeSet<_> = said.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    for kind in ["Accepted", "MasterKeyReady", "BackendsReady", "Published", "Ready"] {
        assert!(kinds.contains(kind), "{kind}: {said}");
    }
    assert!(said.contains("Published=False Suspended: spec.suspend is true."), "{said}");
    scene.end().await;
}
