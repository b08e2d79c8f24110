//! The judge: what each HSDir holds, seen through HSFETCH and Python's stem, without any code of the product's.

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

/// What an HSDir answered.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Its fingerprint.
    pub hsdir: String,
    /// When the answer came.
    pub at: Instant,
    /// What it holds; None: it says that it has none.
    pub descriptor: Option<Seen>,
}

/// What counts of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The service's key of one time period.
    pub blinded_key: String,
    /// Rises with each version, in one time period.
    pub revision_counter: u64,
    /// The points' names.
    pub points: BTreeSet<String>,
}

/// Asks every HSDir about once a second, as long as it lives.
#[derive(Debug)]
pub struct Judge {
    client: TorClient,
    sightings: Arc<Mutex<Vec<Sighting>>>,
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
    /// Begins to ask all of these HSDirs, through a client of its own.
    pub async fn start(client: TorClient, onion: &str, hsdirs: impl IntoIterator<Item = &String>) -> Result<Self> {
        let mut watch = Descriptor::watch(client.tor(), onion, hsdirs).await?;
        let child = watch.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let sightings = Arc::default();
        let asking = tokio::spawn(read(child, Arc::clone(&sightings)));
        Ok(Self { client, sightings, asking })
    }

    /// All that was seen until now.
    pub fn sightings(&self) -> Result<Vec<Sighting>> {
        if self.asking.is_finished() {
            bail!("the judge has ended");
        }
        Ok(self.sightings.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// What the HSDirs held when each was last seen.
    pub fn held(&self) -> Result<BTreeMap<String, Seen>> {
        Ok(held(&self.sightings()?))
    }

    /// Ends it.
    pub async fn remove(self) -> Result<()> {
        self.asking.abort();
        self.client.remove().await
    }
}

async fn read(mut child: Child, sightings: Arc<Mutex<Vec<Sighting>>>) -> Result<()> {
    let output = child.stdout.take().context("standard output is a pipe")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let at = Instant::now();
        let line: Line = serde_json::from_str(&line).with_context(|| format!("descriptor.py said {line:?}"))?;
        let holds_none = line.failure.as_deref() == Some("NOT_FOUND");
        let descriptor = line.descriptor.map(|found| Seen {
            blinded_key: found.blinded_key,
            revision_counter: found.revision_counter,
            points: found.points.into_iter().map(|point| point.auth_key).collect(),
        });
        // A fetch that failed on its way says nothing; an answer that took long may be of before.
        let is_fresh = Duration::from_secs_f64(line.asked_seconds_ago) < Duration::from_secs(10);
        if is_fresh && (descriptor.is_some() || holds_none) {
            let seen = Sighting { hsdir: line.hsdir, at, descriptor };
            sightings.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        }
    }
    bail!("descriptor.py ended: {}", child.wait().await?)
}

/// The last that was seen of each HSDir that holds something.
pub fn held(sightings: &[Sighting]) -> BTreeMap<String, Seen> {
    let mut held = BTreeMap::new();
    for sighting in sightings {
        match &sighting.descriptor {
            Some(seen) => held.insert(sighting.hsdir.clone(), seen.clone()),
            None => held.remove(&sighting.hsdir),
        };
    }
    held
}

/// Without those of HSDirs that are no longer asked: a change of the shared random value leaves them an old descriptor of this period.
/// Before the fault all responsible ones held the newest; one that held an older one, and was sent nothing since, is none of them.
pub fn of_responsible(sightings: &[Sighting], before: &BTreeMap<String, Seen>) -> Vec<Sighting> {
    let newest = before.values().map(|seen| seen.revision_counter).max().unwrap_or_default();
    let is_left_over = |hsdir: &String| {
        before.get(hsdir).is_some_and(|old| {
            let mut later = sightings.iter().filter(|sighting| sighting.hsdir == *hsdir);
            let same = |sighting: &Sighting| sighting.descriptor.as_ref().is_none_or(|seen| seen == old);
            old.revision_counter < newest && later.all(same)
        })
    };
    let left_over: BTreeSet<&String> = before.keys().filter(|hsdir| is_left_over(hsdir)).collect();
    sightings.iter().filter(|sighting| !left_over.contains(&sighting.hsdir)).cloned().collect()
}

/// How long after `since` until every HSDir's answer is so, for good; None when one's last answer is not, or when nobody answered.
pub fn settled(sightings: &[Sighting], since: Instant, is_so: impl Fn(Option<&Seen>) -> bool) -> Option<Duration> {
    let mut first_good: BTreeMap<&str, Option<Instant>> = BTreeMap::new();
    for sighting in sightings.iter().filter(|sighting| sighting.at >= since) {
        let first = first_good.entry(&sighting.hsdir).or_default();
        if is_so(sighting.descriptor.as_ref()) {
            first.get_or_insert(sighting.at);
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

    fn at(start: Instant, seconds: u64, hsdir: &str, points: &[&str]) -> Sighting {
        let points = points.iter().map(|point| (*point).to_owned()).collect();
        let descriptor = Some(Seen { blinded_key: "key".to_owned(), revision_counter: seconds, points });
        Sighting { hsdir: hsdir.to_owned(), at: start + Duration::from_secs(seconds), descriptor }
    }

    fn without_dead(seen: Option<&Seen>) -> bool {
        seen.is_none_or(|seen| !seen.points.contains("dead"))
    }

    #[test]
    fn the_slowest_hsdir_counts_and_a_relapse_too() {
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
    fn an_hsdir_with_a_left_over_does_not_count_unless_it_is_sent_something() {
        let start = Instant::now();
        let before =
            held(&[at(start, 1, "old", &["dead"]), at(start, 2, "a", &["dead"]), at(start, 1, "late", &["dead"])]);
        let left_over = Sighting { at: start + Duration::from_secs(4), ..at(start, 1, "old", &["dead"]) };
        let seen = [left_over, at(start, 5, "a", &["alive"]), at(start, 6, "late", &["dead"])];
        let counted = of_responsible(&seen, &before);
        let hsdirs: Vec<_> = counted.iter().map(|sighting| sighting.hsdir.as_str()).collect();
        assert_eq!(hsdirs, ["a", "late"]);
    }

    #[test]
    fn what_was_seen_before_does_not_count_and_an_hsdir_without_a_descriptor_holds_nothing() {
        let start = Instant::now();
        let since = start + Duration::from_secs(4);
        let mut seen = vec![at(start, 1, "a", &["dead"]), at(start, 3, "a", &["alive"])];
        assert_eq!(settled(&seen, since, without_dead), None);
        seen.push(Sighting { hsdir: "a".to_owned(), at: start + Duration::from_secs(6), descriptor: None });
        assert_eq!(settled(&seen, since, without_dead), Some(Duration::from_secs(2)));
        assert!(held(&seen).is_empty());
    }
}
