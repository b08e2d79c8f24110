//! Metrics in the Prometheus text format (version 0.0.4).

use std::fmt::Write as _;

/// A text in the making. Every name gets the part's prefix.
#[derive(Debug)]
pub struct Exposition {
    prefix: &'static str,
    text: String,
}

impl Exposition {
    /// `prefix` is for example `onionbalance_agent`.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, text: String::new() }
    }

    /// Begins a metric; `kind` is "gauge" or "counter".
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let prefix = self.prefix;
        self.line(format_args!("# HELP {prefix}_{name} {help}"));
        self.line(format_args!("# TYPE {prefix}_{name} {kind}"));
    }

    /// A value of the metric begun last; `labels` is empty or `{name="value"}`.
    pub fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let prefix = self.prefix;
        self.line(format_args!("{prefix}_{name}{labels} {value}"));
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}
