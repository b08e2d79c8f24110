//! Renders the publisher's `/metrics` page in the Prometheus text format (version 0.0.4).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::external::FetchCounts;
use super::probe::PortReport;
use super::view::BackendView;
use crate::common::exposition::Exposition;
use crate::crd::{BackendState, GuardsProblemKind, ProbeResult};
use crate::link::Layer;
use crate::merge::{PeriodStatus, UploadError};
use crate::onion::kit::Coverage;

/// The values that the metrics page shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// True if the publisher has a control connection to a bootstrapped tor.
    pub(super) tor_up: bool,
    /// True if this publisher is the leader.
    pub(super) leading: bool,
    /// The state of each backend.
    pub(super) backends: Vec<BackendView>,
    /// The published descriptors of each time period.
    pub(super) periods: Vec<PeriodStatus>,
    /// The number of HSDirs that lack the newest descriptor of a time period because their uploads
    /// fail.
    pub(super) hsdirs_failing: usize,
    /// The time for which the uploads to one of these HSDirs have failed, at most.
    pub(super) longest_failing: Duration,
    /// The number of publishing rounds whose revision counter rose because of rejections.
    pub(super) counter_rises: u64,
    /// How long the signing kits last. None if the publisher has the master key.
    pub(super) coverage: Option<Coverage>,
    pub(super) counts: Counts,
    pub(super) guards: GuardFigures,
    pub(super) vanguards: VanguardFigures,
    /// The results of the last probes, by port. Empty unless this publisher is the leader.
    pub(super) probes: BTreeMap<u16, PortReport>,
}

/// The numbers of entry guards. They are 0 unless this publisher leads and keeps shared guards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GuardFigures {
    /// The number of guards in the shared sample.
    pub(super) shared: usize,
    /// The number of distinct guards that the tors of the service try first.
    pub(super) preferred: usize,
    /// The number of guards that the tors of the service may try first.
    pub(super) in_use: usize,
    /// The kind of the problem with the Secret, if there was one in the last hour.
    pub(super) problem: Option<GuardsProblemKind>,
}

/// The numbers of vanguards, by layer. They are 0 if the pods share no vanguards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct VanguardFigures {
    /// True if the pods share vanguards.
    pub(super) shared: bool,
    /// The number of relays in each layer, or 0 unless this publisher leads.
    pub(super) sizes: [usize; 2],
    /// The number of relays that this publisher has chosen since its start.
    pub(super) replaced: [u64; 2],
    /// The number of backends whose tor does not use the present vanguards.
    pub(super) outdated: usize,
}

/// The counters of the metrics page, counted since the start of the publisher.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// The number of publishing rounds. Each round builds the descriptors for all HSDirs of one
    /// time period.
    pub(super) rounds: u64,
    /// The number of uploads that HSDirs accepted.
    pub(super) accepted: u64,
    /// The number of uploads that HSDirs rejected because of the revision counter or the format.
    pub(super) rejected: u64,
    /// The number of uploads that failed for another reason.
    pub(super) failed: u64,
    /// The number of fetches of external backends' descriptors, by result.
    pub(super) fetches: FetchCounts,
}

impl Counts {
    /// Counts an upload according to its result.
    pub(super) fn uploaded(&mut self, result: &Result<(), UploadError>) {
        let count = match result {
            Ok(()) => &mut self.accepted,
            Err(UploadError::Rejected) => &mut self.rejected,
            Err(_) => &mut self.failed,
        };
        *count += 1;
    }
}

type PeriodFigure = fn(&PeriodStatus) -> u64;

