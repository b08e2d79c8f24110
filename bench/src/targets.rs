//! The targets of the benchmarks. A benchmark fails if it misses one of its targets.
//!
//! A figure named `<a>_to_<b>` is the ratio of two times, rates or sizes that the same run has
//! measured, so that the speed of the machine hardly affects it.

use std::fmt;

/// A limit for a figure.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The benchmark that measures the figure.
    pub benchmark: Benchmark,
    /// The name of the figure.
    pub figure: &'static str,
    /// The limit that the figure must meet.
    pub limit: Limit,
    /// The reason for the limit, as a sentence.
    pub reason: &'static str,
}

/// The values that a figure may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most this value.
    AtMost(f64),
    /// At least this value.
    AtLeast(f64),
}

impl Limit {
    /// Returns true if the value meets the limit. A value that is not a number meets no limit.
    pub fn allows(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    /// Returns the number that values are compared with.
    pub fn bound(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound,
        }
    }
}

/// Formats the limit as in `at most 10`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// A benchmark that has targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// The publisher, compared with Python Onionbalance.
    Figures,
    /// The agent's forwarder, compared with direct streams.
    Forwarder,
    /// A service with three guards in use, compared with one guard.
    Guards,
    /// A whole service at rest, next to a large consensus.
    Sizing,
    /// The programs while strangers flood them with connections.
    Strangers,
    /// The operator with many objects, compared with a bare client.
    Scale,
}

use Benchmark::{Figures, Forwarder, Guards, Scale, Sizing, Strangers};
use Limit::{AtLeast, AtMost};

const fn target(benchmark: Benchmark, figure: &'static str, limit: Limit, reason: &'static str) -> Target {
    Target { benchmark, figure, limit, reason }
}

const MEMORY: &str = "A flood must not drive a program beyond its container's memory limit.";
const CONNECTIONS: &str = "No listener may keep more connections open than its limit of 64.";
const REQUEST: &str = "A scheduler must be able to rely on the container's requests.";
const LINES: &str = "A flood must not fill the logs.";

/// The targets of all benchmarks. `docs/performance.md` has the same table.
pub const TARGETS: [Target; 41] = [
    target(
        Figures,
        "descriptor_build_to_signatures",
        AtMost(1.5),
        "Signatures, which nothing can avoid, must take most of the time.",
    ),
    target(
        Figures,
        "python_to_descriptor_build",
        AtLeast(12.0),
        "A service with many backends publishes up to 12 different descriptors.",
    ),
    target(
        Figures,
        "revision_counter_48h_to_build",
        AtMost(0.2),
        "An old shared random value must not make descriptors expensive.",
    ),
    target(
        Figures,
        "delegated_to_descriptor_build",
        AtMost(1.2),
        "A delegated service must publish as fast as one with its master key.",
    ),
    target(Figures, "consensus_9000_ms", AtMost(100.0), "A new consensus must not delay the next upload noticeably."),
    target(Figures, "python_to_consensus_9000", AtLeast(40.0), "Python takes seconds to read a consensus."),
    target(Figures, "first_upload_s", AtMost(3.0), "A restarted publisher must publish again within seconds."),
    target(Figures, "daemon_first_upload_s", AtMost(3.0), "A restarted daemon must publish again within seconds."),
    target(Figures, "frontend_rss_mib", AtMost(15.0), "The daemon must fit on a small server."),
    target(
        Figures,
        "python_to_frontend_rss",
        AtLeast(2.0),
        "The daemon must need less memory than the program that it replaces.",
    ),
    target(
        Figures,
        "frontend_rss_9000_mib",
        AtMost(32.0),
        "The publisher's container, which reads the same consensus, requests 32 MiB.",
    ),
    target(
        Figures,
        "python_to_frontend_rss_9000",
        AtLeast(6.0),
        "The daemon must need less memory than the program that it replaces.",
    ),
    target(Forwarder, "forwarder_to_direct", AtLeast(0.6), "The forwarder must not slow down a stream through tor."),
    target(Forwarder, "forwarder_alone_to_plain", AtLeast(0.1), "The forwarder only copies bytes between two sockets."),
    target(
        Forwarder,
        "forwarder_alone_to_circuit",
        AtLeast(20.0),
        "The circuit, not the forwarder, must limit a client's throughput.",
    ),
    target(
        Forwarder,
        "forwarder_refused_ms",
        AtMost(1000.0),
        "A client must learn within a second that the target is down.",
    ),
    target(
        Forwarder,
        "forwarder_stream_kib",
        AtMost(32.0),
        "Clients can open thousands of streams and read from none of them.",
    ),
    target(
        Guards,
        "guard_throughput_three_to_one",
        AtLeast(1.5),
        "Three guards must carry considerably more than one, because a user accepts more exposure for this.",
    ),
    target(Sizing, "sizing_backend_tor_mib", AtMost(96.0), REQUEST),
    target(Sizing, "sizing_backend_tor_millicores", AtMost(50.0), REQUEST),
    target(Sizing, "sizing_agent_mib", AtMost(32.0), REQUEST),
    target(Sizing, "sizing_agent_millicores", AtMost(10.0), REQUEST),
    target(Sizing, "sizing_frontend_tor_mib", AtMost(96.0), REQUEST),
    target(Sizing, "sizing_frontend_tor_millicores", AtMost(50.0), REQUEST),
    target(Sizing, "sizing_publisher_mib", AtMost(32.0), REQUEST),
    target(Sizing, "sizing_publisher_millicores", AtMost(10.0), REQUEST),
    target(Strangers, "strangers_agent_rss_to_rest", AtMost(2.0), MEMORY),
    target(Strangers, "strangers_publisher_rss_to_rest", AtMost(2.0), MEMORY),
    target(Strangers, "strangers_operator_rss_to_rest", AtMost(2.0), MEMORY),
    target(Strangers, "strangers_agent_open", AtMost(64.0), CONNECTIONS),
    target(Strangers, "strangers_publisher_open", AtMost(64.0), CONNECTIONS),
    target(Strangers, "strangers_operator_open", AtMost(64.0), CONNECTIONS),
    target(Strangers, "strangers_agent_log_lines", AtMost(100.0), LINES),
    target(Strangers, "strangers_publisher_log_lines", AtMost(100.0), LINES),
    target(Strangers, "strangers_operator_log_lines", AtMost(100.0), LINES),
    target(
        Strangers,
        "strangers_probe_ms",
        AtMost(1000.0),
        "The kubelet waits for a second by default, and restarts a container that fails its liveness probe.",
    ),
    target(Strangers, "strangers_streams_failed", AtMost(0.0), "A flood must not affect the streams of clients."),
    target(
        Scale,
        "objects_to_bare",
        AtLeast(0.6),
        "The operator must not be much slower than a client that applies the manifests and looks up no names.",
    ),
    target(
        Scale,
        "requests_to_bare",
        AtMost(2.7),
        "The operator looks up the name of each owned object, applies the object, and makes few other requests.",
    ),
    target(Scale, "operator_rss_peak_mib", AtMost(100.0), "500 objects must fit into a small container."),
    target(Scale, "writes_at_rest", AtMost(0.0), "The operator must not write while nothing changes."),
];

