//! The figures that a run measures.

use std::fmt;

/// A measured result of a run with one fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The name of the measured quantity. With the fault's name in front, this is the figure's
    /// full name.
    pub what: String,
    /// The measured value. It is infinite if the awaited event never occurred.
    pub value: f64,
    /// The unit of the value.
    pub unit: String,
}

impl Figure {
    /// Creates a figure. The value is rounded to one decimal, so that a limit judges what the
    /// reader sees.
    pub fn new(what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { what: what.into(), value: (value * 10.0).round() / 10.0, unit: unit.to_owned() }
    }

    /// Creates a figure from a duration.
    pub fn seconds(what: impl Into<String>, value: f64) -> Self {
        Self::new(what, value, "s")
    }

    /// Creates a figure from a count.
    #[allow(clippy::cast_precision_loss, reason = "the counts are a few hundred")]
    pub fn count(what: impl Into<String>, value: usize, unit: &str) -> Self {
        Self::new(what, value as f64, unit)
    }

    /// Returns the value with at most one decimal.
    pub fn shown(&self) -> String {
        if self.value.fract() == 0.0 { self.value.to_string() } else { format!("{:.1}", self.value) }
    }
}

/// All figures of a run with one fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The fault's name.
    pub fault: String,
    /// The figures in the order in which they are printed.
    pub figures: Vec<Figure>,
}

impl Results {
    /// Returns the figure that measured `what`.
    pub fn get(&self, what: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.what == what)
    }
}

/// Formats each figure as a line `figure <fault>_<what> <value> <unit>`.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for figure in &self.figures {
            let line = format!("figure {}_{} {} {}", self.fault, figure.what, figure.shown(), figure.unit);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_a_line_with_the_faults_name_and_the_unit() {
        let figures = vec![
            Figure::seconds("gone_s", 4.26),
            Figure::count("failed", 2, "requests"),
            Figure::new("load", 0.0, ""),
            Figure::seconds("republished_s", f64::INFINITY),
        ];
        let results = Results { fault: "tor_kill".to_owned(), figures };
        assert_eq!(
            results.to_string(),
            "figure tor_kill_gone_s 4.3 s\nfigure tor_kill_failed 2 requests\nfigure tor_kill_load 0\n\
             figure tor_kill_republished_s inf s\n"
        );
        assert_eq!(results.get("failed").map(|figure| figure.value), Some(2.0));
    }
}
