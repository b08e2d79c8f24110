//! Runs the shell blocks of `docs/operations.md` verbatim. The blocks of each section run in their
//! own folder, with kubectl, our plugin, and a kubeconfig for the test's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use curve25519_dalek::Scalar;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::onion::MasterKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{PATIENCE, Scene};
use crate::server::{kubeconfig_as, source_tree};
use crate::wait::until;

/// The headings of the sections that have shell blocks, in order, with the number of blocks. Each
/// section is run by a test below.
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

/// Returns the shell blocks by section.
fn blocks() -> Vec<(String, Vec<String>)> {
    let page = std::fs::read_to_string(source_tree().join("docs/operations.md")).unwrap();
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(text), "```") => {
                sections.last_mut().expect("a shell block precedes the first heading").1.push(std::mem::take(text));
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
fn every_section_with_commands_has_a_test() {
    let found: Vec<_> = blocks().into_iter().map(|(heading, blocks)| (heading, blocks.len())).collect();
    assert_eq!(found, SECTIONS.map(|(heading, count)| (heading.to_owned(), count)));
}

/// A user's shell in its own folder.
struct UserShell {
    folder: TempDir,
}

impl UserShell {
    fn new(namespace: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        // kubectl finds its plugins by name in the PATH.
        let plugin = env!("CARGO_BIN_EXE_kubectl-onionbalance");
        std::os::unix::fs::symlink(plugin, programs.join("kubectl-onionbalance")).unwrap();
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig_as(None, namespace).to_string()).unwrap();
        std::fs::create_dir(folder.path().join("here")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("here").join(name)
    }

    /// Runs one shell block of a section; blocks are numbered from 0. Every line must succeed.
    /// Returns the output.
    async fn run(&self, section: &str, number: usize) -> String {
        let (_, blocks) =
            blocks().into_iter().find(|(heading, _)| heading == section).expect("the page has no such section");
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

async fn create_secret(scene: &Scene, metadata: Value, kind: Option<&str>, data: &[(&str, &[u8])]) {
    let metadata = serde_json::from_value(metadata).unwrap();
    let entries = data.iter().map(|(name, bytes)| ((*name).to_owned(), ByteString(bytes.to_vec())));
    let data: BTreeMap<_, _> = entries.collect();
    let type_ = kind.map(ToOwned::to_owned);
    let secret = Secret { metadata, type_, data: Some(data), ..Secret::default() };
    scene.api().create(&PostParams::default(), &secret).await.unwrap();
}

/// Checks that the Secret `web-master-key` holds the given key and has no owner, and that the
/// object `web` serves the key's address.
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

/// Deletes the object, and then its children as the garbage collector would.
async fn delete_service(scene: &Scene) {
    scene.api::<OnionBalancedService>().delete("web", &DeleteParams::background()).await.unwrap();
    scene.collect_garbage("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backs_up_and_restores_a_key() {
    let scene = Scene::start("backup").await;
    let user = UserShell::new(&scene.namespace);
    // With this policy, the object owns the Secret. If the Secret were restored with its old owner
    // reference, Kubernetes would delete it.
    scene.create("web", json!({"deletionPolicy": "Delete"})).await;
    let address = scene.address("web").await;
    scene.wait_for("web-master-key", |secret: &Secret| secret.metadata.owner_references.is_some()).await;
    let output = user.run("Back up a key", 0).await;
    assert_eq!(output, format!("{address}\nweb-master-key.yaml: ok, {address}\n"));
    user.run("Back up a key", 1).await;
    let whole =
        "umask 077; kubectl get secret web-master-key -o yaml >whole.yaml; ! kubectl onionbalance key check whole.yaml";
    let faults = user.shell(whole).await;
    assert!(faults.contains("together with its owner") && faults.contains("OnionBalancedService web"), "{faults}");

    // Case 1: the Secret is lost and restored while the object exists.
    delete_secret(&scene, "web-master-key").await;
    scene.wait_condition("web", "MasterKeyReady", "False SecretNotFound").await;
    user.run("Restore a key", 0).await;
    let output = user.run("Restore a key", 2).await;
    assert!(output.ends_with(&address), "{output}");

    // Case 2: everything is lost. The Secret is restored from the other form of backup before the
    // object is created.
    delete_service(&scene).await;
    delete_secret(&scene, "web-master-key").await;
    user.run("Restore a key", 1).await;
    scene.create("web", json!({"deletionPolicy": "Delete"})).await;
    let output = user.run("Restore a key", 2).await;
    assert!(output.ends_with(&address), "{output}");
    scene.wait_children("web").await;
    let secret = scene.api::<Secret>().get("web-master-key").await.unwrap();
    assert_eq!(
        (secret.immutable, secret.metadata.owner_references),
        (None, None),
        "a restored Secret belongs to the user"
    );

    // Case 3: with the policy Retain, kubectl alone restores the Secret from a plain copy.
    delete_service(&scene).await;
    delete_secret(&scene, "web-master-key").await;
    scene.create("web", json!({})).await;
    let address = scene.address("web").await;
    scene.wait_children("web").await;
    user.shell("kubectl get secret web-master-key -o yaml >plain.yaml").await;
    delete_service(&scene).await;
    delete_secret(&scene, "web-master-key").await;
    user.shell("kubectl create -f plain.yaml").await;
    scene.create("web", json!({})).await;
    assert_eq!(scene.address("web").await, address);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_an_address_on_purpose() {
    let scene = Scene::start("rotation").await;
    let user = UserShell::new(&scene.namespace);
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

    let output = user.run("Change the address on purpose", 0).await;
    let new = output.lines().next().unwrap().to_owned();
    assert_ne!(new, old);
    until("the status has the new address", PATIENCE, async || {
        let status = scene.status("web").await;
        if status.onion_address.as_ref() == Some(&new) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    let frontend = scene.wait_for("web-frontend", |deployment| hash(deployment) != before[0]).await;
    scene.wait_for("web-backend", |deployment| hash(deployment) != before[1]).await;
    let template = serde_json::to_string(&frontend.spec.unwrap().template).unwrap();
    assert!(template.contains("web-key-2") && template.contains(&new) && !template.contains(&old), "{template}");
    scene.api::<Secret>().get("web-master-key").await.expect("the old key is gone");

    // Switch back to the old address.
    let back = json!({"spec": {"masterKey": {"secretName": null, "onionAddress": old}}});
    scene.change("web", back).await;
    until("the status has the old address again", PATIENCE, async || {
        let status = scene.status("web").await;
        if status.onion_address.as_ref() == Some(&old) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;

    // Give up the address permanently.
    user.run("Give an address up", 0).await;
    scene.wait_for("web-master-key", |secret: &Secret| secret.metadata.owner_references.is_some()).await;
    user.run("Give an address up", 1).await;
    let left = scene.api::<Secret>().list(&ListParams::default()).await.unwrap();
    assert!(left.items.iter().all(|secret| secret.metadata.name.as_deref() != Some("web-master-key")));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_a_key_from_a_plain_tor() {
    let scene = Scene::start("from-tor").await;
    let user = UserShell::new(&scene.namespace);
    let directory = user.path("hidden_service");
    generate_key_with_tor(&directory).await;
    let output = user.run("From a plain tor", 0).await;
    assert!(output.contains("hidden_service: ok, "), "{output}");
    let file = std::fs::read(directory.join("hs_ed25519_secret_key")).unwrap();
    let key = MasterKey::from_tor_secret_key_file(&file).unwrap();
    let hostname = std::fs::read_to_string(directory.join("hostname")).unwrap();
    assert_eq!(hostname.trim_end(), key.address().to_string());
    serves(&scene, &key).await;
    scene.end().await;
}

/// Starts a real tor without a network to generate an onion service key.
async fn generate_key_with_tor(directory: &Path) {
    let parent = directory.parent().unwrap();
    let empty = parent.join("torrc");
    std::fs::write(&empty, "").unwrap();
    let mut tor = Command::new("tor");
    tor.arg("-f").arg(&empty).arg("--defaults-torrc").arg(&empty).args(["--DisableNetwork", "1", "--SocksPort", "0"]);
    tor.arg("--DataDirectory").arg(parent.join("data")).arg("--HiddenServiceDir").arg(directory);
    let mut tor = tor.args(["--HiddenServicePort", "80"]).stdout(Stdio::null()).spawn().unwrap();
    until("tor has generated a key", PATIENCE, async || {
        std::fs::read_to_string(directory.join("hostname")).map_err(|error| error.to_string())
    })
    .await;
    tor.kill().unwrap();
    tor.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_a_key_from_python_onionbalance() {
    let scene = Scene::start("from-python").await;
    let user = UserShell::new(&scene.namespace);
    let script = source_tree().join("e2e/setup/python-onionbalance.sh");
    let python = user.shell(&script.display().to_string()).await;
    let generate = Path::new(python.trim()).with_file_name("onionbalance-config");
    user.shell(&format!("{} -n 1 --output config", generate.display())).await;

    user.run("From Python Onionbalance", 0).await;
    let mut files = std::fs::read_dir(user.path("config")).unwrap().map(|entry| entry.unwrap().file_name());
    let address = files.find_map(|name| Some(name.to_str()?.strip_suffix(".key")?.to_owned())).unwrap();
    scene.create("web", json!({})).await;
    assert_eq!(scene.address("web").await, format!("{address}.onion"));
    scene.end().await;
}

/// The Secret has exactly the fields that tor-controller 0.10.0 (commit f60092b) sets: name, owner,
/// type and five entries, but no labels and no annotations. In its source,
///
/// - `onionbalanceSecret` in `controllers/tor/onionbalancedservice_secret.go` builds the Secret.
///   `torOnionServiceSecret` in `onionservice_secret.go` differs only in the owner's kind.
/// - `SecretName` in `apis/tor/v1alpha2/onionbalancedservice_util.go` names it.
/// - `GenerateOnionV3FromKeys` in `controllers/tor/util.go` makes the entries. The two files are
///   tor's, with their tags; `privateKey` and `publicKey` lack the tags, and `onionAddress` is the
///   address without a newline. The API's own base64 is the only encoding.
///
/// The key is clamped like tor's, by `GenerateKey` in `torutil/ed25519/ed25519.go` of the library
/// bine 0.2.0 (commit 2d69661).
#[tokio::test(flavor = "multi_thread")]
async fn imports_a_key_from_tor_controller() {
    let scene = Scene::start("from-controller").await;
    let user = UserShell::new(&scene.namespace);
    let key = key(1);
    let (address, secret_key, public_key) =
        (key.address().to_string(), key.to_tor_secret_key_file(), key.to_tor_public_key_file());
    let owner = json!({"apiVersion": "tor.k8s.torproject.org/v1alpha2", "kind": "OnionBalancedService",
        "name": "example", "uid": "b6a2", "controller": true, "blockOwnerDeletion": true});
    let metadata = json!({"name": "example-tor-secret", "ownerReferences": [owner]});
    let data: [(&str, &[u8]); 5] = [
        ("onionAddress", address.as_bytes()),
        ("privateKey", &secret_key[32..]),
        ("privateKeyFile", &secret_key),
        ("publicKey", &public_key[32..]),
        ("publicKeyFile", &public_key),
    ];
    create_secret(&scene, metadata, Some("tor.k8s.torproject.org/onion-v3"), &data).await;
    let before = scene.api::<Secret>().get("example-tor-secret").await.unwrap();

    user.run("From tor-controller", 0).await;
    delete_secret(&scene, "web-master-key").await;
    user.run("From tor-controller", 1).await;
    serves(&scene, &key).await;
    assert_eq!(
        scene.api::<Secret>().get("example-tor-secret").await.unwrap(),
        before,
        "the original Secret must not change"
    );
    scene.end().await;
}

/// The Secret has exactly the fields that tor-operator 1.0.14 (commit e4cf622) sets for an
/// `OnionKey` with `autoGenerate`: name, labels, owner and three entries, but no type and no
/// annotations. In its source,
///
/// - `generate_secret` in `src/onion_key.rs` builds the Secret. The name is `spec.secret.name`; the
///   README's example has the one below.
/// - `try_labels` in `src/kubernetes/object.rs` makes the labels. The last two are the owner's UID,
///   `part-of` only if the owner has no such label. `spec.secret` can add labels and annotations.
/// - `try_owner_reference` in the same file makes the owner. It uses `controller_owner_ref` of kube
///   4.0.0, which does not set `blockOwnerDeletion`.
/// - `src/tor/hidden_service_secret_key.rs`, `hidden_service_public_key.rs` and `hostname.rs` make
///   the entries: tor's files with their tags, and the address without a newline. The API's own
///   base64 is the only encoding.
/// - `ExpandedSecretKey::generate` in `src/tor/expanded_secret_key.rs` makes the key. The library
///   ed25519-dalek 3.0.0 clamps the scalar as tor does, but then reduces it modulo the group order.
///
/// Without `autoGenerate`, the user has created the Secret from tor's three files.
#[tokio::test(flavor = "multi_thread")]
async fn imports_a_key_from_tor_operator() {
    let scene = Scene::start("from-operator").await;
    let user = UserShell::new(&scene.namespace);
    let mut secret_key = key(2).to_tor_secret_key_file().to_vec();
    let scalar: [u8; 32] = secret_key[32..64].try_into().unwrap();
    secret_key[32..64].copy_from_slice(Scalar::from_bytes_mod_order(scalar).as_bytes());
    let reduced = MasterKey::from_tor_secret_key_file(&secret_key).unwrap();
    assert_eq!(reduced.address(), key(2).address());
    let labels = json!({"app.kubernetes.io/component": "onion-key", "app.kubernetes.io/instance": "example",
        "app.kubernetes.io/managed-by": "tor-operator", "app.kubernetes.io/name": "tor",
        "tor.agabani.co.uk/owned-by": "b6a2", "tor.agabani.co.uk/part-of": "b6a2"});
    let owner = json!({"apiVersion": "tor.agabani.co.uk/v1", "kind": "OnionKey", "name": "example", "uid": "b6a2",
        "controller": true});
    let metadata = json!({"name": "tor-ingress-example", "labels": labels, "ownerReferences": [owner]});
    let (address, public_key) = (reduced.address().to_string(), reduced.to_tor_public_key_file());
    let data: [(&str, &[u8]); 3] = [
        ("hostname", address.as_bytes()),
        ("hs_ed25519_public_key", &public_key),
        ("hs_ed25519_secret_key", &secret_key),
    ];
    create_secret(&scene, metadata, None, &data).await;
    let before = scene.api::<Secret>().get("tor-ingress-example").await.unwrap();

    user.run("From tor-operator", 0).await;
    delete_secret(&scene, "web-master-key").await;
    user.run("From tor-operator", 1).await;
    serves(&scene, &reduced).await;
    delete_service(&scene).await;
    // The page says that the original Secret can also be used directly.
    scene.create("web", json!({"masterKey": {"secretName": "tor-ingress-example"}})).await;
    assert_eq!(scene.address("web").await, address);
    scene.wait_condition("web", "MasterKeyReady", "True KeyLoaded").await;
    assert_eq!(
        scene.api::<Secret>().get("tor-ingress-example").await.unwrap(),
        before,
        "the original Secret must not change"
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scales_suspends_and_inspects_a_service() {
    let scene = Scene::start("day").await;
    let user = UserShell::new(&scene.namespace);
    scene.create("web", json!({})).await;
    scene.wait_children("web").await;
    let replicas = |wanted: i32| {
        move |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas) == Some(wanted)
    };
    user.run("Scale, suspend, upgrade", 0).await;
    scene.wait_for("web-backend", replicas(5)).await;
    user.run("Scale, suspend, upgrade", 1).await;
    scene.wait_for("web-backend", replicas(0)).await;
    scene.wait_condition("web", "Published", "False Suspended").await;

    let output = user.run("What is wrong", 0).await;
    let kinds: BTreeSet<_> = output.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    for kind in ["Accepted", "MasterKeyReady", "BackendsReady", "Published", "Ready"] {
        assert!(kinds.contains(kind), "{kind} is missing in {output}");
    }
    assert!(output.contains("Published=False Suspended: spec.suspend is true."), "{output}");
    scene.end().await;
}
