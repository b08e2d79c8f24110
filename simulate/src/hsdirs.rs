//! The HSDirs: what they hold, and how they answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onionbalance_operator::consensus::Fingerprint;
use onionbalance_operator::merge::UploadError;
use onionbalance_operator::onion::TimePeriod;

use crate::time::{HOUR, between};
use crate::world::{Event, World};

/// The time for which an HSDir keeps a descriptor.
const LIFETIME: Duration = Duration::from_secs(3 * 3600);

/// The way in which an HSDir treats uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// The HSDir answers.
    #[default]
    Answers,
    /// The HSDir never answers, neither to services nor to clients.
    Silent,
    /// The HSDir rejects all uploads, but answers clients.
    Rejects,
}

/// A descriptor that an HSDir holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// The revision counter.
    pub counter: u64,
    /// The introduction points.
    pub points: Arc<[u64]>,
    stored: Duration,
}

#[derive(Debug, Default)]
struct Hsdir {
    health: Health,
    /// The time since which the HSDir has answered.
    sound_since: Duration,
    /// The time at which the HSDir forgot everything.
    forgot: Duration,
    held: BTreeMap<TimePeriod, Held>,
}

/// All HSDirs that hold something or have a fault.
#[derive(Debug, Default)]
pub struct Hsdirs {
    all: BTreeMap<Fingerprint, Hsdir>,
}

/// An upload on its way.
#[derive(Debug)]
pub struct Upload {
    /// The publisher, its process and its tor's session.
    pub from: (usize, u64, u64),
    /// The HSDir.
    pub hsdir: Fingerprint,
    /// The time period.
    pub period: TimePeriod,
    /// The revision counter.
    pub counter: u64,
    /// The introduction points.
    pub points: Arc<[u64]>,
}

impl Hsdirs {
    /// Changes how an HSDir treats uploads.
    pub fn set_health(&mut self, hsdir: Fingerprint, health: Health, now: Duration) {
        let hsdir = self.all.entry(hsdir).or_default();
        hsdir.health = health;
        hsdir.sound_since = now;
    }

    /// Lets an HSDir forget everything.
    pub fn forget(&mut self, hsdir: Fingerprint, now: Duration) {
        let hsdir = self.all.entry(hsdir).or_default();
        hsdir.held.clear();
        hsdir.forgot = now;
    }

    /// Forgets descriptors that have expired, and HSDirs about which there is nothing to know.
    pub fn forget_expired(&mut self, now: Duration) {
        for hsdir in self.all.values_mut() {
            hsdir.held.retain(|_, held| now < held.stored + LIFETIME);
        }
        self.all.retain(|_, hsdir| {
            let is_dull = hsdir.health == Health::Answers && hsdir.sound_since.max(hsdir.forgot) + HOUR * 4 < now;
            !hsdir.held.is_empty() || !is_dull
        });
    }

    /// Returns how an HSDir treats uploads.
    pub fn health(&self, hsdir: &Fingerprint) -> Health {
        self.all.get(hsdir).map(|hsdir| hsdir.health).unwrap_or_default()
    }

    /// Returns the time at which an HSDir last forgot everything.
    pub fn forgot(&self, hsdir: &Fingerprint) -> Duration {
        self.all.get(hsdir).map(|hsdir| hsdir.forgot).unwrap_or_default()
    }

    /// Returns the time since which an HSDir has answered.
    pub fn sound_since(&self, hsdir: &Fingerprint) -> Duration {
        self.all.get(hsdir).map(|hsdir| hsdir.sound_since).unwrap_or_default()
    }

    /// Returns what an HSDir sends to a client. None if it does not answer or holds nothing.
    pub fn fetch(&self, hsdir: &Fingerprint, period: TimePeriod, now: Duration) -> Option<&Held> {
        let hsdir = self.all.get(hsdir).filter(|hsdir| hsdir.health != Health::Silent)?;
        hsdir.held.get(&period).filter(|held| now < held.stored + LIFETIME)
    }

    /// Returns the answer of an HSDir that runs, or None if there is none.
    fn receive(&mut self, upload: &Upload, now: Duration) -> Option<Result<(), UploadError>> {
        let hsdir = self.all.entry(upload.hsdir).or_default();
        let held = hsdir.held.get(&upload.period).filter(|held| now < held.stored + LIFETIME);
        match hsdir.health {
            Health::Silent => None,
            Health::Rejects => Some(Err(UploadError::Rejected)),
            Health::Answers if held.is_some_and(|held| held.counter >= upload.counter) => {
                Some(Err(UploadError::Rejected))
            }
            Health::Answers => {
                let held = Held { counter: upload.counter, points: Arc::clone(&upload.points), stored: now };
                hsdir.held.insert(upload.period, held);
                Some(Ok(()))
            }
        }
    }
}

impl World {
    /// Changes how an HSDir treats uploads.
    pub fn set_health(&mut self, hsdir: Fingerprint, health: Health) {
        self.hsdirs.set_health(hsdir, health, self.now);
    }

    pub(crate) fn arrive(&mut self, upload: &Upload) {
        if !self.relays.runs(&upload.hsdir) {
            return;
        }
        let Some(result) = self.hsdirs.receive(upload, self.now) else { return };
        let (publisher, process, session) = upload.from;
        let delay = between(Duration::from_millis(200), Duration::from_secs(2), &mut self.rng);
        self.after(delay, Event::Answered { publisher, process, session, hsdir: upload.hsdir, result });
        self.settle_dead_points();
    }
}
