//! Runs a real Prometheus that scrapes the operator, a publisher, an agent and their tor processes,
//! and checks that the chart's monitors, alerts and dashboard match the running programs.

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
async fn prometheus_scrapes_everything_and_no_alert_fires() -> Result<()> {
    scene("prometheus", async |scene| {
        let web = scene.apply("web", SPEC).await?;
        let onion = web.onion_address().await?;
        web.wait_published(1, PUBLISHED).await?;
        web.wait_condition("Ready", "True", SOON).await?;
        let client = scene.tor_client().await?;
        client.fetch(&onion, "counted").await?;
        client.remove().await?;
        promtool_accepts_the_programs_metrics(scene).await?;

        let prometheus = Prometheus::start(scene.state().dir(), &configuration(scene).await?).await?;
        let read = everything_is_scraped(scene, &prometheus).await;
        prometheus.remove().await?;
        read
    })
    .await
}

/// Returns a configuration with which Prometheus scrapes every second, so that a rate over a minute
/// soon has enough samples.
async fn configuration(scene: &Scene) -> Result<Value> {
    let helm = output(&mut command(&source_tree().join("e2e/setup/helm.sh").display().to_string(), [""; 0])).await?;
    let chart = source_tree().join("charts/onionbalance-operator");
    let mut render = command(helm.trim(), ["template", "onionbalance-operator"]);
    render.arg(chart).args(["--show-only", "templates/monitor.yaml", "--set", "monitor.enabled=true"]);
    let mut monitors: Vec<Value> = serde_saphyr::from_multiple(&output(render.env("KUBECONFIG", "/dev/null")).await?)?;
    monitors.retain(|document| !document.is_null());
    let [mut operator, services] =
        <[Value; 2]>::try_from(monitors).ok().context("the chart should render two monitors")?;
    // This cluster runs deploy/, whose pods do not have the label with the Helm release's name.
    let labels =
        operator["spec"]["selector"]["matchLabels"].as_object_mut().context("the monitor selects no labels")?;
    labels.remove("app.kubernetes.io/instance").context("the monitor does not select the release's label")?;
    let mut jobs = scrape_configs(&operator, &pods(scene, install::NAMESPACE, "").await?)?;
    jobs.extend(scrape_configs(&services, &pods(scene, scene.namespace(), "").await?)?);
    Ok(json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [source_tree().join(ALERTS)],
        "scrape_configs": jobs,
    }))
}

async fn everything_is_scraped(scene: &Scene, prometheus: &Prometheus) -> Result<()> {
    // The targets are the operator, a backend with its tor, and a frontend with its tor.
    scene
        .wait("all targets are up", SOON, async || {
            let targets = prometheus.api("targets?state=active", &[]).await?;
            let targets = targets["activeTargets"].as_array().cloned().unwrap_or_default();
            let up = targets.iter().filter(|target| target["health"] == "up").count();
            Ok(if up == 5 && targets.len() == 5 { Ok(()) } else { Err(format!("{targets:?}")) })
        })
        .await?;
    // The label has the object's namespace, not the namespace of the operator's pod.
    let ready = format!("sum(onionbalance_operator_service_ready{{namespace=\"{}\"}})", scene.namespace());
    for (query, at_least) in [
        (ready.as_str(), 1.0),
        ("sum(onionbalance_operator_leader)", 1.0),
        ("sum(onionbalance_operator_reconciliation_duration_seconds_count)", 1.0),
        ("sum(onionbalance_publisher_leading{onion_service=\"web\"})", 1.0),
        ("sum(onionbalance_publisher_backends{state=\"Ready\", onion_service=\"web\"})", 1.0),
        ("sum(onionbalance_agent_introduction_points{onion_service=\"web\"})", 3.0),
        ("sum(onionbalance_agent_streams_total{onion_service=\"web\", port=\"80\", name=\"http\"})", 1.0),
        ("sum(tor_hs_intro_num_total{onion_service=\"web\"})", 1.0),
        ("sum(tor_hs_intro_established_count{onion_service=\"web\"})", 3.0),
    ] {
        let number = prometheus.number(query).await?;
        ensure!(number >= at_least, "{query} is {number}, but must be at least {at_least}");
    }
    // Both metrics count the bytes from clients: tor writes them to the agent's socket, and the
    // agent reads them from there.
    let taken = prometheus.number("sum(onionbalance_agent_bytes_total{direction=\"in\"})").await?;
    let given = prometheus.number("sum(tor_hs_app_write_bytes_total)").await?;
    ensure!(
        taken > 0.0 && (taken - given).abs() < f64::EPSILON,
        "the agent received {taken} bytes, but tor passed on {given}"
    );
    let relays = prometheus.query("{__name__=~\"tor_relay_.*\"}").await?;
    ensure!(relays.is_empty(), "tor's relay metrics must be dropped: {relays:?}");

    scene
        .wait("the dashboard's queries have results", SOON, async || {
            let mut silent = Vec::new();
            for query in dashboard::queries(scene.namespace(), "web")? {
                // A query that ends in `== 0` detects a problem, so it must have no result. Only a
                // publisher with signing kits exports their end.
                let expected = !query.text.ends_with("== 0") && !query.text.contains("signing_keys_end");
                if prometheus.query(&query.text).await?.is_empty() == expected {
                    silent.push(query);
                }
            }
            Ok(if silent.is_empty() { Ok(()) } else { Err(format!("{silent:?}")) })
        })
        .await?;
    no_alert_fires(scene, prometheus).await
}

/// Checks that every alert was evaluated without an error, and that none fires for this namespace
/// or for the operator. Alerts for other namespaces are ignored, because other tests have services
/// that are not Ready.
async fn no_alert_fires(scene: &Scene, prometheus: &Prometheus) -> Result<()> {
    let is_elsewhere = |alert: &Value| {
        let namespace = alert["labels"]["namespace"].as_str();
        namespace.is_some_and(|name| name != scene.namespace() && name != install::NAMESPACE)
    };
    let groups = prometheus.api("rules", &[]).await?;
    let rules: Vec<&Value> = groups["groups"]
        .as_array()
        .context("Prometheus has no rule groups")?
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .collect();
    ensure!(rules.len() > 10, "too few alerts: {groups}");
    for rule in rules {
        let alerts = rule["alerts"].as_array().context("the rule has no alerts")?;
        ensure!(
            rule["health"] == "ok" && alerts.iter().all(is_elsewhere),
            "an alert fires or could not be evaluated: {rule}"
        );
    }
    Ok(())
}

/// Checks that promtool accepts our programs' metrics without complaint. tor's own metrics are
/// excluded, because some of their names do not follow Prometheus' recommendations.
async fn promtool_accepts_the_programs_metrics(scene: &Scene) -> Result<()> {
    for (namespace, labels) in [
        (install::NAMESPACE, "app.kubernetes.io/name=onionbalance-operator"),
        (scene.namespace(), "app.kubernetes.io/component=frontend"),
        (scene.namespace(), "app.kubernetes.io/component=backend"),
    ] {
        let pods = pods(scene, namespace, labels).await?;
        let pod = pods.first().context("no pod has these labels")?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the pod has no address")?;
        let text = http_get(&format!("http://{address}:9402/metrics"), &[]).await?;
        output_with_input(&mut command("promtool", ["check", "metrics"]), &text)
            .await
            .with_context(|| format!("{}: {text}", pod.name_any()))?;
    }
    Ok(())
}

/// Returns the pods that are not terminating.
async fn pods(scene: &Scene, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(scene.client(), namespace);
    let mut found = pods.list(&ListParams::default().labels(labels)).await?.items;
    found.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(found)
}
