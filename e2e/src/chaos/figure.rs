//! The figures that a run measures, and their limits.

use std::fmt;

/// A limit that a figure must meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The figure must be at most this value.
    AtMost(f64),
    /// The figure must be less than this value.
    Below(f64),
    /// The figure must be at least this value.
    AtLeast(f64),
}

/// A measured result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The figure's name, in the form `<fault>_<what>`.
    pub name: String,
    /// The measured value. It is infinite if the awaited event never occurred.
    pub value: f64,
    /// The unit of the value.
    pub unit: &'static str,
    /// The limit that the value must meet. A figure without a limit is only reported.
    pub limit: Option<Limit>,
}

impl Figure {
    /// Creates a figure without a limit.
    pub fn new(name: String, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, limit: None }
    }

    /// Creates a figure from a count, without a limit.
    #[allow(clippy::cast_precision_loss, reason = "the counts are a few hundred")]
    pub fn count(name: String, value: usize, unit: &'static str) -> Self {
        Self::new(name, value as f64, unit)
    }

    /// Adds a limit to the figure.
    pub fn with(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Returns true if the value meets the limit, or if there is no limit.
    pub fn holds(&self) -> bool {
        match self.limit {
            None => true,
            Some(Limit::AtMost(most)) => self.value <= most,
            Some(Limit::Below(bound)) => self.value < bound,
            Some(Limit::AtLeast(least)) => self.value >= least,
        }
    }
}

/// Formats the figure as `figure <name> <value> <unit>`.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "figure {} {} {}", self.name, self.shown(), self.unit)
    }
}

impl Figure {
    fn shown(&self) -> String {
        if self.value.fract() == 0.0 { self.value.to_string() } else { format!("{:.1}", self.value) }
    }

    /// Returns the figure's row in the final table.
    pub fn row(&self) -> String {
        let must = match self.limit {
            None => String::new(),
            Some(Limit::AtMost(most)) => format!("at most {most}"),
            Some(Limit::Below(bound)) => format!("less than {bound}"),
            Some(Limit::AtLeast(least)) => format!("at least {least}"),
        };
        let verdict = if self.holds() { "" } else { "  MISSED" };
        let value = format!("{} {}", self.shown(), self.unit);
        format!("{:<42} {value:>16}  {must:<14}{verdict}", self.name).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_printed_with_its_unit_and_compared_with_its_limit() {
        let gone = Figure::new("backend_tor_kill_gone_s".to_owned(), 4.26, "s").with(Limit::AtMost(10.0));
        assert_eq!(gone.to_string(), "figure backend_tor_kill_gone_s 4.3 s");
        assert!(gone.holds());
        let never = Figure { value: f64::INFINITY, ..gone };
        assert!(!never.holds());
        assert!(never.row().ends_with("MISSED"));
        let few = Figure::count("scale_down_requests".to_owned(), 299, "requests").with(Limit::AtLeast(300.0));
        assert_eq!(few.to_string(), "figure scale_down_requests 299 requests");
        assert!(!few.holds());
        assert!(!Figure::new(String::new(), 10.0, "%").with(Limit::Below(10.0)).holds());
    }
}
