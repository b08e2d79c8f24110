//! The judge records the descriptors that each HSDir holds for two time periods. It uses circuits
//! of its own and Python's stem, but none of the product's code.

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

/// The place of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// The fingerprint of the HSDir.
    pub hsdir: String,
    /// The service's blinded key for the time period.
    pub blinded_key: String,
}

/// An HSDir's answer to the judge.
#[derive(Debug, Clone)]
pub struct HsDirAnswer {
    /// The HSDir, and the period for which the judge asked.
    pub place: Place,
    /// True if clients used this period when the judge asked.
    pub of_clients: bool,
    /// The time at which the answer arrived.
    pub at: Instant,
    /// The descriptor that the HSDir holds, or `None` if it answered that it has none.
    pub descriptor: Option<HeldDescriptor>,
}

/// The parts of a descriptor that the judge compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDescriptor {
    /// The revision counter, which increases with every version within a time period.
    pub revision_counter: u64,
    /// The names of the descriptor's introduction points.
    pub points: BTreeSet<String>,
}

/// A process that asks every HSDir for both descriptors about once a second, until [`Self::remove`]
/// stops the process.
#[derive(Debug)]
pub struct Judge {
    client: TorClient,
    answers: Arc<Mutex<Vec<HsDirAnswer>>>,
    asking: JoinHandle<Result<()>>,
}

/// A line of JSON that descriptor.py prints for an HSDir's answer.
#[derive(Debug, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    place: Place,
    of_clients: bool,
    asked_seconds_ago: f64,
    descriptor: Option<Descriptor>,
    failure: Option<String>,
}

impl Line {
    /// Returns the answer, which arrived at this time. Returns `None` if the line says nothing
    /// about the HSDir: a fetch failed on the way to the HSDir, or took so long that the answer may
    /// describe an earlier state.
    pub fn into_answer(self, at: Instant) -> Option<HsDirAnswer> {
        let holds_none = self.failure.as_deref() == Some("NOT_FOUND");
        let descriptor = self.descriptor.map(|found| HeldDescriptor {
            revision_counter: found.revision_counter,
            points: found.points.into_iter().map(|point| point.auth_key).collect(),
        });
        let is_fresh = Duration::from_secs_f64(self.asked_seconds_ago) < Duration::from_secs(10);
        let answer = HsDirAnswer { place: self.place, of_clients: self.of_clients, at, descriptor };
        (is_fresh && (answer.descriptor.is_some() || holds_none)).then_some(answer)
    }
}

impl Judge {
    /// Starts a judge that asks these HSDirs. It reads the consensus from a dedicated client.
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

    /// Returns the last descriptor that each HSDir returned for the period that clients use now, by
    /// the HSDir's fingerprint.
    pub fn held_for_clients(&self) -> Result<BTreeMap<String, HeldDescriptor>> {
        Ok(held_for_clients(&self.answers()?))
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
        if let Some(answer) = line.into_answer(at) {
            answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        }
    }
    bail!("descriptor.py ended: {}", child.wait().await?)
}

/// Returns the descriptor that each HSDir returned in its last answer for each period. Omits HSDirs
/// that hold none.
pub fn held(answers: &[HsDirAnswer]) -> BTreeMap<Place, HeldDescriptor> {
    let mut held = BTreeMap::new();
    for answer in answers {
        match &answer.descriptor {
            Some(seen) => held.insert(answer.place.clone(), seen.clone()),
            None => held.remove(&answer.place),
        };
    }
    held
}

/// Returns the descriptors that clients can fetch, by the HSDir's fingerprint.
pub fn held_for_clients(answers: &[HsDirAnswer]) -> BTreeMap<String, HeldDescriptor> {
    let Some(last) = answers.iter().rfind(|answer| answer.of_clients) else { return BTreeMap::new() };
    let current = held(answers).into_iter().filter(|(place, _)| place.blinded_key == last.place.blinded_key);
    current.map(|(place, seen)| (place.hsdir, seen)).collect()
}

/// Removes the answers of HSDirs that are no longer responsible for a period. Such an HSDir still
/// holds an old descriptor of this period, which it received before the shared random value
/// changed. An HSDir is treated as no longer responsible if it held an older descriptor of the
/// period than others before the fault and has not received another one since.
pub fn of_responsible(answers: &[HsDirAnswer], before: &BTreeMap<Place, HeldDescriptor>) -> Vec<HsDirAnswer> {
    let newest = newest(before);
    let is_left_over = |place: &Place| {
        before.get(place).is_some_and(|old| {
            let mut later = answers.iter().filter(|answer| answer.place == *place);
            let same = |answer: &HsDirAnswer| answer.descriptor.as_ref().is_none_or(|seen| seen == old);
            old.revision_counter < newest[&place.blinded_key] && later.all(same)
        })
    };
    let left_over: BTreeSet<&Place> = before.keys().filter(|place| is_left_over(place)).collect();
    answers.iter().filter(|answer| !left_over.contains(&answer.place)).cloned().collect()
}

/// Returns the highest revision counter of each period, by its blinded key.
pub fn newest(held: &BTreeMap<Place, HeldDescriptor>) -> BTreeMap<String, u64> {
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for (place, seen) in held {
        let counter = newest.entry(place.blinded_key.clone()).or_default();
        *counter = seen.revision_counter.max(*counter);
    }
    newest
}

