//! The clients, which fetch and cache descriptors as C tor does.

use std::sync::Arc;

use onionbalance_operator::onion::TimePeriod;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::relays::Follower;
use crate::time::{HOUR, chance, poisson};
use crate::world::{Event, World};

/// The number of clients with tors of their own.
const CLIENTS: usize = 400;
/// The share of visits by clients that may use a descriptor from their cache.
const RETURNING: f64 = 0.3;

/// A client's tor.
#[derive(Debug)]
struct Client {
    tor: Follower,
    /// The cached descriptor: its period, revision counter and introduction points.
    cached: Option<(TimePeriod, u64, Arc<[u64]>)>,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    all: Vec<Client>,
}

impl Clients {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Self { all: (0..CLIENTS).map(|_| Client { tor: Follower::new(0, rng), cached: None }).collect() }
    }
}

impl World {
    /// Lets a client visit the service.
    pub(crate) fn visit(&mut self) {
        let pause = poisson(HOUR / self.plan.visits_per_hour.max(1), &mut self.rng);
        self.after(pause, Event::Visit);
        let returning = chance(RETURNING, &mut self.rng);
        let index = self.any(CLIENTS);
        let (now, rng) = (self.now, &mut self.rng);
        let Some(client) = self.clients.all.get_mut(index) else { return };
        while client.tor.next <= now {
            let at = client.tor.next;
            client.tor.fetch(at, rng);
        }
        let Some(view) = self.relays.at(client.tor.hour).cloned() else { return };
        let cached = client.cached.take().filter(|(period, _, _)| *period == view.used);
        let cached = cached.filter(|_| returning);
        let lives =
            |points: &[u64]| points.iter().any(|point| self.points.get(point).is_some_and(|fate| fate.died.is_none()));
        let mut found = cached.clone().filter(|(_, _, points)| lives(points));
        let from_cache = found.is_some();
        let mut first_is_dead = false;
        if found.is_none() {
            let mut asked = view.asked.clone();
            asked.shuffle(&mut self.rng);
            for hsdir in asked.iter().filter(|hsdir| self.relays.runs(hsdir)) {
                // A client ignores a descriptor that is older than the one in its cache.
                let held = self.hsdirs.fetch(hsdir, view.used, now);
                let known = cached.as_ref().map_or(0, |(_, counter, _)| *counter);
                let Some(held) = held.filter(|held| held.counter >= known) else { continue };
                let first = self.rng.random_range(0..held.points.len().max(1));
                first_is_dead |= !held.points.get(first).is_some_and(|first| lives(&[*first]));
                if lives(&held.points) {
                    found = Some((view.used, held.counter, Arc::clone(&held.points)));
                    break;
                }
            }
        }
        let success = found.is_some();
        if let Some(client) = self.clients.all.get_mut(index) {
            client.cached = found;
        }
        if from_cache || (returning && cached.is_some()) {
            self.figures.returning.count(success);
        } else {
            self.figures.fresh.count(success);
            self.figures.dead_first += u64::from(first_is_dead);
            if !success {
                self.figures.failures.push(self.now);
            }
        }
    }
}
