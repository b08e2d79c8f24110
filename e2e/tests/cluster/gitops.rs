//! Runs the pipeline of docs/gitops.md, which repeatedly applies the content of a git repository.
//! During the test, an autoscaler takes over the number of replicas.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::service::Service;
use serde_json::{Value, json};

use crate::pipeline::Pipeline;
use crate::scene::{PUBLISHED, SOON, Scene, empty_scene};

#[tokio::test]
async fn committed_changes_are_applied_and_stay_applied() -> Result<()> {
    empty_scene("gitops", async |scene| {
        let pipeline = Pipeline::set(scene).await?;
        let web = scene.service("web");
        let gitops = GitOps { scene, pipeline: &pipeline, web: &web };
        gitops.first_commit().await?;
        let onion = web.onion_address().await?;
        gitops.commits_scale_the_backends().await?;
        gitops.a_template_change_replaces_all_pods().await?;
        gitops.repeated_applies_write_nothing().await?;
        gitops.an_autoscaler_takes_over().await?;
        gitops.repeated_applies_write_nothing().await?;
        gitops.the_object_is_pruned_and_restored(&onion).await?;
        let client = scene.tor_client().await?;
        let page = client.fetch(&onion, "gitops").await?;
        eprintln!("through {onion}: {page}");
        client.remove().await?;
        pipeline.printed().map(drop)
    })
    .await
}

struct GitOps<'a> {
    scene: &'a Scene,
    pipeline: &'a Pipeline,
    web: &'a Service,
}

