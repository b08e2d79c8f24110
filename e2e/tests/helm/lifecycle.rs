//! Checks that a service keeps its address while the operator of an earlier commit is installed,
//! upgraded, rolled back, upgraded together with the data plane, uninstalled, and installed again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::cluster::Cluster;
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::helm::Helm;
use onionbalance_e2e::install::{DEPLOYMENT, NAMESPACE};
use onionbalance_e2e::service::Service;
use onionbalance_e2e::state::source_tree;
use serde_json::Value;
use tokio::sync::watch;

use crate::scene::{PUBLISHED, SOON, Scene};
use crate::{alone, tor_network_file};

/// The tag of the image with the program of an earlier commit (`e2e/setup/earlier.sh`).
const EARLIER: &str = "earlier";
/// The tag of the image with the program of this tree.
const PRESENT: &str = "dev";
const IMAGE: &str = "localhost/onionbalance-operator";
const BACKENDS: usize = 2;
const SPEC: &str = "  ports: [{port: 80, target: {service: {name: web, port: http}}}]
  backends: {replicas: 2, drainTimeoutSeconds: 5}
";
/// A Helm value that sets a default template for the backends.
const TEAM: &str = "dataPlane.defaultTemplates.backend.labels.team=onions";
const CRD: &str = "crd/onionbalancedservices.onionbalance.dev";

#[tokio::test]
async fn an_upgrade_from_an_earlier_version_and_a_rollback_lose_nothing() -> Result<()> {
    alone("helm", async |scene| {
        let earlier = earlier(scene).await?;
        scene.apply_target().await?;
        let helm = Helm::open(scene.state()).await?;
        release(scene, &helm, "install", &earlier, &["--set", &image(EARLIER)]).await?;
        let earlier_crd = crd(scene).await?;
        let web = scene.apply("web", SPEC).await?;
        web.wait_published(BACKENDS, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let life = Life { scene, helm, identity: identity(scene).await?, onion: web.onion_address().await?, web };
        let pods_before = pods(scene).await?;

        let upgraded_crd = life.upgrade_only_the_operator(&earlier_crd).await?;
        life.upgrade_to_a_missing_image().await?;
        life.roll_back(&earlier_crd, &pods_before).await?;
        let rolled = life.upgrade_with_the_data_plane(&upgraded_crd, &pods_before).await?;
        life.uninstall().await?;
        life.install_again(&rolled).await
    })
    .await
}

/// A release of the chart, and a service that must survive all changes to the release.
struct Life<'a> {
    scene: &'a Scene,
    helm: Helm,
    web: Service,
    onion: String,
    identity: String,
}

