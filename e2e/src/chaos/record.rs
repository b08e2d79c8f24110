//! The file that contains the figures of one complete run.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::jiff::Timestamp;

use super::faults::all;
use super::figure::{Figure, Results};
use crate::cluster::Cluster;
use crate::machine;

/// The figures of one run of `make chaos`, with the date and the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The date on which the run began, in UTC.
    pub date: String,
    /// The command that made the run.
    pub command: String,
    /// The machine, the versions of the programs and the kind of build.
    pub machine: String,
    /// The figures of each fault, in the order of the run.
    pub results: Vec<Results>,
}

impl Record {
    /// Creates a record without figures, with today's date and a description of this machine.
    #[allow(clippy::disallowed_methods, reason = "the record contains the date of the run")]
    pub async fn begin(cluster: &Cluster, names: &[&str]) -> Result<Self> {
        let date = Timestamp::now().to_string().chars().take(10).collect();
        let command = if names.len() == all().len() {
            "make chaos".to_owned()
        } else {
            format!("make chaos FAULTS={}", names.join(","))
        };
        Ok(Self { date, command, machine: describe(cluster).await?, results: Vec::new() })
    }

    /// Parses the text of a record. Fails if a line is not understood or names an unknown fault.
    pub fn parse(text: &str) -> Result<Self> {
        let mut record =
            Self { date: String::new(), command: String::new(), machine: String::new(), results: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.split_once(' ') {
                Some(("date", date)) => date.clone_into(&mut record.date),
                Some(("command", command)) => command.clone_into(&mut record.command),
                Some(("machine", machine)) => machine.clone_into(&mut record.machine),
                Some(("figure", figure)) => record.add(figure).with_context(|| format!("invalid line {line:?}"))?,
                _ => bail!("invalid line {line:?}"),
            }
        }
        for (word, value) in [("date", &record.date), ("command", &record.command), ("machine", &record.machine)] {
            anyhow::ensure!(!value.is_empty(), "the line that begins with {word:?} is missing");
        }
        Ok(record)
    }

    fn add(&mut self, figure: &str) -> Result<()> {
        let mut words = figure.splitn(3, ' ');
        let (name, value) = (words.next().unwrap_or_default(), words.next().context("the value is missing")?);
        let (fault, what) = all()
            .iter()
            .find_map(|fault| Some((fault.name().to_owned(), name.strip_prefix(fault.name())?.strip_prefix('_')?)))
            .with_context(|| format!("no fault has a figure {name:?}"))?;
        let figure = Figure::new(what, value.parse()?, words.next().unwrap_or_default());
        match self.results.iter_mut().find(|results| results.fault == fault) {
            Some(results) => results.figures.push(figure),
            None => self.results.push(Results { fault, figures: vec![figure] }),
        }
        Ok(())
    }

    /// Returns the figures of a fault.
    pub fn of(&self, fault: &str) -> Option<&Results> {
        self.results.iter().find(|results| results.fault == fault)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "date {}\ncommand {}\nmachine {}", self.date, self.command, self.machine)?;
        self.results.iter().try_for_each(|results| write!(f, "\n{results}"))
    }
}

/// Describes this machine, the build, and the versions of tor and Kubernetes.
async fn describe(cluster: &Cluster) -> Result<String> {
    let kubernetes = cluster.client().await?.apiserver_version().await?.git_version;
    Ok(format!("{}, {}, Kubernetes {kubernetes}", machine::describe()?, machine::tor_version().await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with the figures of two faults, one of which has no figure with a unit.
    const TEXT: &str = "date 2026-12-01\ncommand make chaos\nmachine Debian 12, 2 × AMD EPYC, release build\n\n\
         figure backend_tor_kill_requests 300 requests\nfigure backend_tor_kill_gone_s 3.2 s\n\n\
         figure frontend_tor_kill_republished_s inf s\nfigure frontend_tor_kill_load 2.5\n";

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record::parse(TEXT).unwrap();
        assert_eq!(record.to_string(), TEXT);
        assert_eq!(record.of("backend_tor_kill").unwrap().get("gone_s"), Some(&Figure::seconds("gone_s", 3.2)));
        assert_eq!(record.of("scale_down"), None);
    }

    #[test]
    fn damaged_records_are_refused() {
        for (old, new) in [
            ("date 2026-12-01\n", ""),
            ("figure backend", "figure unknown"),
            ("300", "many"),
            ("figure frontend_tor_kill_load 2.5", "figure frontend_tor_kill_load"),
            ("machine", "device"),
        ] {
            assert!(TEXT.contains(old));
            assert!(Record::parse(&TEXT.replacen(old, new, 1)).is_err(), "{new:?}");
        }
    }
}