impl GitOps<'_> {
    async fn first_commit(&self) -> Result<()> {
        let Self { pipeline, web, .. } = self;
        let image = "docker.io/nginxinc/nginx-unprivileged:stable";
        pipeline.write("web.yaml", pipeline.file("web.yaml")?)?;
        pipeline.change("web.yaml", image, "localhost/onionbalance-sample:dev")?;
        pipeline.write("onion.yaml", pipeline.file("onion.yaml")?)?;
        pipeline.commit("first").await?;
        pipeline.start()?;
        pipeline.applies(1).await?;
        let health = async || pipeline.health(&self.object().await?).await;
        ensure!(health().await? == "Progressing", "the health check reports the service as healthy too early");
        pipeline.script_here("wait.sh").await?;
        ensure!(health().await? == "Healthy", "the health check does not report the service as healthy");
        web.wait_published(2, PUBLISHED).await.map(drop)
    }

    async fn commits_scale_the_backends(&self) -> Result<()> {
        for backends in [6, 3] {
            self.pipeline.script("scale.sh", &backends.to_string()).await?;
            self.wait_applied(|object| object["spec"]["backends"]["replicas"] == backends).await?;
            self.pipeline.script_here("wait.sh").await?;
            eprintln!("{}", self.scene.run("get obs,pods").await?);
            self.web.wait_published(backends, PUBLISHED).await?;
        }
        Ok(())
    }

    async fn a_template_change_replaces_all_pods(&self) -> Result<()> {
        let Self { pipeline, web, scene } = self;
        pipeline.change("onion.yaml", "  backends:\n", "  backends:\n    template: {labels: {tier: onion}}\n")?;
        pipeline.commit("template").await?;
        self.wait_applied(|object| object["spec"]["backends"]["template"]["labels"]["tier"] == "onion").await?;
        pipeline.script_here("wait.sh").await?;
        // The object is not Ready while an old pod is still running.
        let labelled = scene.run("get pods --selector tier=onion -o name").await?;
        let mut pods = web.backends().await?;
        pods.retain(|pod| !labelled.contains(&pod.name));
        ensure!(
            pods.is_empty() && labelled.lines().count() == 3,
            "pods with the label: {labelled}; pods without the label: {pods:?}"
        );
        web.wait_published(3, PUBLISHED).await.map(drop)
    }

    /// Checks that repeated applies write nothing and produce no diff.
    async fn repeated_applies_write_nothing(&self) -> Result<()> {
        let before = self.written().await?;
        self.pipeline.applies(4).await?;
        let after = self.written().await?;
        ensure!(before == after, "repeated applies wrote something; before:\n{before:#?}\nafter:\n{after:#?}");
        let diff = self.pipeline.script_here("diff.sh").await?;
        ensure!(diff.is_empty(), "repeated applies must produce no diff: {diff}");
        Ok(())
    }

    async fn an_autoscaler_takes_over(&self) -> Result<()> {
        let Self { pipeline, web, .. } = self;
        let generation =
            self.object().await?["metadata"]["generation"].as_i64().context("the object has no generation")?;
        pipeline.script_here("handover.sh").await?;
        pipeline.change("onion.yaml", "    replicas: 3\n", "")?;
        pipeline.write("autoscaler.yaml", pipeline.file("autoscaler.yaml")?)?;
        pipeline.commit("autoscaler").await?;
        // Only the autoscaler's bounds take effect, because there is no metrics server. Nothing
        // else has changed the object in between.
        let is_scaled = |object: &Value| object["spec"]["backends"]["replicas"] == 4;
        let object = self.wait_applied(is_scaled).await?;
        ensure!(
            object["metadata"]["generation"] == generation + 1,
            "the handover must change the object once: {object}"
        );
        pipeline.change("autoscaler.yaml", "minReplicas: 4", "minReplicas: 1")?;
        pipeline.change("autoscaler.yaml", "maxReplicas: 8", "maxReplicas: 2")?;
        pipeline.commit("bounds").await?;
        self.wait_applied(|object| object["spec"]["backends"]["replicas"] == 2).await?;
        pipeline.script_here("wait.sh").await?;
        web.wait_published(2, PUBLISHED).await?;
        self.the_server_accepts_the_autoscaler_of_streams().await
    }

    /// Applies `streams.yaml` of docs/gitops.md as a dry run. Old API servers have
    /// `autoscaling/v2beta2` instead of `autoscaling/v2`, with the same fields.
    async fn the_server_accepts_the_autoscaler_of_streams(&self) -> Result<()> {
        let versions = self.scene.run("api-versions").await?;
        let manifest = self.pipeline.file("streams.yaml")?;
        let is_served = versions.lines().any(|version| version == "autoscaling/v2");
        let manifest =
            if is_served { manifest.to_owned() } else { manifest.replace("autoscaling/v2", "autoscaling/v2beta2") };
        let arguments =
            ["apply", "--server-side", "--field-manager=test", "--force-conflicts", "--dry-run=server", "-f", "-"];
        self.scene.kubectl(&arguments, &manifest).await.map(drop)
    }

    async fn the_object_is_pruned_and_restored(&self, onion: &str) -> Result<()> {
        let Self { pipeline, web, scene } = self;
        pipeline.git("rm --quiet onion.yaml autoscaler.yaml").await?;
        pipeline.commit("gone").await?;
        let left = "get obs,hpa,deployments,configmaps,serviceaccounts,leases -l onionbalance.dev/service=web -o name";
        scene
            .wait("the object and everything that belongs to it is pruned", PUBLISHED, async || {
                let left = scene.run("get obs,hpa -o name").await? + &scene.run(left).await?;
                Ok(if left.is_empty() { Ok(()) } else { Err(left) })
            })
            .await?;
        let printed = pipeline.printed()?;
        ensure!(
            printed.contains("onionbalancedservice.onionbalance.dev/web pruned"),
            "the pipeline did not print that it pruned the object: {printed}"
        );
        pipeline.git("revert --no-edit HEAD").await?;
        pipeline.git("push --quiet").await?;
        self.scene
            .wait("the object exists again", SOON, async || {
                let there = scene.run("get obs -o name").await?;
                Ok(if there.is_empty() { Err("it is missing".to_owned()) } else { Ok(()) })
            })
            .await?;
        ensure!(web.onion_address().await? == onion, "the address changed");
        pipeline.script_here("wait.sh").await?;
        web.wait_published(2, PUBLISHED).await.map(drop)
    }

    async fn object(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.pipeline.kubectl("get obs/web --show-managed-fields -o json").await?)?)
    }

    /// Waits until the object satisfies the condition.
    async fn wait_applied(&self, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        self.scene
            .wait("the commit has been applied", SOON, async || {
                self.pipeline.printed()?;
                let object = self.object().await?;
                Ok(if condition(&object) { Ok(()) } else { Err(object["spec"].to_string()) })
            })
            .await?;
        self.object().await
    }

    /// Returns the generation, the labels and the managed fields (with their times) of each child
    /// and of the object itself. Omits the fields that `kube-controller-manager` and the publisher
    /// manage: the status and the shared guards keep changing. For the object itself, also omits
    /// the fields that the operator manages.
    async fn written(&self) -> Result<BTreeMap<String, Value>> {
        const OTHERS: [&str; 3] = ["kube-controller-manager", "onionbalance-operator", "onionbalance-publisher"];
        let kinds = "deployments,configmaps,services,serviceaccounts,secrets,roles,rolebindings,networkpolicies,\
                     poddisruptionbudgets";
        let children = format!("get {kinds} -l onionbalance.dev/service=web --show-managed-fields -o json");
        let children: Value = serde_json::from_str(&self.pipeline.kubectl(&children).await?)?;
        let mut written = BTreeMap::new();
        for child in children["items"].as_array().context("kubectl printed no list")? {
            written.insert(
                format!("{} {}", child["kind"], child["metadata"]["name"]),
                by_others(child, &[OTHERS[0], OTHERS[2]]),
            );
        }
        ensure!(written.len() == 17, "unexpected children: {:?}", written.keys());
        written.insert("the object".to_owned(), by_others(&self.object().await?, &OTHERS));
        Ok(written)
    }
}

/// Returns an object's generation, labels and managed fields, except the fields of the managers in
/// `these`.
fn by_others(object: &Value, these: &[&str]) -> Value {
    let metadata = &object["metadata"];
    let entries = metadata["managedFields"].as_array().cloned().unwrap_or_default();
    let others = entries.into_iter().filter(|entry| !these.iter().any(|name| entry["manager"] == **name));
    json!({"generation": metadata["generation"], "labels": metadata["labels"], "managedFields": others.collect::<Vec<_>>()})
}