impl Life<'_> {
    /// Upgrades only the operator. The upgrade must neither replace nor restart a pod of the data
    /// plane. Returns the new CRD.
    async fn upgrade_only_the_operator(&self, earlier_crd: &Value) -> Result<Value> {
        let before = data_plane(self.scene).await?;
        self.release("upgrade", &["--set", &image(PRESENT), "--set", &format!("dataPlane.{}", image(EARLIER))]).await?;
        let upgraded_crd = crd(self.scene).await?;
        ensure!(upgraded_crd != *earlier_crd, "the upgrade did not replace the CRD");
        wait_operator_works(self.scene, PRESENT).await?;
        let after = data_plane(self.scene).await?;
        ensure!(after == before, "the upgrade changed pods or Deployments: {before:?}, then {after:?}");
        Ok(upgraded_crd)
    }

    /// Upgrades to a data plane image that does not exist. A condition must report the missing
    /// image, and the running pods must continue to work.
    async fn upgrade_to_a_missing_image(&self) -> Result<()> {
        self.release("upgrade", &["--set", &image(PRESENT), "--set", "dataPlane.image.tag=missing"]).await?;
        self.scene
            .wait("BackendsReady reports the missing image", SOON, async || {
                let condition = self.web.wait_condition("BackendsReady", "False", SOON).await?;
                let is_reported = condition.reason == "ImagePullFailed" && condition.message.contains(":missing");
                Ok(if is_reported { Ok(()) } else { Err(format!("{condition:?}")) })
            })
            .await?;
        self.fetch("with a missing image").await
    }

    /// Rolls back to the earlier chart. The rollback must restore the earlier CRD and keep the
    /// earlier pods.
    async fn roll_back(&self, earlier_crd: &Value, pods_before: &BTreeSet<String>) -> Result<()> {
        self.helm.run(&["rollback", DEPLOYMENT, "1", "--wait", "--timeout", "2m"]).await?;
        wait_operator_works(self.scene, EARLIER).await?;
        ensure!(crd(self.scene).await? == *earlier_crd, "the rollback did not restore the earlier CRD");
        self.web.wait_condition("Ready", "True", SOON).await?;
        self.scene
            .wait("the pods are the same as before", SOON, async || {
                let now = pods(self.scene).await?;
                Ok(if now == *pods_before { Ok(()) } else { Err(format!("{now:?}, before {pods_before:?}")) })
            })
            .await?;
        self.check_identity().await
    }

    /// Upgrades without a pinned data plane image. The upgrade must replace every pod without any
    /// client noticing. Returns the new pods.
    async fn upgrade_with_the_data_plane(
        &self,
        upgraded_crd: &Value,
        pods_before: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>> {
        let (done, rolled) = watch::channel(false);
        let roll = async {
            self.release("upgrade", &["--set", &image(PRESENT), "--set", TEAM]).await?;
            rolled_out(self.scene, &self.web).await?;
            done.send_replace(true);
            Ok::<_, anyhow::Error>(())
        };
        let ((), fetches) = tokio::try_join!(roll, fetch_until(self.scene, &self.onion, rolled))?;
        eprintln!("{fetches} fetches during the roll, none failed");
        ensure!(crd(self.scene).await? == *upgraded_crd, "the upgrade did not replace the CRD");
        let rolled = pods(self.scene).await?;
        let all_new = rolled.is_disjoint(pods_before) && rolled.len() == pods_before.len();
        ensure!(all_new, "the upgrade must replace all pods: {pods_before:?}, then {rolled:?}");
        let of_team = self.scene.run("get pods -l team=onions,onionbalance.dev/service=web -o name").await?;
        ensure!(of_team.lines().count() >= BACKENDS, "too few pods have the label of the default template: {of_team}");
        Ok(rolled)
    }

    /// Uninstalls the operator. The service must continue to work without it.
    async fn uninstall(&self) -> Result<()> {
        self.helm.run(&["uninstall", DEPLOYMENT, "--wait", "--timeout", "2m"]).await?;
        self.scene.kubectl.run(&format!("--namespace {NAMESPACE} wait --for=delete pods --all --timeout=60s")).await?;
        self.check_identity().await?;
        self.fetch("without an operator").await
    }

    /// Installs the operator again, with permissions for the service's namespace only. The running
    /// pods must remain.
    async fn install_again(&self, rolled: &BTreeSet<String>) -> Result<()> {
        let watched = format!("watchNamespaces={{{}}}", self.scene.namespace());
        self.release("install", &["--set", &image(PRESENT), "--set", TEAM, "--set", &watched]).await?;
        self.helm.run(&["test", DEPLOYMENT, "--timeout", "2m"]).await?;
        wait_operator_works(self.scene, PRESENT).await?;
        self.check_identity().await?;
        ensure!(pods(self.scene).await? == *rolled, "the new release replaced pods; before: {rolled:?}");
        self.web.wait_condition("Ready", "True", SOON).await?;
        self.other_namespaces_are_not_watched().await
    }

    /// Checks that an operator that watches one namespace has no permission for the whole cluster,
    /// reconciles a new object in that namespace, and does not touch an object in another one.
    async fn other_namespaces_are_not_watched(&self) -> Result<()> {
        let roles = "get clusterroles,clusterrolebindings -l app.kubernetes.io/instance=onionbalance-operator -o name";
        let found = self.scene.kubectl.run(roles).await?;
        ensure!(
            found.lines().all(|name| name.ends_with("-operator-view") || name.ends_with("-operator-edit")),
            "the operator has permissions for the whole cluster: {found}"
        );
        let other = format!("{}-other", self.scene.namespace());
        let kubectl = &self.scene.kubectl;
        kubectl.run(&format!("delete namespace {other} --ignore-not-found")).await?;
        kubectl.run(&format!("create namespace {other}")).await?;
        let object = format!(
            "apiVersion: onionbalance.dev/v1alpha1\nkind: OnionBalancedService\nmetadata: {{name: late}}\nspec:\n{SPEC}"
        );
        kubectl.run_with_input(&["--namespace", &other, "apply", "-f", "-"], &object).await?;
        let late = self.scene.apply("late", SPEC).await?;
        late.onion_address().await?;
        // If the operator watches the other namespace, it has seen the older object there by now.
        wait_operator_works(self.scene, PRESENT).await?;
        let path = "jsonpath={.status.conditions[*].reason}";
        let reasons = kubectl.run(&format!("--namespace {other} get obs/late -o {path}")).await?;
        let children = "get secrets,configmaps,services,deployments -l onionbalance.dev/service -o name";
        let children = kubectl.run(&format!("--namespace {other} {children}")).await?;
        ensure!(
            reasons == "Pending" && children.is_empty(),
            "the operator touched another namespace: {reasons} {children}"
        );
        self.scene.run("delete obs/late --wait=false").await?;
        kubectl.run(&format!("delete namespace {other} --wait=false")).await?;
        Ok(())
    }

    async fn release(&self, verb: &str, more: &[&str]) -> Result<()> {
        release(self.scene, &self.helm, verb, &Helm::chart(), more).await
    }

    async fn fetch(&self, isolation: &str) -> Result<()> {
        let client = self.scene.tor_client().await?;
        client.fetch(&self.onion, isolation).await?;
        client.remove().await
    }

    async fn check_identity(&self) -> Result<()> {
        let (before, now) = (&self.identity, identity(self.scene).await?);
        ensure!(now == *before, "the object, address or key changed: {before}, then {now}");
        Ok(())
    }
}