/// Renders the metrics page.
pub(super) fn render(figures: &Figures) -> String {
    let mut text = Exposition::of_program("onionbalance_publisher");
    text.family("tor_up", "gauge", "1 if the publisher has a control connection to a bootstrapped tor");
    text.sample("tor_up", "", figures.tor_up.into());
    text.family("leading", "gauge", "1 if this publisher is the leader, which alone publishes");
    text.sample("leading", "", figures.leading.into());

    backends(&mut text, &figures.backends);
    let per_period: [(&str, &str, PeriodFigure); 5] = [
        ("revision", "Revision counter of the newest descriptors", |period| period.revision_counter),
        ("introduction_points", "Introduction points in the newest descriptors", |period| {
            period.introduction_points as u64
        }),
        ("distinct_descriptors", "Distinct descriptors that the HSDirs should hold now", |period| {
            period.descriptors as u64
        }),
        ("hsdirs_accepted", "HSDirs that accepted the newest descriptor", |period| period.hsdirs_accepted as u64),
        ("hsdirs", "Responsible HSDirs", |period| period.hsdirs_total as u64),
    ];
    for (name, help, value) in per_period {
        text.family(name, "gauge", help);
        for period in &figures.periods {
            text.sample(name, &format!("{{period=\"{}\"}}", period.period.number), value(period));
        }
    }

    failures(&mut text, figures);
    render_coverage(&mut text, figures.coverage.as_ref());
    text.family(
        "descriptors_total",
        "counter",
        "Descriptors built, counting the distinct descriptors of one time period as one",
    );
    text.sample("descriptors_total", "", figures.counts.rounds);
    render_uploads(&mut text, &figures.counts);
    render_guards(&mut text, figures.guards);
    render_vanguards(&mut text, figures.vanguards);
    text.finish() + &probes(&figures.probes)
}

/// Adds the metrics of the exchanges with HSDirs.
fn render_uploads(text: &mut Exposition, counts: &Counts) {
    text.family("uploads_total", "counter", "Uploads to individual HSDirs, by result");
    let Counts { accepted, rejected, failed, .. } = *counts;
    for (result, count) in [("accepted", accepted), ("rejected", rejected), ("failed", failed)] {
        text.sample("uploads_total", &format!("{{result=\"{result}\"}}"), count);
    }
    text.family(
        "external_fetches_total",
        "counter",
        "Requests to individual HSDirs for descriptors of external backends, by result",
    );
    let FetchCounts { found, failed } = counts.fetches;
    for (result, count) in [("found", found), ("failed", failed)] {
        text.sample("external_fetches_total", &format!("{{result=\"{result}\"}}"), count);
    }
}

/// Adds the metrics of the signing kits, which have no value if the publisher has the master key.
fn render_coverage(text: &mut Exposition, coverage: Option<&Coverage>) {
    text.family(
        "signing_keys_end_seconds",
        "gauge",
        "Unix time at which the signing kits end, or 0 if they have ended",
    );
    if let Some(Coverage { until, .. }) = coverage {
        let end = until.and_then(|until| until.duration_since(SystemTime::UNIX_EPOCH).ok());
        text.sample("signing_keys_end_seconds", "", end.unwrap_or_default().as_secs());
    }
    text.family("signing_keys_missing", "gauge", "Time periods to publish now that no signing kit covers");
    if let Some(Coverage { missing, .. }) = coverage {
        text.sample("signing_keys_missing", "", *missing as u64);
    }
}

/// A value that a probe yields, if it yields the value.
type Count = fn(&PortReport) -> Option<u64>;

/// Renders the results of the probes, with the names that Onionprobe uses for its metrics.
fn probes(reports: &BTreeMap<u16, PortReport>) -> String {
    let mut text = Exposition::new("onion_service");
    let counts: [(&str, &str, Count); 5] = [
        ("reachable", "1 if the last probe of the port got an answer", |report| match report.result {
            ProbeResult::NotMade => None,
            result => Some((result == ProbeResult::Answered).into()),
        }),
        ("connection_attempts", "Attempts of the last probe of the port", |report| {
            Some(report.measured.attempts.into())
        }),
        ("status_code", "HTTP status in the last probe of the port, if it is the expected one", |report| {
            report.measured.http_status.map(u64::from)
        }),
        ("descriptor_reachable", "1 if the last probe of the port fetched the descriptor", |report| {
            match report.result {
                ProbeResult::NotMade => None,
                _ => Some(report.measured.descriptor.is_some().into()),
            }
        }),
        ("descriptor_fetch_attempts", "Requests for the descriptor in the last probe of the port", |report| {
            Some(report.measured.fetches.into())
        }),
    ];
    for (name, help, value) in counts {
        text.family(name, "gauge", help);
        for (port, report) in reports {
            if let Some(value) = value(report) {
                text.sample(name, &format!("{{port=\"{port}\"}}"), value);
            }
        }
    }
    let latencies = [
        ("latency_seconds", "Time from the fetched descriptor to the answer in the last probe of the port"),
        ("descriptor_latency_seconds", "Time in which the last probe of the port fetched the descriptor"),
    ];
    for (name, help) in latencies {
        text.family(name, "gauge", help);
        for (port, report) in reports {
            let is_descriptor = name.starts_with("descriptor");
            let latency = if is_descriptor { report.measured.descriptor } else { report.measured.connection };
            if let Some(latency) = latency {
                text.seconds(name, &format!("{{port=\"{port}\"}}"), latency);
            }
        }
    }
    text.finish()
}

