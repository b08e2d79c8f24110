//! Measures the time from `kubectl apply` of a service to the first page that a client gets, step
//! by step.
//!
//! The time of an event in a pod is the time at which the container runtime read the event's log
//! line. The API server would report a running container only after the kubelet's next status sync,
//! long after the container's tor has started to bootstrap.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::time::{Instant, timeout};

use super::metrics;
use super::stage::Stage;
use crate::service::Service;
use crate::wait::{Seen, until};

/// A step between the creation of a service and the first page that a client gets from the service.
/// `BackendStarted`, `BackendUp` and `Introduced` all describe the backend that is the first to
/// have introduction points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The operator has created a backend's pod.
    Made,
    /// The backend's tor has logged its first line, so the pod has started.
    BackendStarted,
    /// The backend's tor has bootstrapped.
    BackendUp,
    /// The backend's agent has seen an introduction point.
    Introduced,
    /// The frontend's tor has logged its first line.
    FrontendStarted,
    /// The frontend's tor has bootstrapped.
    FrontendUp,
    /// The publisher has created a descriptor.
    Described,
    /// An HSDir has accepted the descriptor.
    Accepted,
    /// A client has fetched a page.
    Fetched,
}

/// The time from the start of `kubectl apply` to each step.
#[derive(Debug, Default)]
pub struct FirstFetch(BTreeMap<Step, Duration>);

const LIMIT: Duration = Duration::from_secs(180);

impl FirstFetch {
    /// Applies a service with this name and three backends, measures the steps, and deletes the
    /// service.
    pub async fn measure(stage: &Stage, name: &str) -> Result<Self> {
        let object = format!(
            "apiVersion: onionbalance.dev/v1alpha1\nkind: OnionBalancedService\nmetadata: {{name: {name}}}\nspec:\n  \
             deletionPolicy: Delete\n  ports: [{{port: 80, target: {{address: \"{}\"}}}}]\n  backends: {{replicas: 3}}\n",
            stage.target()
        );
        let service = Service::new(&stage.cluster.client().await?, &stage.namespace, name);
        let (applied, applied_since_epoch) = (Instant::now(), wall_clock()?);
        stage.kubectl.run_with_input(&["--namespace", &stage.namespace, "apply", "-f", "-"], &object).await?;
        let mut times = Self::default();
        let ((), onion) = tokio::try_join!(times.watch_status(&service, applied), service.onion_address())?;
        times.0.insert(Step::Fetched, fetch(stage, &onion).await? - applied);
        times.read_logs(stage, &service, applied_since_epoch).await?;
        remove(stage, &service, name).await?;
        Ok(times)
    }

    /// Returns the total time and its parts, by name. The parts follow the slower of two paths,
    /// that of the backend's tor or that of the frontend's tor, and add up to `total`. `own` is not
    /// a further part: it is the total time without the time in which tor bootstraps, introduces,
    /// uploads and fetches.
    pub fn parts(&self) -> Vec<(&'static str, Duration)> {
        let at = |step| self.0.get(&step).copied().unwrap_or_default();
        let between = |from, to| at(to).saturating_sub(at(from));
        let [started, up, last] = if at(Step::FrontendUp) > at(Step::Introduced) {
            [Step::FrontendStarted, Step::FrontendUp, Step::FrontendUp]
        } else {
            [Step::BackendStarted, Step::BackendUp, Step::Introduced]
        };
        let (operator, start, merge) = (at(Step::Made), between(Step::Made, started), between(last, Step::Described));
        vec![
            ("total", at(Step::Fetched)),
            ("operator", operator),
            ("pod_start", start),
            ("bootstrap", between(started, up)),
            ("introduction", between(up, last)),
            ("merge", merge),
            ("upload", between(Step::Described, Step::Accepted)),
            ("fetch", between(Step::Accepted, Step::Fetched)),
            ("own", operator + start + merge),
        ]
    }

    /// Records when the first pod of a backend has been created, and when an HSDir has accepted the
    /// first descriptor.
    async fn watch_status(&mut self, service: &Service, applied: Instant) -> Result<()> {
        until("a descriptor is accepted", LIMIT, async || {
            for pod in &service.pods().await? {
                if is_backend(pod) {
                    self.0.entry(Step::Made).or_insert_with(|| applied.elapsed());
                } else if has_accepted(pod).await {
                    self.0.insert(Step::Accepted, applied.elapsed());
                    return Ok(Seen::Yes(()));
                }
            }
            Ok(Seen::NotYet(format!("{:?}", self.0.keys())))
        })
        .await
    }

