//! Metrics in the Prometheus text format (version 0.0.4).

use std::fmt::Write as _;
use std::time::Duration;

use super::histogram::Histogram;

/// A builder for the metrics text, which adds a prefix to every metric name.
#[derive(Debug)]
pub struct Exposition {
    prefix: &'static str,
    text: String,
}

impl Exposition {
    /// Creates a builder with an empty text. `prefix` is, for example, `onionbalance_agent`.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, text: String::new() }
    }

    /// Creates a builder whose text begins with a metric that has the program's version as a label.
    pub fn of_program(prefix: &'static str) -> Self {
        let mut text = Self::new(prefix);
        text.family("build_info", "gauge", "Always 1, with the version of the program");
        text.sample("build_info", concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1);
        text
    }

    /// Starts a new metric. `kind` is "gauge" or "counter".
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let prefix = self.prefix;
        self.line(format_args!("# HELP {prefix}_{name} {help}"));
        self.line(format_args!("# TYPE {prefix}_{name} {kind}"));
    }

    /// Adds a value to the metric that was started last. `labels` is empty or `{name="value"}`.
    pub fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let prefix = self.prefix;
        self.line(format_args!("{prefix}_{name}{labels} {value}"));
    }

    /// Adds a time in seconds to the metric that was started last.
    pub fn seconds(&mut self, name: &str, labels: &str, value: Duration) {
        let (prefix, seconds) = (self.prefix, value.as_secs_f64());
        self.line(format_args!("{prefix}_{name}{labels} {seconds}"));
    }

    /// Adds a histogram of times in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let counts = histogram.counts();
        for (bound, count) in counts.up_to {
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{}\"}}", bound.as_secs_f64()), count);
        }
        self.sample(&format!("{name}_bucket"), "{le=\"+Inf\"}", counts.all);
        self.seconds(&format!("{name}_sum"), "", counts.sum);
        self.sample(&format!("{name}_count"), "", counts.all);
    }

    /// Returns the complete metrics text.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// Escapes a label value for use between quotes.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Helpers for the tests that compare the programs' metrics with `docs/metrics.md`.
#[cfg(test)]
pub(crate) mod page {
    /// Returns the name, kind and help text of each metric in a metrics text.
    pub(crate) fn families(text: &str) -> Vec<String> {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        let family = |pair: &[&str]| {
            let (name, help) = pair[0].strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
            let kind = pair[1].strip_prefix("# TYPE ").unwrap().strip_prefix(name).unwrap().trim();
            format!("{name} {kind}: {help}")
        };
        lines.chunks(2).map(family).collect()
    }

    /// Returns the name, kind and meaning of each metric with the given prefix in
    /// `docs/metrics.md`.
    pub(crate) fn documented(prefix: &str) -> Vec<String> {
        let rows = include_str!("../../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `"));
        let ours = rows.filter(|row| row.starts_with(prefix));
        let cells = ours.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        cells.map(|cells| format!("{} {}: {}", cells[0].trim_end_matches('`'), cells[1], cells[3])).collect()
    }
}
