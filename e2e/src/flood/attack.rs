//! The flood of introductions, which also watches what the HSDirs hold. It uses none of the
//! product's code.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::live::PointAnswers;
use crate::chaos::judge::{self, HsDirAnswer};
use crate::descriptor::Descriptor;
use crate::torclient::TorClient;

/// A process that floods a service, and that asks every HSDir for both descriptors about once a
/// second. Dropping this value ends the process.
#[derive(Debug)]
pub struct Attack {
    rate: ChildStdin,
    seen: Arc<Mutex<Observed>>,
    reading: JoinHandle<Result<()>>,
}

/// The answers that the process has got.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The answers of the HSDirs.
    pub answers: Vec<HsDirAnswer>,
    /// The answers of the introduction points.
    pub points: PointAnswers,
    /// The number of introductions by outcome.
    pub outcomes: Outcomes,
}

/// The number of introductions by outcome, since the process started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcomes {
    /// The relay passed the introduction on to the service.
    pub passed_on: usize,
    /// The relay knows no such introduction point, or limits its introductions.
    pub refused: usize,
    /// The relay did not answer.
    pub failed: usize,
}

/// A line of JSON that the process prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Point { point: String, answer: Option<u16> },
    HsDir(judge::Line),
}

impl Attack {
    /// Starts the process, which watches but does not flood yet. It reads the consensus from the
    /// client's tor. Everything that it prints is written to a log, too.
    pub async fn start(
        client: &TorClient,
        onion: &str,
        hsdirs: impl IntoIterator<Item = &String>,
        log: &Path,
    ) -> Result<Self> {
        let mut flood = Descriptor::flood(client.tor(), onion, hsdirs).await?;
        let mut child = flood.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let rate = child.stdin.take().context("descriptor.py has no standard input")?;
        let seen = Arc::default();
        let reading = tokio::spawn(read(child, Arc::clone(&seen), File::create(log)?));
        Ok(Self { rate, seen, reading })
    }

    /// Floods from now on at this rate, in introductions per second.
    pub async fn flood(&mut self, per_second: f64) -> Result<()> {
        Ok(self.rate.write_all(format!("{per_second}\n").as_bytes()).await?)
    }

    /// Returns everything that the process has seen so far.
    pub fn seen(&self) -> Result<Observed> {
        if self.reading.is_finished() {
            bail!("the flood's descriptor.py has ended");
        }
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

#[allow(clippy::disallowed_methods, reason = "the log contains the time of the wall clock, as all logs do")]
async fn read(mut child: Child, seen: Arc<Mutex<Observed>>, mut log: File) -> Result<()> {
    let output = child.stdout.take().context("descriptor.py has no standard output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let at = Instant::now();
        writeln!(log, "{} {line}", Timestamp::now())?;
        let line = serde_json::from_str(&line).with_context(|| format!("descriptor.py printed {line:?}"))?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).add(line, at);
    }
    bail!("descriptor.py ended: {}", child.wait().await?)
}

impl Observed {
    fn add(&mut self, line: Line, at: Instant) {
        /// The status of `INTRODUCE_ACK` for success (rend-spec-v3, section 3.2.2).
        const PASSED_ON: u16 = 0;
        match line {
            Line::HsDir(line) => self.answers.extend(line.into_answer(at)),
            Line::Point { answer: None, .. } => self.outcomes.failed += 1,
            Line::Point { point, answer: Some(status) } => {
                self.points.add(&point, at, status == PASSED_ON);
                *(if status == PASSED_ON { &mut self.outcomes.passed_on } else { &mut self.outcomes.refused }) += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_descriptor_py_are_counted_by_kind() {
        let mut seen = Observed::default();
        for line in [
            r#"{"point": "a", "answer": 0}"#,
            r#"{"point": "a", "answer": 3}"#,
            r#"{"point": "a", "answer": 1}"#,
            r#"{"point": "a", "failure": "timed out"}"#,
            r#"{"hsdir": "h", "blinded_key": "k", "of_clients": true, "failure": "NOT_FOUND", "asked_seconds_ago": 1}"#,
            r#"{"hsdir": "h", "blinded_key": "k", "of_clients": true, "failure": "NO_ANSWER", "asked_seconds_ago": 1}"#,
        ] {
            seen.add(serde_json::from_str(line).unwrap(), Instant::now());
        }
        let Outcomes { passed_on, refused, failed } = seen.outcomes;
        assert_eq!((passed_on, refused, failed, seen.answers.len()), (1, 2, 1, 1));
    }
}
