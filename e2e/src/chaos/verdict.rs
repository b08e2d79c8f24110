//! Compares the figures of a run with their limits.

use anyhow::{Result, bail};

use super::figure::Results;
use super::limit::Limit;

/// The figures of a run with one fault, and the limits that they must meet.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The figures.
    pub results: Results,
    /// The limits. A figure without a limit is only reported.
    pub limits: Vec<Limit>,
}

impl Judged {
    /// Returns one line for each limit that is missed. A limit whose figure was not measured counts
    /// as missed.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.limits.iter().filter(|limit| !limit.holds(&self.results));
        missed
            .map(|limit| {
                let value = self.results.get(limit.what).map_or_else(
                    || "was not measured".to_owned(),
                    |figure| format!("is {} {}", figure.shown(), figure.unit).trim_end().to_owned(),
                );
                format!("{}_{} {value}, the limit is {}", self.results.fault, limit.what, limit.bound)
            })
            .collect()
    }

    /// Returns one line for each figure, with its limit if it has one.
    pub fn rows(&self) -> String {
        let row = |figure: &super::figure::Figure| {
            let limit = self.limits.iter().find(|limit| limit.what == figure.what);
            let must = limit.map(|limit| limit.bound.to_string()).unwrap_or_default();
            let verdict = if limit.is_none_or(|limit| limit.holds(&self.results)) { "" } else { "  MISSED" };
            let (name, value) = (format!("{}_{}", self.results.fault, figure.what), figure.shown());
            format!("{name:<42} {:>16}  {must:<22}{verdict}", format!("{value} {}", figure.unit)).trim_end().to_owned()
        };
        self.results.figures.iter().map(row).collect::<Vec<_>>().join("\n")
    }
}

/// Returns an error if a limit is missed or a fault produced no figures.
pub fn verdict(judged: &[Judged], broken: &[&str]) -> Result<()> {
    let missed: Vec<_> = judged.iter().flat_map(Judged::missed).collect();
    match (missed.as_slice(), broken) {
        ([], []) => Ok(()),
        (_, []) => bail!("these figures miss their limits: {}", missed.join("; ")),
        _ => bail!(
            "these faults failed to produce figures: {}; these figures miss their limits: {}",
            broken.join(", "),
            missed.join("; ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::figure::Figure;
    use crate::chaos::limit::Bound;

    fn judged(gone: f64) -> Judged {
        let figures = vec![Figure::seconds("gone_s", gone), Figure::count("streams", 60, "streams")];
        Judged {
            results: Results { fault: "tor_kill".to_owned(), figures },
            limits: vec![Limit::new("gone_s", Bound::AtMost(10.0))],
        }
    }

    #[test]
    fn a_missed_limit_a_missing_figure_and_a_broken_fault_are_errors() {
        assert!(verdict(&[judged(9.5)], &[]).is_ok());
        assert!(verdict(&[judged(9.5)], &["scale_down"]).is_err());
        let error = verdict(&[judged(10.5)], &[]).unwrap_err().to_string();
        assert_eq!(error, "these figures miss their limits: tor_kill_gone_s is 10.5 s, the limit is at most 10");
        let mut missing = judged(9.5);
        missing.results.figures.clear();
        assert_eq!(missing.missed(), ["tor_kill_gone_s was not measured, the limit is at most 10"]);
    }

    #[test]
    fn a_row_shows_the_limit_and_whether_the_figure_meets_it() {
        let rows = judged(10.5).rows();
        let rows: Vec<_> = rows.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(rows, ["tor_kill_gone_s 10.5 s at most 10 MISSED", "tor_kill_streams 60 streams"]);
    }
}