/// Builds the program of an earlier commit unless it exists, and loads its image. Returns the path
/// of the commit's chart.
async fn earlier(scene: &Scene) -> Result<String> {
    let script = source_tree().join("e2e/setup/earlier.sh").display().to_string();
    let folder = PathBuf::from(output(&mut command(&script, [] as [&str; 0])).await?.trim());
    Cluster::open(scene.state())?.load_image(&folder.join("onionbalance-operator.tar")).await?;
    Ok(folder.join("chart").display().to_string())
}

/// Returns the Helm value that selects an image by its tag.
fn image(tag: &str) -> String {
    format!("image.tag={tag}")
}

/// Runs `helm install` or `helm upgrade` with a chart, configured for the test's Tor network.
async fn release(scene: &Scene, helm: &Helm, verb: &str, chart: &str, more: &[&str]) -> Result<()> {
    let network = format!("torExtraConfig={}", tor_network_file(scene)?.display());
    let mut arguments = vec![verb, DEPLOYMENT, chart, "--wait", "--timeout", "2m", "--set-file", &network];
    if verb == "install" {
        arguments.push("--create-namespace");
    }
    helm.run(&[&arguments, more].concat()).await?;
    Ok(())
}

/// Returns the UID of the object, its address, and the UID of the key's Secret, none of which may
/// ever change. The Secret of a generated key is immutable, so the same Secret holds the same key.
async fn identity(scene: &Scene) -> Result<String> {
    let object = scene.run("get obs/web -o jsonpath={.metadata.uid},{.status.onionAddress}").await?;
    let key = scene.run("get secret/web-master-key -o jsonpath={.metadata.uid}").await?;
    Ok(format!("{object},{key}"))
}

/// Returns the names, UIDs and generations of the service's Deployments, and the names, UIDs and
/// restart counts of its pods that are not terminating.
async fn data_plane(scene: &Scene) -> Result<BTreeSet<String>> {
    not_terminating(scene, "deployments,pods").await
}

/// Returns the names, UIDs and restart counts of the service's pods that are not terminating.
async fn pods(scene: &Scene) -> Result<BTreeSet<String>> {
    not_terminating(scene, "pods").await
}

