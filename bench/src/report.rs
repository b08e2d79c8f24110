//! The figures of a run, and the comparison of the figures with their targets.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::jiff::Timestamp;
use onionbalance_e2e::machine;

use crate::targets::Target;

/// The figures that a run has measured so far.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<(String, f64)>,
}

/// The result of comparing a figure with its target.
struct Verdict {
    met: bool,
    /// The target, the measured value, and the distance between the two.
    line: String,
}

impl Report {
    /// Starts a report, and prints the date, the command, the machine and its load. `version` names
    /// the program that the benchmark uses, with its version. A page that quotes the figures quotes
    /// this line, too.
    pub fn begin(version: &str) -> Result<Self> {
        let date: String = Timestamp::now().to_string().chars().take(10).collect();
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let load = fs::read_to_string("/proc/loadavg")?;
        println!(
            "Measured on {date} with `onionbalance-bench {command}`: {}, {version}; load average at the start: {}.",
            machine::describe()?,
            load.split(' ').next().unwrap_or_default()
        );
        Ok(Self::default())
    }

    /// Records a figure, and prints the line `figure <name> <value> <unit>`.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        println!("{}", format!("figure {name} {value:.3} {unit}").trim_end());
        self.figures.push((name.to_owned(), value));
    }

    /// Records and prints a duration in milliseconds.
    pub fn figure_ms(&mut self, name: &str, value: Duration) {
        self.figure(name, value.as_secs_f64() * 1000.0, "ms");
    }

    /// Prints a line for each target, which says whether the run met the target and by how much.
    /// Returns an error that names every missed target.
    pub fn judge<'a>(&self, targets: impl IntoIterator<Item = &'a Target>) -> Result<()> {
        let verdicts: Vec<_> = targets.into_iter().map(|target| self.verdict(target)).collect();
        for verdict in &verdicts {
            println!("target {}", verdict.line);
        }
        let missed: Vec<_> = verdicts.iter().filter(|verdict| !verdict.met).map(|verdict| &*verdict.line).collect();
        ensure!(missed.is_empty(), "{} of {} targets missed:\n  {}", missed.len(), verdicts.len(), missed.join("\n  "));
        println!("all {} targets met", verdicts.len());
        Ok(())
    }

    /// Compares a target's figure with the target. A figure that the run did not measure misses
    /// its target.
    fn verdict(&self, target: &Target) -> Verdict {
        let Target { figure, limit, .. } = target;
        let Some((_, value)) = self.figures.iter().find(|(name, _)| name == figure) else {
            return Verdict { met: false, line: format!("{figure}: not measured, must be {limit}: MISSED") };
        };
        let met = limit.allows(*value);
        let difference = (value - limit.bound()).abs();
        // The limit can be 0, of which no difference is a percentage.
        let by = if limit.bound() == 0.0 {
            format!("{difference:.0}")
        } else {
            format!("{:.0}%", 100.0 * difference / limit.bound())
        };
        let result = if met { "met" } else { "MISSED" };
        Verdict { met, line: format!("{figure}: {value:.3}, must be {limit}: {result} by {by}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::{Benchmark, Limit};

    const TARGETS: [Target; 3] = [
        target("upload_s", Limit::AtMost(3.0)),
        target("python_to_build", Limit::AtLeast(10.0)),
        target("writes", Limit::AtMost(0.0)),
    ];

    const fn target(figure: &'static str, limit: Limit) -> Target {
        Target { benchmark: Benchmark::Figures, figure, limit, reason: "" }
    }

    fn report(figures: &[(&str, f64)]) -> Report {
        let mut report = Report::default();
        for (name, value) in figures {
            report.figure(name, *value, "s");
        }
        report
    }

    fn lines(report: &Report) -> Vec<String> {
        TARGETS.iter().map(|target| report.verdict(target).line).collect()
    }

    #[test]
    fn a_run_that_meets_every_target_succeeds() {
        let report = report(&[("upload_s", 0.75), ("other", 9.0), ("python_to_build", 10.0), ("writes", 0.0)]);
        report.judge(&TARGETS).unwrap();
        assert_eq!(
            lines(&report),
            [
                "upload_s: 0.750, must be at most 3: met by 75%",
                "python_to_build: 10.000, must be at least 10: met by 0%",
                "writes: 0.000, must be at most 0: met by 0",
            ]
        );
    }

    #[test]
    fn a_missed_target_fails_the_run_and_the_error_names_every_missed_target() {
        let report = report(&[("upload_s", 3.3), ("python_to_build", 17.0), ("writes", 2.0)]);
        let error = report.judge(&TARGETS).unwrap_err().to_string();
        assert_eq!(
            error,
            "2 of 3 targets missed:\n  \
             upload_s: 3.300, must be at most 3: MISSED by 10%\n  \
             writes: 2.000, must be at most 0: MISSED by 2"
        );
        assert_eq!(lines(&report)[1], "python_to_build: 17.000, must be at least 10: met by 70%");
    }

    #[test]
    fn a_figure_that_was_not_measured_or_is_not_a_number_misses_its_target() {
        let report = report(&[("upload_s", f64::NAN), ("writes", 0.0)]);
        let error = report.judge(&TARGETS).unwrap_err().to_string();
        assert!(error.starts_with("2 of 3 targets missed"), "{error}");
        assert!(error.contains("upload_s: NaN, must be at most 3: MISSED"), "{error}");
        assert!(error.contains("python_to_build: not measured, must be at least 10: MISSED"), "{error}");
    }
}
