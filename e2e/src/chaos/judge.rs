//! The judge records the descriptors that each HSDir holds. It uses HSFETCH and Python's stem, but
//! none of the product's code.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::descriptor::Descriptor;
use crate::torclient::TorClient;

/// An HSDir's answer to the judge.
#[derive(Debug, Clone)]
pub struct HsDirAnswer {
    /// The HSDir's fingerprint.
    pub hsdir: String,
    /// The time at which the answer arrived.
    pub at: Instant,
    /// The descriptor that the HSDir holds, or `None` if it answered that it has none.
    pub descriptor: Option<HeldDescriptor>,
}

/// The parts of a descriptor that the judge compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDescriptor {
    /// The service's blinded key for one time period.
    pub blinded_key: String,
    /// The revision counter, which increases with every version within a time period.
    pub revision_counter: u64,
    /// The names of the descriptor's introduction points.
    pub points: BTreeSet<String>,
}

/// A process that asks every HSDir for the descriptor about once a second, until [`Self::remove`]
/// stops the process.
#[derive(Debug)]
pub struct Judge {
    client: TorClient,
    answers: Arc<Mutex<Vec<HsDirAnswer>>>,
    asking: JoinHandle<Result<()>>,
}

#[derive(Deserialize)]
struct Line {
    hsdir: String,
    asked_seconds_ago: f64,
    descriptor: Option<Descriptor>,
    failure: Option<String>,
}

impl Judge {
    /// Starts a judge that asks these HSDirs for the descriptor through a dedicated client.
    pub async fn start(client: TorClient, onion: &str, hsdirs: impl IntoIterator<Item = &String>) -> Result<Self> {
        let mut watch = Descriptor::watch(client.tor(), onion, hsdirs).await?;
        let child = watch.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let answers = Arc::default();
        let asking = tokio::spawn(read(child, Arc::clone(&answers)));
        Ok(Self { client, answers, asking })
    }