async fn not_terminating(scene: &Scene, kinds: &str) -> Result<BTreeSet<String>> {
    let list = scene.run(&format!("get {kinds} -l onionbalance.dev/service=web -o json")).await?;
    let list: Value = serde_json::from_str(&list)?;
    let objects = list["items"].as_array().context("kubectl printed no list")?;
    let there = objects.iter().filter(|object| object["metadata"].get("deletionTimestamp").is_none());
    Ok(there
        .map(|object| {
            let (metadata, containers) = (&object["metadata"], &object["status"]["containerStatuses"]);
            let restarts: Vec<_> =
                containers.as_array().into_iter().flatten().map(|status| status["restartCount"].to_string()).collect();
            format!("{} {} {} {restarts:?}", metadata["name"], metadata["uid"], metadata["generation"])
        })
        .collect())
}

/// Waits until the only running operator uses the image with the given tag and has restored a
/// deleted child twice.
async fn wait_operator_works(scene: &Scene, tag: &str) -> Result<()> {
    let expected = format!("{IMAGE}:{tag}");
    // The kubelet of Kubernetes 1.20 sometimes removes a pod only at its next sync, more than a
    // minute after the pod's containers have ended.
    scene
        .wait(&format!("the only operator runs {expected}"), PUBLISHED, async || {
            let path = "jsonpath={.items[*].spec.containers[*].image}";
            let images = scene
                .kubectl
                .run(&format!("--namespace {NAMESPACE} get pods -l app.kubernetes.io/instance={DEPLOYMENT} -o {path}"))
                .await?;
            Ok(if images == expected { Ok(()) } else { Err(images) })
        })
        .await?;
    let uid = async || scene.run("get service/web-backend --ignore-not-found -o jsonpath={.metadata.uid}").await;
    // By the time the operator notices the second deletion, it has finished the reconcile after the
    // first one, including the Deployments.
    for _ in 0..2 {
        let before = uid().await?;
        scene.run("delete service/web-backend --wait=false").await?;
        scene
            .wait("the operator has restored a deleted Service", SOON, async || {
                let now = uid().await?;
                Ok(if now.is_empty() || now == before { Err(now) } else { Ok(()) })
            })
            .await?;
    }
    Ok(())
}

/// Waits until every pod of the service runs the image of this tree and the service is published.
async fn rolled_out(scene: &Scene, web: &Service) -> Result<()> {
    for (component, container) in [("backend", "agent"), ("frontend", "publisher")] {
        let path = format!("jsonpath={{.spec.template.spec.containers[?(@.name==\"{container}\")].image}}");
        scene
            .wait(&format!("the {component} Deployment has the image of this tree"), SOON, async || {
                let image = scene.run(&format!("get deployment/web-{component} -o {path}")).await?;
                Ok(if image == format!("{IMAGE}:{PRESENT}") { Ok(()) } else { Err(image) })
            })
            .await?;
        scene.run(&format!("rollout status deployment/web-{component} --timeout=180s")).await?;
    }
    web.wait_published(BACKENDS, PUBLISHED).await?;
    web.wait_condition("Ready", "True", SOON).await?;
    Ok(())
}

/// Fetches repeatedly until `stop` becomes true. Every third fetch uses a descriptor that was
/// freshly fetched from an HSDir. Returns the number of fetches.
async fn fetch_until(scene: &Scene, onion: &str, mut stop: watch::Receiver<bool>) -> Result<usize> {
    let client = scene.tor_client().await?;
    let mut fetches = 0;
    while !*stop.borrow_and_update() {
        if fetches % 3 == 0 {
            client.forget(onion).await?;
        }
        client.fetch(onion, &format!("roll {fetches}")).await.with_context(|| format!("fetch {fetches} failed"))?;
        fetches += 1;
    }
    client.remove().await?;
    ensure!(fetches > 0, "nothing was fetched");
    Ok(fetches)
}

/// Returns the versions, with their schemas, of the CRD on the cluster.
async fn crd(scene: &Scene) -> Result<Value> {
    let crd: Value = serde_json::from_str(&scene.kubectl.run(&format!("get {CRD} -o json")).await?)?;
    Ok(crd["spec"]["versions"].clone())
}