/// Returns the targets of the given benchmarks.
pub fn of(benchmarks: &[Benchmark]) -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().filter(|target| benchmarks.contains(&target.benchmark))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the rows of the page's table of targets. The cells of a row are the figure, the
    /// target, the measured value and the reason.
    fn rows_of_the_page() -> Vec<Vec<&'static str>> {
        let page = include_str!("../../docs/performance.md");
        let (_, section) = page.split_once("\n## Targets\n").expect("the page has no section \"Targets\"");
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    #[test]
    fn the_page_has_the_same_targets() {
        let stated: Vec<_> = rows_of_the_page()
            .into_iter()
            .map(|row| (row[0].to_owned(), row[1].to_owned(), row[3].to_owned()))
            .collect();
        let expected = TARGETS
            .map(|target| (format!("`{}`", target.figure), target.limit.to_string(), target.reason.to_owned()))
            .to_vec();
        assert_eq!(stated, expected, "see docs/performance.md");
    }

    /// The measured values of a benchmark come from one run, so either all are missing or none.
    #[test]
    fn the_figures_on_the_page_meet_their_targets() {
        let rows: Vec<_> = rows_of_the_page().into_iter().zip(TARGETS).collect();
        let is_measured =
            |benchmark: Benchmark| rows.iter().any(|(row, target)| target.benchmark == benchmark && !row[2].is_empty());
        for (row, target) in rows.iter().filter(|(_, target)| is_measured(target.benchmark)) {
            let measured: f64 = row[2].parse().unwrap_or_else(|_| panic!("{row:?} has no measured value"));
            assert!(target.limit.allows(measured), "{row:?} misses its target");
        }
    }

    #[test]
    fn a_limit_includes_its_bound() {
        assert!(AtMost(2.0).allows(2.0) && !AtMost(2.0).allows(2.1));
        assert!(AtLeast(2.0).allows(2.0) && !AtLeast(2.0).allows(1.9));
        for limit in [AtMost(2.0), AtLeast(2.0)] {
            assert!(!limit.allows(f64::NAN), "{limit}");
        }
        assert_eq!(
            (AtMost(100.0).to_string(), AtLeast(0.7).to_string()),
            ("at most 100".into(), "at least 0.7".into())
        );
    }

    #[test]
    fn a_benchmark_is_compared_with_its_own_targets() {
        let names: Vec<_> = of(&[Forwarder]).map(|target| target.figure).collect();
        assert_eq!(names.len(), 5);
        assert!(names.iter().all(|name| name.starts_with("forwarder_")), "{names:?}");
        assert_eq!(of(&[Figures, Forwarder, Guards, Sizing, Strangers, Scale]).count(), TARGETS.len());
    }
}
