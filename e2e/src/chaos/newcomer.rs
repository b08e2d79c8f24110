//! A service from `kubectl apply` to the first page, and what took how long.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use onionbalance_operator::link::METRICS_PORT;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::stage::Stage;
use crate::service::Service;
use crate::torclient::get;
use crate::wait::{Seen, until};

/// What is awaited, in the order in which it must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The operator has made it: a backend's pod is there.
    Made,
    /// All containers of a backend's pod run.
    Running,
    /// A backend's tor has bootstrapped.
    Bootstrapped,
    /// A backend's tor has an introduction point.
    Introduced,
    /// The frontend's tor has bootstrapped.
    FrontendUp,
    /// The publisher has made a descriptor.
    Described,
    /// An HSDir has accepted it.
    Accepted,
    /// A client got a page.
    Fetched,
}

/// When each step was first seen.
#[derive(Debug)]
pub struct Newcomer {
    applied: Instant,
    seen: BTreeMap<Step, Instant>,
}

const LIMIT: Duration = Duration::from_secs(180);

impl Newcomer {
    /// Applies a service of this name with three backends, and removes it once a client was there.
    pub async fn comes(stage: &Stage, name: &str) -> Result<Self> {
        let object = format!(
            "apiVersion: onionbalance.dev/v1alpha1\nkind: OnionBalancedService\nmetadata: {{name: {name}}}\nspec:\n  \
             deletionPolicy: Delete\n  ports: [{{port: 80, target: {{address: \"{}\"}}}}]\n  backends: {{replicas: 3}}\n",
            stage.target()
        );
        let service = Service::new(&stage.cluster.client().await?, &stage.namespace, name);
        let applied = Instant::now();
        stage.kubectl.run_with_input(&["--namespace", &stage.namespace, "apply", "-f", "-"], &object).await?;
        let mut newcomer = Self { applied, seen: BTreeMap::new() };
        let ((), onion) = tokio::try_join!(newcomer.look(&service), service.onion_address())?;
        newcomer.seen.insert(Step::Fetched, fetch(stage, &onion).await?);
        stage.run(&format!("delete obs/{name} --wait=false")).await?;
        let label = format!("onionbalance.dev/service={name}");
        stage.run(&format!("delete pods --selector={label} --grace-period=1 --wait=false")).await?;
        Ok(newcomer)
    }

    /// The parts, by name: each from when it could begin. `own` is all but what tors do: bootstrap, introduce, upload, fetch.
    pub fn parts(&self) -> Vec<(&'static str, Duration)> {
        let at = |step| self.seen.get(&step).copied().unwrap_or(self.applied);
        let between = |from, to| at(to).saturating_duration_since(at(from));
        let operator = at(Step::Made) - self.applied;
        let start = between(Step::Made, Step::Running);
        // What the publisher waits for: both tors.
        let tors = at(Step::Introduced).max(at(Step::FrontendUp));
        let merge = at(Step::Described).saturating_duration_since(tors);
        vec![
            ("total", at(Step::Fetched) - self.applied),
            ("operator", operator),
            ("pod_start", start),
            ("bootstrap", between(Step::Running, Step::Bootstrapped)),
            ("introduction", between(Step::Bootstrapped, Step::Introduced)),
            ("frontend_later", at(Step::FrontendUp).saturating_duration_since(at(Step::Introduced))),
            ("merge", merge),
            ("upload", between(Step::Described, Step::Accepted)),
            ("fetch", between(Step::Accepted, Step::Fetched)),
            ("own", operator + start + merge),
        ]
    }

    async fn look(&mut self, service: &Service) -> Result<()> {
        until("a descriptor is accepted", LIMIT, async || {
            let pods = service.pods().await?;
            for pod in &pods {
                self.look_at(pod).await;
            }
            let accepted = self.seen.contains_key(&Step::Accepted);
            Ok(if accepted { Seen::Yes(()) } else { Seen::NotYet(format!("{:?}", self.seen.keys())) })
        })
        .await
    }

    /// A program that does not answer yet has nothing to tell.
    async fn look_at(&mut self, pod: &Pod) {
        let is_backend = pod.metadata.labels.iter().flatten().any(|(_, value)| value == "backend");
        if is_backend {
            self.note(Step::Made);
        }
        let Some(status) = &pod.status else { return };
        let containers = status.container_statuses.iter().flatten();
        let running = containers.clone().count() > 0
            && containers
                .clone()
                .all(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
        let Some(address) = status.pod_ip.as_deref().filter(|_| running) else { return };
        if is_backend {
            self.note(Step::Running);
        }
        let awaited: &[(Step, &str)] = if is_backend {
            &[
                (Step::Bootstrapped, "onionbalance_agent_bootstrapped"),
                (Step::Introduced, "onionbalance_agent_introduction_points"),
            ]
        } else {
            &[
                (Step::FrontendUp, "onionbalance_publisher_tor_up"),
                (Step::Described, "onionbalance_publisher_descriptors_total"),
                (Step::Accepted, "onionbalance_publisher_uploads_total{result=\"accepted\"}"),
            ]
        };
        if awaited.iter().all(|(step, _)| self.seen.contains_key(step)) {
            return;
        }
        let Ok(page) = metrics(address).await else { return };
        for (step, sample) in awaited {
            if value(&page, sample) > 0.0 {
                self.note(*step);
            }
        }
    }

    fn note(&mut self, step: Step) {
        self.seen.entry(step).or_insert_with(Instant::now);
    }
}

/// Clients that know nothing of the service try, one after another; gives when one got there.
async fn fetch(stage: &Stage, onion: &str) -> Result<Instant> {
    until("a client gets there", LIMIT, async || {
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

async fn metrics(address: &str) -> Result<String> {
    let page = async {
        let mut stream = TcpStream::connect(format!("{address}:{METRICS_PORT}")).await?;
        get(&mut stream, address, "/metrics").await
    };
    timeout(Duration::from_secs(2), page).await?
}

/// A sample's value; 0 when there is none.
fn value(page: &str, sample: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_where_they_could() {
        let applied = Instant::now();
        let at = |seconds| applied + Duration::from_secs(seconds);
        let seen = BTreeMap::from([
            (Step::Made, at(1)),
            (Step::Running, at(3)),
            (Step::Bootstrapped, at(6)),
            (Step::Introduced, at(8)),
            (Step::FrontendUp, at(9)),
            (Step::Described, at(10)),
            (Step::Accepted, at(11)),
            (Step::Fetched, at(14)),
        ]);
        let parts: BTreeMap<_, _> = Newcomer { applied, seen }.parts().into_iter().collect();
        let seconds = |part: &str| parts[part].as_secs();
        assert_eq!(["total", "operator", "pod_start", "bootstrap"].map(seconds), [14, 1, 2, 3]);
        assert_eq!(["introduction", "frontend_later", "merge", "upload", "fetch"].map(seconds), [2, 1, 1, 1, 3]);
        assert_eq!(seconds("own"), 4);
        let tors = ["bootstrap", "introduction", "frontend_later", "upload", "fetch"].map(seconds);
        assert_eq!(tors.iter().sum::<u64>() + seconds("own"), seconds("total"));
    }

    #[test]
    fn a_sample_is_found_by_its_whole_name() {
        let page = "x_total 1\nx 2\nx{result=\"accepted\"} 3\n";
        assert_eq!(value(page, "x").to_string(), "2");
        assert_eq!(value(page, "x{result=\"accepted\"}").to_string(), "3");
        assert_eq!(value(page, "y").to_string(), "0");
    }
}
