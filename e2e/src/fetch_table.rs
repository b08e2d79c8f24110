//! Prints how a service's backends share the fetches.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use anyhow::Result;

use crate::spread::{Spread, Verdict};

/// A table of the fetches that each backend served. On a terminal, it is redrawn in place;
/// elsewhere, each fetch prints a line, and the table follows at the end.
pub struct FetchTable {
    total: usize,
    shows_stale: bool,
    is_live: bool,
    lines: usize,
    fetches: usize,
}

impl FetchTable {
    /// Returns a table for the given number of fetches.
    pub fn new(total: usize) -> Self {
        Self { total, shows_stale: true, is_live: std::io::stdout().is_terminal(), lines: 0, fetches: 0 }
    }

    /// Leaves out the time of stale points, which only the agents can tell.
    pub fn without_stale(self) -> Self {
        Self { shows_stale: false, ..self }
    }

    /// Shows the counts after a fetch. `last` describes this fetch.
    pub fn show(&mut self, spread: &Spread, last: &str) -> Result<()> {
        self.fetches += 1;
        let mut out = std::io::stdout().lock();
        let table = self.draw(spread)?;
        if self.is_live {
            if self.lines > 0 {
                write!(out, "\x1b[{}A\x1b[J", self.lines)?;
            }
            writeln!(out, "{table}{last}")?;
            self.lines = table.lines().count() + 1;
        } else {
            writeln!(out, "{:>2}/{} {last}", self.fetches, self.total)?;
            if self.fetches == self.total {
                write!(out, "{table}")?;
            }
        }
        Ok(out.flush()?)
    }

    fn draw(&self, spread: &Spread) -> Result<String> {
        let all: u32 = spread.backends().values().map(|count| count.points).sum();
        let mut text = format!("{}/{} fetches, {} failed", self.fetches, self.total, spread.failures());
        if self.shows_stale {
            let longest = spread.longest_stale().as_secs_f64();
            write!(text, "; stale points in the descriptor for {longest:.1} s at most")?;
        }
        writeln!(text, "\n{:<40} {:>8} {:>7} {:>9}", "BACKEND", "POINTS", "SERVED", "EXPECTED")?;
        for (name, count) in spread.backends() {
            let points = format!("{} of {all}", count.points);
            let mark = if count.verdict() == Verdict::Unfair { "  not its share" } else { "" };
            writeln!(text, "{name:<40} {points:>8} {:>7} {:>9.1}{mark}", count.served, count.expected)?;
        }
        Ok(text)
    }
}
