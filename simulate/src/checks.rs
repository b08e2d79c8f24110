//! The invariants that hold at every time, apart from those of single events, which are checked
//! when they happen.

use std::time::Duration;

use crate::hsdirs::Health;
use crate::time::{DAY, HOUR, MINUTE};
use crate::world::{Event, World};

/// The longest time for which the newest descriptor of the period that clients use has a dead point
/// (decision 37): 8 minutes to gather changes, a minute for the rate limit, and three for the turn
/// of the other period.
const BOUND: Duration = Duration::from_secs(12 * 60);
/// The same for the other period, which follows up to 6 minutes later.
const BOUND_OF_OTHER: Duration = Duration::from_secs(18 * 60);
/// The greatest age of a descriptor: C tor's two hours, and the turn of the other period.
const OLDEST: Duration = Duration::from_secs(123 * 60);
/// The longest time until an HSDir that answers has the newest descriptor.
const UPLOADED: Duration = Duration::from_secs(2 * 60);
/// The same for an HSDir that has not answered for a while: its rest and an upload.
const RECOVERED: Duration = Duration::from_secs(33 * 60);
/// The greatest number of entries in an engine's collections with a backend, without those of the
/// backends: HSDirs, their uploads, and the counters of periods.
const ENTRIES: usize = 400;
/// The greatest number of entries that a backend causes.
const ENTRIES_OF_BACKEND: usize = 20;

impl World {
    pub(crate) fn check(&mut self) {
        self.after(MINUTE, Event::Check);
        self.settle_dead_points();
        self.check_memory();
        let leaders: Vec<usize> = (0..self.publishers.len()).filter(|index| self.leads(*index)).collect();
        if let [leader] = leaders.as_slice() {
            self.check_hsdirs(*leader);
            if self.steady_since + BOUND_OF_OTHER + MINUTE * 2 < self.now {
                self.check_rounds(*leader);
            }
        }
        if !self.plan.faults && self.now > HOUR {
            let count = leaders.len();
            self.require(count == 1, || format!("{count} publishers lead"));
        }
    }

    fn leads(&self, index: usize) -> bool {
        let publisher = self.publishers.get(index);
        publisher.is_some_and(|publisher| publisher.running && publisher.tor && publisher.conduct.is_leading())
    }

    /// Requires that every HSDir that answers holds the leader's newest descriptor.
    fn check_hsdirs(&mut self, leader: usize) {
        let now = self.now;
        let Some(publisher) = self.publishers.get(leader) else { return };
        let Some(view) = publisher.view.clone() else { return };
        if !self.changed_before(leader, BOUND_OF_OTHER + UPLOADED) {
            // New HSDirs may have nothing yet.
            return;
        }
        let mut faults = Vec::new();
        for (period, hsdirs) in &view.responsible {
            let Some(round) = publisher.rounds.get(period).filter(|round| round.at + UPLOADED < now) else { continue };
            for hsdir in hsdirs {
                let sound = self.hsdirs.sound_since(hsdir);
                let recovered = sound == Duration::ZERO || sound + RECOVERED < now;
                let keeps = self.hsdirs.forgot(hsdir) < round.at;
                let due = recovered && keeps && self.steady_since + RECOVERED < now;
                let answers = self.relays.runs(hsdir) && self.hsdirs.health(hsdir) == Health::Answers;
                let held = self.hsdirs.fetch(hsdir, *period, now).map(|held| held.counter);
                if due && answers && held != Some(round.counter) {
                    faults.push(format!("HSDir {hsdir} holds {held:?} instead of {} of {period:?}", round.counter));
                }
            }
        }
        for fault in faults {
            self.require(false, || fault);
        }
    }

    /// Requires that no point in the leader's newest descriptors has been dead for too long, and
    /// that there are descriptors for both periods.
    fn check_rounds(&mut self, leader: usize) {
        let now = self.now;
        let Some(publisher) = self.publishers.get(leader) else { return };
        let Some(view) = publisher.view.clone() else { return };
        let mut faults = Vec::new();
        for (period, _) in &view.responsible {
            // A round that was requested before clients used the period keeps its time.
            let is_used = *period == view.used && publisher.used_since + BOUND_OF_OTHER < now;
            let bound = if is_used { BOUND } else { BOUND_OF_OTHER };
            let Some(round) = publisher.rounds.get(period) else {
                if self.points.values().any(|fate| fate.died.is_none()) && self.changed_before(leader, bound) {
                    faults.push(format!("nothing is published for {period:?}"));
                }
                continue;
            };
            if round.at + OLDEST < now {
                faults.push(format!("the descriptor of {period:?} is {:?} old", now.saturating_sub(round.at)));
            }
            for point in &round.points {
                let died = self.points.get(point).map_or(Some(Duration::ZERO), |fate| fate.died);
                if let Some(died) = died.filter(|died| *died + bound < now) {
                    let dead = now.saturating_sub(died);
                    faults.push(format!("point {point} of {period:?} has been dead for {dead:?}"));
                }
            }
        }
        for fault in faults {
            self.require(false, || fault);
        }
    }

    /// Returns true if the publisher has had its consensus for this time.
    fn changed_before(&self, publisher: usize, time: Duration) -> bool {
        self.publishers.get(publisher).is_some_and(|publisher| publisher.adopted + time < self.now)
    }

    /// Requires that the engines' memory does not grow.
    fn check_memory(&mut self) {
        let entries = self.publishers.iter().map(|publisher| publisher.engine.entries()).max().unwrap_or_default();
        let day = usize::try_from(self.now.as_secs() / DAY.as_secs()).unwrap_or_default();
        self.figures.entries.resize(day + 1, 0);
        if let Some(most) = self.figures.entries.last_mut() {
            *most = entries.max(*most);
        }
        let limit = ENTRIES + ENTRIES_OF_BACKEND * self.plan.backends;
        self.require(entries <= limit, || format!("an engine remembers {entries} things, more than {limit}"));
        let foreign = self.publishers.iter().flat_map(|publisher| &publisher.progress);
        self.figures.foreign += foreign.filter(|period| period.foreign.is_some()).count() as u64;
    }
}