fn backends(text: &mut Exposition, backends: &[BackendView]) {
    text.family("backends", "gauge", "Backends by state");
    let states = [
        BackendState::Starting,
        BackendState::Ready,
        BackendState::Waiting,
        BackendState::Excluded,
        BackendState::Unhealthy,
        BackendState::Draining,
        BackendState::Lost,
    ];
    for state in states {
        let count = backends.iter().filter(|backend| backend.state == state).count();
        text.sample("backends", &format!("{{state=\"{state:?}\"}}"), count as u64);
    }

    text.family("backends_curtailed", "gauge", "Backends with something in their descriptor that cannot be published");
    let curtailed = backends.iter().filter(|backend| backend.message.is_some()).count();
    text.sample("backends_curtailed", "", curtailed as u64);

    text.family("backends_failing", "gauge", "Backends that report a failing target");
    let failing = backends.iter().filter(|backend| !backend.failing.is_empty()).count();
    text.sample("backends_failing", "", failing as u64);
}

fn failures(text: &mut Exposition, figures: &Figures) {
    text.family("hsdirs_failing", "gauge", "HSDirs that lack the newest descriptor because their uploads fail");
    text.sample("hsdirs_failing", "", figures.hsdirs_failing as u64);
    text.family(
        "hsdirs_failing_seconds",
        "gauge",
        "Time for which the uploads to one of these HSDirs have failed, at most",
    );
    text.sample("hsdirs_failing_seconds", "", figures.longest_failing.as_secs());
    text.family(
        "revision_rises_total",
        "counter",
        "Descriptors with a greater revision counter because HSDirs rejected the last ones",
    );
    text.sample("revision_rises_total", "", figures.counter_rises);
    text.family(
        "foreign_publisher",
        "gauge",
        "1 if another publisher with the same master key was noticed in the last hours",
    );
    text.sample("foreign_publisher", "", figures.periods.iter().any(|period| period.foreign.is_some()).into());
}

fn render_guards(text: &mut Exposition, GuardFigures { shared, preferred, in_use, problem }: GuardFigures) {
    text.family("guards", "gauge", "Entry guards that all tors of the service share");
    text.sample("guards", "", shared as u64);
    text.family("guards_preferred", "gauge", "Distinct entry guards that the tors of the service try first");
    text.sample("guards_preferred", "", preferred as u64);
    text.family("guards_allowed", "gauge", "Distinct entry guards that the tors of the service may try first");
    text.sample("guards_allowed", "", in_use as u64);
    text.family("guards_problem", "gauge", "1 if the guards' Secret had this problem in the last hour");
    for (name, kind) in [("Replaced", GuardsProblemKind::Replaced), ("NotKept", GuardsProblemKind::NotKept)] {
        text.sample("guards_problem", &format!("{{kind=\"{name}\"}}"), u64::from(problem == Some(kind)));
    }
}

fn render_vanguards(text: &mut Exposition, VanguardFigures { sizes, replaced, outdated, .. }: VanguardFigures) {
    let layers = Layer::ALL.map(|layer| format!("{{layer=\"{}\"}}", layer.number()));
    text.family("vanguards", "gauge", "Relays in each layer of vanguards that all tors of the service share");
    for (label, size) in layers.iter().zip(sizes) {
        text.sample("vanguards", label, size as u64);
    }
    text.family("vanguards_chosen_total", "counter", "Relays chosen as shared vanguards, by layer");
    for (label, count) in layers.iter().zip(replaced) {
        text.sample("vanguards_chosen_total", label, count);
    }
    text.family("vanguards_outdated", "gauge", "Backends whose tor does not use the present shared vanguards");
    text.sample("vanguards_outdated", "", outdated as u64);
}

#[cfg(test)]
mod tests;