/// Returns the time from `since` until all HSDirs' answers, for both periods, satisfy the condition
/// and continue to satisfy it. `before` contains the descriptors that the HSDirs held until then.
/// An HSDir that held none does not count until it returns a descriptor that violates the
/// condition. Returns `None` if the last answer of any HSDir does not satisfy the condition, or if
/// no HSDir counts.
pub fn settled(
    before: &BTreeMap<Place, HeldDescriptor>,
    answers: &[HsDirAnswer],
    since: Instant,
    is_settled: impl Fn(&HsDirAnswer) -> bool,
) -> Option<Duration> {
    let mut first_good: BTreeMap<&Place, Option<Instant>> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.at >= since) {
        match (first_good.get_mut(&answer.place), is_settled(answer)) {
            (Some(first), true) => {
                first.get_or_insert(answer.at);
            }
            (None, true) if before.contains_key(&answer.place) => {
                first_good.insert(&answer.place, Some(answer.at));
            }
            (None, true) => {}
            (_, false) => {
                first_good.insert(&answer.place, None);
            }
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
        let descriptor = Some(HeldDescriptor { revision_counter: seconds, points });
        let place = Place { hsdir: hsdir.to_owned(), blinded_key: "key".to_owned() };
        HsDirAnswer { place, of_clients: true, at: start + Duration::from_secs(seconds), descriptor }
    }

    fn of_other_period(answer: HsDirAnswer) -> HsDirAnswer {
        let place = Place { blinded_key: "other".to_owned(), ..answer.place };
        HsDirAnswer { place, of_clients: false, ..answer }
    }

    fn without_dead(answer: &HsDirAnswer) -> bool {
        answer.descriptor.as_ref().is_none_or(|seen| !seen.points.contains("dead"))
    }

    #[test]
    fn the_other_period_counts_until_its_descriptors_have_settled_too() {
        let start = Instant::now();
        let mut seen = vec![at(start, 2, "a", &["alive"]), of_other_period(at(start, 3, "a", &["dead"]))];
        assert_eq!(settled(&BTreeMap::new(), &seen, start, without_dead), None);
        seen.push(of_other_period(at(start, 8, "a", &["alive"])));
        assert_eq!(settled(&BTreeMap::new(), &seen, start, without_dead), Some(Duration::from_secs(8)));
        assert_eq!(held(&seen).len(), 2);
        assert_eq!(held_for_clients(&seen).values().map(|seen| seen.revision_counter).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn an_hsdir_that_never_held_a_descriptor_does_not_count() {
        let start = Instant::now();
        let before = held(&[at(start, 0, "a", &["dead"])]);
        let idle = HsDirAnswer { descriptor: None, ..at(start, 9, "idle", &[]) };
        let mut seen = vec![at(start, 4, "a", &["alive"]), idle];
        assert_eq!(settled(&before, &seen, start, without_dead), Some(Duration::from_secs(4)));
        seen.push(at(start, 10, "idle", &["dead"]));
        assert_eq!(settled(&before, &seen, start, without_dead), None);
    }

    #[test]
    fn a_higher_counter_of_another_period_does_not_make_a_descriptor_old() {
        let start = Instant::now();
        let before = held(&[at(start, 1, "a", &["dead"]), of_other_period(at(start, 2, "a", &["dead"]))]);
        let seen = [HsDirAnswer { at: start + Duration::from_secs(4), ..at(start, 1, "a", &["dead"]) }];
        assert_eq!(of_responsible(&seen, &before).len(), 1);
    }

    #[test]
    fn settling_takes_as_long_as_the_slowest_hsdir_and_a_relapse_restarts_it() {
        let start = Instant::now();
        let mut seen = vec![
            at(start, 1, "a", &["dead", "alive"]),
            at(start, 2, "b", &["dead", "alive"]),
            at(start, 3, "a", &["alive"]),
        ];
        assert_eq!(settled(&BTreeMap::new(), &seen, start, without_dead), None);
        seen.push(at(start, 5, "b", &["alive"]));
        assert_eq!(settled(&BTreeMap::new(), &seen, start, without_dead), Some(Duration::from_secs(5)));
        seen.push(at(start, 7, "a", &["dead"]));
        assert_eq!(settled(&BTreeMap::new(), &seen, start, without_dead), None);
        seen.push(at(start, 9, "a", &["alive"]));
        assert_eq!(settled(&BTreeMap::new(), &seen, start, without_dead), Some(Duration::from_secs(9)));
    }

    #[test]
    fn an_hsdir_with_an_old_descriptor_counts_only_if_it_receives_a_new_one() {
        let start = Instant::now();
        let before =
            held(&[at(start, 1, "old", &["dead"]), at(start, 2, "a", &["dead"]), at(start, 1, "late", &["dead"])]);
        let left_over = HsDirAnswer { at: start + Duration::from_secs(4), ..at(start, 1, "old", &["dead"]) };
        let seen = [left_over, at(start, 5, "a", &["alive"]), at(start, 6, "late", &["dead"])];
        let counted = of_responsible(&seen, &before);
        let hsdirs: Vec<_> = counted.iter().map(|answer| answer.place.hsdir.as_str()).collect();
        assert_eq!(hsdirs, ["a", "late"]);
    }

    #[test]
    fn earlier_answers_do_not_count_and_an_hsdir_without_a_descriptor_holds_nothing() {
        let start = Instant::now();
        let since = start + Duration::from_secs(4);
        let mut seen = vec![at(start, 1, "a", &["dead"]), at(start, 3, "a", &["alive"])];
        let before = held(&seen);
        assert_eq!(settled(&before, &seen, since, without_dead), None);
        seen.push(HsDirAnswer { descriptor: None, ..at(start, 6, "a", &[]) });
        assert_eq!(settled(&before, &seen, since, without_dead), Some(Duration::from_secs(2)));
        assert!(held(&seen).is_empty());
    }
}
