//! A real Prometheus reads operator, publisher, agent and their tors: what the chart's monitors, alerts and dashboard say holds of the
//! running programs.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use onionbalance_e2e::command::{command, output, output_with_input};
use onionbalance_e2e::dashboard;
use onionbalance_e2e::install;
use onionbalance_e2e::prometheus::{Prometheus, http_get, scrape_configs};
use onionbalance_e2e::state::source_tree;
use serde_json::{Value, json};

use crate::scene::{PUBLISHED, SOON, Scene, scene};

const SPEC: &str = "  ports:
  - {port: 80, name: http, target: {service: {name: web, port: http}}}
  backends: {replicas: 1, drainTimeoutSeconds: 5}
";
const ALERTS: &str = "charts/onionbalance-operator/files/alerts.yaml";

#[tokio::test]
async fn a_real_prometheus_reads_everything() -> Result<()> {
    scene("prometheus", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        let onion = web.onion_address().await?;
        web.wait_published(1, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let client = scene.tor_client().await?;
        client.fetch(&onion, "counted").await?;
        client.remove().await?;
        promtool_takes_what_they_say(scene).await?;

        let prometheus = Prometheus::start(scene.state().dir(), &configuration(scene).await?).await?;
        let read = everything_is_read(scene, &prometheus).await;
        prometheus.remove().await?;
        read
    })
    .await
}

/// Scraped every second, so that a rate over a minute has its samples soon.
async fn configuration(scene: &Scene) -> Result<Value> {
    let helm = output(&mut command(&source_tree().join("e2e/setup/helm.sh").display().to_string(), [""; 0])).await?;
    let chart = source_tree().join("charts/onionbalance-operator");
    let mut render = command(helm.trim(), ["template", "onionbalance-operator"]);
    render.arg(chart).args(["--show-only", "templates/monitor.yaml", "--set", "monitor.enabled=true"]);
    let mut monitors: Vec<Value> = serde_saphyr::from_multiple(&output(render.env("KUBECONFIG", "/dev/null")).await?)?;
    monitors.retain(|document| !document.is_null());
    let [mut operator, services] = <[Value; 2]>::try_from(monitors).ok().context("two monitors")?;
    // What is installed here is deploy/, whose pods do not bear a Helm release's name.
    let labels = operator["spec"]["selector"]["matchLabels"].as_object_mut().context("labels")?;
    labels.remove("app.kubernetes.io/instance").context("the release's label")?;
    let mut jobs = scrape_configs(&operator, &pods(scene, install::NAMESPACE, "").await?)?;
    jobs.extend(scrape_configs(&services, &pods(scene, scene.namespace(), "").await?)?);
    Ok(json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [source_tree().join(ALERTS)],
        "scrape_configs": jobs,
    }))
}

async fn everything_is_read(scene: &Scene, prometheus: &Prometheus) -> Result<()> {
    // The operator's; a backend's and a frontend's, each with its tor's.
    scene
        .wait("all targets are up", SOON, async || {
            let targets = prometheus.api("targets?state=active", &[]).await?;
            let targets = targets["activeTargets"].as_array().cloned().unwrap_or_default();
            let up = targets.iter().filter(|target| target["health"] == "up").count();
            Ok(if up == 5 && targets.len() == 5 { Ok(()) } else { Err(format!("{targets:?}")) })
        })
        .await?;
    for (query, at_least) in [
        ("sum(onionbalance_operator_leader)", 1.0),
        ("sum(onionbalance_publisher_leading{onion_service=\"web\"})", 1.0),
        ("sum(onionbalance_publisher_backends{state=\"Ready\", onion_service=\"web\"})", 1.0),
        ("sum(onionbalance_agent_introduction_points{onion_service=\"web\"})", 3.0),
        ("sum(onionbalance_agent_streams_total{onion_service=\"web\", port=\"80\", name=\"http\"})", 1.0),
        ("sum(tor_hs_intro_num_total{onion_service=\"web\"})", 1.0),
        ("sum(tor_hs_intro_established_count{onion_service=\"web\"})", 3.0),
    ] {
        let number = prometheus.number(query).await?;
        ensure!(number >= at_least, "{query}: {number}");
    }
    // Both count the same bytes: what our agent took from clients is what their tor gave it.
    let taken = prometheus.number("sum(onionbalance_agent_bytes_total{direction=\"in\"})").await?;
    let given = prometheus.number("sum(tor_hs_app_write_bytes_total)").await?;
    ensure!(taken > 0.0 && (taken - given).abs() < f64::EPSILON, "agent: {taken} bytes, tor: {given}");
    let relays = prometheus.query("{__name__=~\"tor_relay_.*\"}").await?;
    ensure!(relays.is_empty(), "{relays:?}");

    scene
        .wait("the dashboard's queries have answers", SOON, async || {
            let mut silent = Vec::new();
            for query in dashboard::queries(scene.namespace(), "web")? {
                // What is asked for here is what is wrong: nothing.
                let expected = !query.text.ends_with("== 0");
                if prometheus.query(&query.text).await?.is_empty() == expected {
                    silent.push(query);
                }
            }
            Ok(if silent.is_empty() { Ok(()) } else { Err(format!("{silent:?}")) })
        })
        .await?;
    no_alarm(scene, prometheus).await
}

/// Every alert was looked at without an error, and none sees anything wrong: not here. (Other tests have services that are not Ready.)
async fn no_alarm(scene: &Scene, prometheus: &Prometheus) -> Result<()> {
    let is_elsewhere = |alert: &Value| {
        let namespace = |label: &str| alert["labels"][label].as_str().map(ToOwned::to_owned);
        let found = namespace("onion_namespace").or_else(|| namespace("namespace"));
        found.is_some_and(|name| name != scene.namespace() && name != install::NAMESPACE)
    };
    let groups = prometheus.api("rules", &[]).await?;
    let rules: Vec<&Value> = groups["groups"]
        .as_array()
        .context("groups")?
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .collect();
    ensure!(rules.len() > 10, "{groups}");
    for rule in rules {
        let alerts = rule["alerts"].as_array().context("alerts")?;
        ensure!(rule["health"] == "ok" && alerts.iter().all(is_elsewhere), "{rule}");
    }
    Ok(())
}

/// Without a complaint. (tor names some of its own in another way than Prometheus advises.)
async fn promtool_takes_what_they_say(scene: &Scene) -> Result<()> {
    for (namespace, labels) in [
        (install::NAMESPACE, "app.kubernetes.io/name=onionbalance-operator"),
        (scene.namespace(), "app.kubernetes.io/component=frontend"),
        (scene.namespace(), "app.kubernetes.io/component=backend"),
    ] {
        let pods = pods(scene, namespace, labels).await?;
        let pod = pods.first().context("a pod")?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("its address")?;
        let text = http_get(&format!("http://{address}:9402/metrics"), &[]).await?;
        output_with_input(&mut command("promtool", ["check", "metrics"]), &text)
            .await
            .with_context(|| format!("{}: {text}", pod.name_any()))?;
    }
    Ok(())
}

/// Those that are not terminating.
async fn pods(scene: &Scene, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(scene.client(), namespace);
    let mut found = pods.list(&ListParams::default().labels(labels)).await?.items;
    found.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(found)
}
