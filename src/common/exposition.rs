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

/// A label's value, as it stands between quotes.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `docs/metrics.md` beside what a part says, for the parts' tests.
#[cfg(test)]
pub(crate) mod page {
    /// Name, kind and meaning of each metric in a part's text.
    pub(crate) fn families(text: &str) -> Vec<String> {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        let family = |pair: &[&str]| {
            let (name, help) = pair[0].strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
            let kind = pair[1].strip_prefix("# TYPE ").unwrap().strip_prefix(name).unwrap().trim();
            format!("{name} {kind}: {help}")
        };
        lines.chunks(2).map(family).collect()
    }

    /// Those of the page whose names begin with this.
    pub(crate) fn documented(prefix: &str) -> Vec<String> {
        let rows = include_str!("../../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `"));
        let ours = rows.filter(|row| row.starts_with(prefix));
        let cells = ours.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        cells.map(|cells| format!("{} {}: {}", cells[0].trim_end_matches('`'), cells[1], cells[3])).collect()
    }
}