    /// Records the steps that the pods' logs contain. `applied` is the time of `kubectl apply`
    /// since the Unix epoch, like the times in the logs.
    async fn read_logs(&mut self, stage: &Stage, service: &Service, applied: Duration) -> Result<()> {
        const UP: &str = "Bootstrapped 100%";
        let mut backends = Vec::new();
        for pod in &service.pods().await? {
            let name = pod.name_any();
            let log = async |container| stage.run(&format!("logs {name} --container={container} --timestamps")).await;
            let tor = log("tor").await?;
            let after = |log: &str, words| first(log, words).map(|at| at.saturating_sub(applied));
            if is_backend(pod) {
                // Skip a backend that has no points yet.
                if let Some(introduced) = after(&log("agent").await?, "introduction points changed") {
                    backends.push([Some(introduced), after(&tor, ""), after(&tor, UP)]);
                }
            } else {
                let described = after(&log("publisher").await?, "publishing a new descriptor period=");
                self.note(Step::FrontendStarted, after(&tor, ""))?;
                self.note(Step::FrontendUp, after(&tor, UP))?;
                self.note(Step::Described, described)?;
            }
        }
        let [introduced, started, up] = backends.into_iter().min().context("no backend has introduction points")?;
        self.note(Step::BackendStarted, started)?;
        self.note(Step::BackendUp, up)?;
        self.note(Step::Introduced, introduced)
    }

    fn note(&mut self, step: Step, after: Option<Duration>) -> Result<()> {
        self.0.insert(step, after.with_context(|| format!("no log contains the step {step:?}"))?);
        Ok(())
    }
}

fn is_backend(pod: &Pod) -> bool {
    pod.metadata.labels.iter().flatten().any(|(_, value)| value == "backend")
}

/// Returns the time since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "log times follow the wall clock")]
fn wall_clock() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// Returns the time of the first log line that contains `words`, counted from the Unix epoch. Each
/// line begins with its time.
fn first(log: &str, words: &str) -> Option<Duration> {
    let line = log.lines().find(|line| line.contains(words))?;
    let time: Timestamp = line.split(' ').next()?.parse().ok()?;
    time.as_duration().try_into().ok()
}

/// Returns true if an HSDir has accepted an upload by the frontend's publisher. Returns false if
/// none has, or if the publisher does not answer yet.
async fn has_accepted(pod: &Pod) -> bool {
    let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) else { return false };
    let page = metrics::page(address).await.unwrap_or_default();
    metrics::value(&page, "onionbalance_publisher_uploads_total{result=\"accepted\"}") > 0.0
}

/// Tries one client after another until one of them reaches the service, and returns the time of
/// this success. Each client first drops its descriptors.
async fn fetch(stage: &Stage, onion: &str) -> Result<Instant> {
    until("a client reaches the service", LIMIT, async || {
        let Some(mut client) = stage.clients.take() else { return Ok(Seen::not_yet("no client is free")) };
        client.forget().await?;
        let answer = timeout(Duration::from_secs(30), crate::torclient::connect(client.socks(), onion, onion)).await;
        stage.clients.give_back(client);
        Ok(match answer.context("no answer").and_then(|answer| answer) {
            Ok(_) => Seen::Yes(Instant::now()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}

/// Deletes the service and waits until its pods are gone. The kubelet would otherwise still be busy
/// removing them when the next service starts.
async fn remove(stage: &Stage, service: &Service, name: &str) -> Result<()> {
    stage.run(&format!("delete obs/{name} --wait=false")).await?;
    let label = format!("onionbalance.dev/service={name}");
    until("the service's pods are gone", LIMIT, async || {
        stage.run(&format!("delete pods --selector={label} --grace-period=1 --wait=false")).await?;
        let left = service.pods().await?.len();
        Ok(if left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{left} pods are left")) })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(frontend_up: u64) -> FirstFetch {
        let steps = [
            (Step::Made, 1),
            (Step::BackendStarted, 3),
            (Step::BackendUp, 6),
            (Step::Introduced, 8),
            (Step::FrontendStarted, 5),
            (Step::FrontendUp, frontend_up),
            (Step::Described, 10),
            (Step::Accepted, 11),
            (Step::Fetched, 14),
        ];
        FirstFetch(steps.map(|(step, seconds)| (step, Duration::from_secs(seconds))).into())
    }

    #[test]
    fn the_parts_follow_the_slower_path() {
        let names = ["operator", "pod_start", "bootstrap", "introduction", "merge", "upload", "fetch"];
        for (frontend_up, expected, own) in [(7, [1, 2, 3, 2, 2, 1, 3], 5), (9, [1, 4, 4, 0, 1, 1, 3], 6)] {
            let parts: BTreeMap<_, _> = times(frontend_up).parts().into_iter().collect();
            assert_eq!(names.map(|part| parts[part].as_secs()), expected);
            assert_eq!(parts["own"].as_secs(), own);
            assert_eq!(names.iter().map(|part| parts[part]).sum::<Duration>(), parts["total"]);
        }
    }

    #[test]
    fn the_first_log_line_with_the_words_is_used() {
        let log = "2026-11-26T04:05:02.126000001Z Nov 26 04:05:02.126 [notice] Tor 0.4.9.11 running\n\
                   2026-11-26T04:05:03.5Z Nov 26 04:05:03.000 [notice] Bootstrapped 100% (done): Done\n\
                   2026-11-26T04:05:04.5Z Nov 26 04:05:04.000 [notice] Bootstrapped 100% (done): Done\n";
        let start = first(log, "").unwrap();
        assert_eq!(start.subsec_nanos(), 126_000_001, "the time keeps its nanoseconds");
        assert_eq!(first(log, "Bootstrapped 100%"), Some(start + Duration::from_nanos(1_373_999_999)));
        assert_eq!(first(log, "introduction points changed"), None);
        assert_eq!(first("error: container not found", ""), None);
    }
}
