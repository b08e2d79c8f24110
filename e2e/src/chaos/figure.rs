//! Figures, and what they must be.

use std::fmt;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most this.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// At least this.
    AtLeast(f64),
}

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// `<fault>_<what>`
    pub name: String,
    /// Infinite when what was awaited never came.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it must be; None: it is only told.
    pub limit: Option<Limit>,
}

impl Figure {
    /// One that is only told.
    pub fn told(name: String, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, limit: None }
    }

    /// A count that is only told.
    #[allow(clippy::cast_precision_loss, reason = "counts of some hundreds")]
    pub fn count(name: String, value: usize, unit: &'static str) -> Self {
        Self::told(name, value as f64, unit)
    }

    /// The same, to be held against a limit.
    pub fn with(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Whether it is as it must be.
    pub fn holds(&self) -> bool {
        match self.limit {
            None => true,
            Some(Limit::AtMost(most)) => self.value <= most,
            Some(Limit::Below(bound)) => self.value < bound,
            Some(Limit::AtLeast(least)) => self.value >= least,
        }
    }
}

/// `figure <name> <value> <unit>`
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "figure {} {} {}", self.name, self.shown(), self.unit)
    }
}

impl Figure {
    fn shown(&self) -> String {
        if self.value.fract() == 0.0 { self.value.to_string() } else { format!("{:.1}", self.value) }
    }

    /// A line of the table at the end.
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
    fn a_figure_is_printed_with_its_unit_and_held_against_its_limit() {
        let gone = Figure::told("backend_tor_kill_gone_s".to_owned(), 4.26, "s").with(Limit::AtMost(10.0));
        assert_eq!(gone.to_string(), "figure backend_tor_kill_gone_s 4.3 s");
        assert!(gone.holds());
        let never = Figure { value: f64::INFINITY, ..gone };
        assert!(!never.holds());
        assert!(never.row().ends_with("MISSED"));
        let few = Figure::count("scale_down_requests".to_owned(), 299, "requests").with(Limit::AtLeast(300.0));
        assert_eq!(few.to_string(), "figure scale_down_requests 299 requests");
        assert!(!few.holds());
        assert!(!Figure::told(String::new(), 10.0, "%").with(Limit::Below(10.0)).holds());
    }
}