    /// Returns all answers that the judge has received so far.
    pub fn answers(&self) -> Result<Vec<HsDirAnswer>> {
        if self.asking.is_finished() {
            bail!("the judge's descriptor.py has ended");
        }
        Ok(self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Returns the descriptor that each HSDir returned in its last answer, by the HSDir's
    /// fingerprint.
    pub fn held(&self) -> Result<BTreeMap<String, HeldDescriptor>> {
        Ok(held(&self.answers()?))
    }

    /// Stops the judge and its client.
    pub async fn remove(self) -> Result<()> {
        self.asking.abort();
        self.client.remove().await
    }
}

async fn read(mut child: Child, answers: Arc<Mutex<Vec<HsDirAnswer>>>) -> Result<()> {
    let output = child.stdout.take().context("descriptor.py has no standard output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let at = Instant::now();
        let line: Line = serde_json::from_str(&line).with_context(|| format!("descriptor.py printed {line:?}"))?;
        let holds_none = line.failure.as_deref() == Some("NOT_FOUND");
        let descriptor = line.descriptor.map(|found| HeldDescriptor {
            blinded_key: found.blinded_key,
            revision_counter: found.revision_counter,
            points: found.points.into_iter().map(|point| point.auth_key).collect(),
        });
        // A fetch that failed on the way to the HSDir says nothing about it, and a slow answer may
        // describe an earlier state.
        let is_fresh = Duration::from_secs_f64(line.asked_seconds_ago) < Duration::from_secs(10);
        if is_fresh && (descriptor.is_some() || holds_none) {
            let seen = HsDirAnswer { hsdir: line.hsdir, at, descriptor };
            answers.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        }
    }
    bail!("descriptor.py ended: {}", child.wait().await?)
}

/// Returns the descriptor that each HSDir returned in its last answer, by the HSDir's fingerprint.
/// Omits HSDirs that hold none.
pub fn held(answers: &[HsDirAnswer]) -> BTreeMap<String, HeldDescriptor> {
    let mut held = BTreeMap::new();
    for answer in answers {
        match &answer.descriptor {
            Some(seen) => held.insert(answer.hsdir.clone(), seen.clone()),
            None => held.remove(&answer.hsdir),
        };
    }
    held
}

/// Removes the answers of HSDirs that are no longer responsible. Such an HSDir still holds an old
/// descriptor of the current period, which it received before the shared random value changed. An
/// HSDir is treated as no longer responsible if it held an older descriptor than others before the
/// fault and has not received another one since.
pub fn of_responsible(answers: &[HsDirAnswer], before: &BTreeMap<String, HeldDescriptor>) -> Vec<HsDirAnswer> {
    let newest = before.values().map(|seen| seen.revision_counter).max().unwrap_or_default();
    let is_left_over = |hsdir: &String| {
        before.get(hsdir).is_some_and(|old| {
            let mut later = answers.iter().filter(|answer| answer.hsdir == *hsdir);
            let same = |answer: &HsDirAnswer| answer.descriptor.as_ref().is_none_or(|seen| seen == old);
            old.revision_counter < newest && later.all(same)
        })
    };
    let left_over: BTreeSet<&String> = before.keys().filter(|hsdir| is_left_over(hsdir)).collect();
    answers.iter().filter(|answer| !left_over.contains(&answer.hsdir)).cloned().collect()
}

/// Returns the time from `since` until all HSDirs' answers satisfy the condition and continue to
/// satisfy it. Returns `None` if the last answer of any HSDir does not satisfy it, or if there is
/// no answer.
pub fn settled(
    answers: &[HsDirAnswer],
    since: Instant,
    is_settled: impl Fn(Option<&HeldDescriptor>) -> bool,
) -> Option<Duration> {
    let mut first_good: BTreeMap<&str, Option<Instant>> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.at >= since) {
        let first = first_good.entry(&answer.hsdir).or_default();
        if is_settled(answer.descriptor.as_ref()) {
            first.get_or_insert(answer.at);
        } else {
            *first = None;
        }
    }
    let times: Option<Vec<_>> = first_good.into_values().collect();
    times?.into_iter().max().map(|at| at - since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64, hsdir: &str, points: &[&str]) -> HsDirAnswer {
        let points = points.iter().map(|point| (*point).to_owned()).collect();
        let descriptor = Some(HeldDescriptor { blinded_key: "key".to_owned(), revision_counter: seconds, points });
        HsDirAnswer { hsdir: hsdir.to_owned(), at: start + Duration::from_secs(seconds), descriptor }
    }

    fn without_dead(seen: Option<&HeldDescriptor>) -> bool {
        seen.is_none_or(|seen| !seen.points.contains("dead"))
    }

    #[test]
    fn settling_takes_as_long_as_the_slowest_hsdir_and_a_relapse_restarts_it() {
        let start = Instant::now();
        let mut seen = vec![
            at(start, 1, "a", &["dead", "alive"]),
            at(start, 2, "b", &["dead", "alive"]),
            at(start, 3, "a", &["alive"]),
        ];
        assert_eq!(settled(&seen, start, without_dead), None);
        seen.push(at(start, 5, "b", &["alive"]));
        assert_eq!(settled(&seen, start, without_dead), Some(Duration::from_secs(5)));
        seen.push(at(start, 7, "a", &["dead"]));
        assert_eq!(settled(&seen, start, without_dead), None);
        seen.push(at(start, 9, "a", &["alive"]));
        assert_eq!(settled(&seen, start, without_dead), Some(Duration::from_secs(9)));
    }

    #[test]
    fn an_hsdir_with_an_old_descriptor_counts_only_if_it_receives_a_new_one() {
        let start = Instant::now();
        let before =
            held(&[at(start, 1, "old", &["dead"]), at(start, 2, "a", &["dead"]), at(start, 1, "late", &["dead"])]);
        let left_over = HsDirAnswer { at: start + Duration::from_secs(4), ..at(start, 1, "old", &["dead"]) };
        let seen = [left_over, at(start, 5, "a", &["alive"]), at(start, 6, "late", &["dead"])];
        let counted = of_responsible(&seen, &before);
        let hsdirs: Vec<_> = counted.iter().map(|answer| answer.hsdir.as_str()).collect();
        assert_eq!(hsdirs, ["a", "late"]);
    }

    #[test]
    fn earlier_answers_do_not_count_and_an_hsdir_without_a_descriptor_holds_nothing() {
        let start = Instant::now();
        let since = start + Duration::from_secs(4);
        let mut seen = vec![at(start, 1, "a", &["dead"]), at(start, 3, "a", &["alive"])];
        assert_eq!(settled(&seen, since, without_dead), None);
        seen.push(HsDirAnswer { hsdir: "a".to_owned(), at: start + Duration::from_secs(6), descriptor: None });
        assert_eq!(settled(&seen, since, without_dead), Some(Duration::from_secs(2)));
        assert!(held(&seen).is_empty());
    }
}
