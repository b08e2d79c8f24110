//! The file that contains the figures of all faults.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::jiff::Timestamp;

use super::faults::all;
use super::figure::{Figure, Results};
use crate::cluster::Cluster;
use crate::command::{command, output};
use crate::machine;
use crate::state::source_tree;

/// One run of `make chaos`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Run {
    /// The date on which the run began, in UTC.
    pub date: String,
    /// The command that made the run.
    pub command: String,
    /// The machine, the kind of build, the versions of the programs, and the commit of the source
    /// tree.
    pub machine: String,
}

/// The figures of one run of `make chaos`, or of several runs with different faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The runs.
    pub runs: Vec<Run>,
    /// The figures of each fault, in the order of the runs.
    pub results: Vec<Results>,
}

impl Record {
    /// Creates a record of one run without figures, with today's date and a description of this
    /// machine.
    #[allow(clippy::disallowed_methods, reason = "the record contains the date of the run")]
    pub async fn begin(cluster: &Cluster, names: &[&str]) -> Result<Self> {
        let date = Timestamp::now().to_string().chars().take(10).collect();
        let command = if names.len() == all().len() {
            "make chaos".to_owned()
        } else {
            format!("make chaos FAULTS={}", names.join(","))
        };
        let run = Run { date, command, machine: describe(cluster).await? };
        Ok(Self { runs: vec![run], results: Vec::new() })
    }

    /// Parses the text of a record, or the texts of several records one after another. Fails if a
    /// line is not understood or names an unknown fault, or if a figure is there twice.
    pub fn parse(text: &str) -> Result<Self> {
        let mut record = Self { runs: Vec::new(), results: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (word, rest) = line.split_once(' ').with_context(|| format!("invalid line {line:?}"))?;
            match word {
                "date" => record.runs.push(Run { date: rest.to_owned(), ..Run::default() }),
                "command" => rest.clone_into(&mut record.last_run()?.command),
                "machine" => rest.clone_into(&mut record.last_run()?.machine),
                "figure" => record.add(rest).with_context(|| format!("invalid line {line:?}"))?,
                _ => bail!("invalid line {line:?}"),
            }
        }
        record.last_run()?;
        for run in &record.runs {
            for (word, value) in [("date", &run.date), ("command", &run.command), ("machine", &run.machine)] {
                ensure!(!value.is_empty(), "the line that begins with {word:?} is missing");
            }
        }
        Ok(record)
    }

    fn last_run(&mut self) -> Result<&mut Run> {
        self.runs.last_mut().context("the line that begins with \"date\" is missing")
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
            Some(results) => {
                ensure!(results.get(what).is_none(), "the figure is there twice");
                results.figures.push(figure);
            }
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
        for run in &self.runs {
            writeln!(f, "date {}\ncommand {}\nmachine {}", run.date, run.command, run.machine)?;
        }
        self.results.iter().try_for_each(|results| write!(f, "\n{results}"))
    }
}

/// Describes this machine, the build, the versions of tor and Kubernetes, and the commit of the
/// source tree, if git knows one.
async fn describe(cluster: &Cluster) -> Result<String> {
    let kubernetes = cluster.client().await?.apiserver_version().await?.git_version;
    let tree = source_tree().display().to_string();
    let git = ["-C", &tree, "describe", "--always", "--match=", "--abbrev=12", "--dirty=, modified"];
    let commit = output(&mut command("git", git)).await.map(|commit| format!(", commit {}", commit.trim()));
    let (machine, tor) = (machine::describe()?, machine::tor_version().await?);
    Ok(format!("{machine}, {tor}, Kubernetes {kubernetes}{}", commit.unwrap_or_default()))
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
    fn two_runs_with_different_faults_make_one_record() {
        let other = "date 2026-12-02\ncommand make chaos FAULTS=scale_down\nmachine Debian 13\n\n\
                     figure scale_down_requests 301 requests\n";
        let record = Record::parse(&format!("{TEXT}{other}")).unwrap();
        let dates: Vec<_> = record.runs.iter().map(|run| &*run.date).collect();
        assert_eq!(dates, ["2026-12-01", "2026-12-02"]);
        assert!(record.of("backend_tor_kill").is_some() && record.of("scale_down").is_some());
        assert_eq!(Record::parse(&record.to_string()).unwrap(), record);
        assert!(Record::parse(&format!("{TEXT}{TEXT}")).is_err(), "each figure is there twice");
        assert!(Record::parse(&format!("{TEXT}{}", other.replace("machine Debian 13\n", ""))).is_err());
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
