//! Runs Debian's Prometheus as a process on this machine, and generates its scrape configuration
//! from the chart's monitors in the same way as the Prometheus operator, which does not run here.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::command::{command, output};
use crate::process::Processes;
use crate::wait::{Seen, until};

const NAME: &str = "prometheus";

/// A running Prometheus.
pub struct Prometheus {
    processes: Processes,
    url: String,
    dir: PathBuf,
}

impl Prometheus {
    /// Starts Prometheus with the given configuration. Its data is stored in the folder
    /// `prometheus` in `dir`.
    pub async fn start(dir: &Path, configuration: &Value) -> Result<Self> {
        let processes = Processes::open(dir)?;
        processes.stop(NAME).await?;
        let dir = dir.join(NAME);
        crate::node::remove_dir(&dir).await?;
        std::fs::create_dir_all(&dir)?;
        // JSON is also valid YAML.
        let file = dir.join("prometheus.yaml");
        std::fs::write(&file, configuration.to_string())?;
        output(&mut command("promtool", ["check".as_ref(), "config".as_ref(), file.as_os_str()])).await?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut program = Command::new("prometheus");
        program.arg("--config.file").arg(file).arg("--storage.tsdb.path").arg(dir.join("data"));
        program.arg("--web.listen-address").arg(&address);
        processes.start(NAME, &mut program)?;
        let prometheus = Self { processes, url: format!("http://{address}"), dir };
        until("Prometheus is ready", Duration::from_secs(60), async || {
            prometheus.processes.check(NAME)?;
            Ok(match prometheus.get("/-/ready", &[]).await {
                Ok(_) => Seen::Yes(()),
                Err(error) => Seen::not_yet(error.to_string()),
            })
        })
        .await?;
        Ok(prometheus)
    }

    /// Stops Prometheus and removes its data.
    pub async fn remove(self) -> Result<()> {
        self.processes.stop(NAME).await?;
        crate::node::remove_dir(&self.dir).await
    }

    /// Returns the current samples of a query.
    pub async fn query(&self, text: &str) -> Result<Vec<Value>> {
        let data = self.api("query", &["--get", "--data-urlencode", &format!("query={text}")]).await?;
        match &data["result"] {
            Value::Array(samples) => Ok(samples.clone()),
            other => bail!("the query {text} has no list of results: {other}"),
        }
    }

    /// Returns the single number that a query yields, or 0 if the query has no result.
    pub async fn number(&self, text: &str) -> Result<f64> {
        match &self.query(text).await?[..] {
            [] => Ok(0.0),
            [sample] => sample["value"][1]
                .as_str()
                .context("the sample has no value")?
                .parse()
                .context("the sample is not a number"),
            several => bail!("the query {text} has several results: {several:?}"),
        }
    }

    /// Requests `/api/v1/<path>` and returns the field `data` of the response.
    pub async fn api(&self, path: &str, arguments: &[&str]) -> Result<Value> {
        let answer: Value = serde_json::from_str(&self.get(&format!("/api/v1/{path}"), arguments).await?)?;
        Ok(answer["data"].clone())
    }

    async fn get(&self, path: &str, arguments: &[&str]) -> Result<String> {
        http_get(&format!("{}{path}", self.url), arguments).await
    }
}

/// Requests a URL and returns the body of a successful response.
pub async fn http_get(url: &str, arguments: &[&str]) -> Result<String> {
    let mut curl = command("curl", ["--silent", "--show-error", "--fail-with-body", "--max-time", "10"]);
    output(curl.args(arguments).arg(url)).await
}

/// Returns the scrape jobs for a `PodMonitor`, one per endpoint. The jobs scrape only those of
/// `pods` that the monitor selects.
pub fn scrape_configs(monitor: &Value, pods: &[Pod]) -> Result<Vec<Value>> {
    let (name, spec) = (monitor["metadata"]["name"].as_str().context("the monitor has no name")?, &monitor["spec"]);
    let mut jobs = Vec::new();
    for endpoint in spec["podMetricsEndpoints"].as_array().context("the monitor has no endpoints")? {
        let mut relabel = Vec::new();
        for (label, value) in spec["selector"]["matchLabels"].as_object().context("the monitor selects no labels")? {
            relabel.push(json!({"action": "keep", "source_labels": [pod_label(label)], "regex": value}));
        }
        relabel.push(json!({
            "action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": endpoint["port"],
        }));
        for (from, to) in [("namespace", "namespace"), ("pod_container_name", "container"), ("pod_name", "pod")] {
            relabel.push(json!({"source_labels": [format!("__meta_kubernetes_{from}")], "target_label": to}));
        }
        relabel.extend(relabelings(&endpoint["relabelings"])?);
        let path = endpoint["path"].as_str().unwrap_or("/metrics");
        jobs.push(json!({
            "job_name": format!("{name}{path}"),
            "metrics_path": path,
            "honor_labels": endpoint["honorLabels"] == true,
            "static_configs": pods.iter().flat_map(targets).collect::<Vec<_>>(),
            "relabel_configs": relabel,
            "metric_relabel_configs": relabelings(&endpoint["metricRelabelings"])?,
        }));
    }
    Ok(jobs)
}

/// Returns a pod's ports with the labels that Prometheus' Kubernetes discovery would attach.
/// Debian's Prometheus is built without that discovery.
fn targets(pod: &Pod) -> Vec<Value> {
    let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()) else { return Vec::new() };
    let mut labels = BTreeMap::from([
        ("__meta_kubernetes_namespace".to_owned(), pod.namespace().unwrap_or_default()),
        ("__meta_kubernetes_pod_name".to_owned(), pod.name_any()),
    ]);
    labels.extend(pod.labels().iter().map(|(label, value)| (pod_label(label), value.clone())));
    let mut found = Vec::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        for port in container.ports.iter().flatten() {
            labels.insert("__meta_kubernetes_pod_container_name".to_owned(), container.name.clone());
            let name = port.name.clone().unwrap_or_default();
            labels.insert("__meta_kubernetes_pod_container_port_name".to_owned(), name);
            found.push(json!({"targets": [format!("{address}:{}", port.container_port)], "labels": labels}));
        }
    }
    found
}

/// Returns the name that Prometheus' Kubernetes discovery gives a pod label.
fn pod_label(label: &str) -> String {
    let name: String = label.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    format!("__meta_kubernetes_pod_label_{name}")
}

/// Translates relabelings from the Prometheus operator's field names to those of Prometheus.
fn relabelings(list: &Value) -> Result<Vec<Value>> {
    let translated = |one: &Value| {
        let fields = one.as_object().context("a relabeling is not an object")?.iter().map(|(field, value)| {
            let field = match field.as_str() {
                "sourceLabels" => "source_labels",
                "targetLabel" => "target_label",
                known @ ("regex" | "action") => known,
                other => bail!("a relabeling has a field that this test does not translate: {other}"),
            };
            Ok((field.to_owned(), value.clone()))
        });
        fields.collect::<Result<serde_json::Map<_, _>>>().map(Value::Object)
    };
    list.as_array().into_iter().flatten().map(translated).collect()
}
