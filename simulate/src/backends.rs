//! The backends, whose tors replace introduction points as C tor does.
//!
//! C tor has introduction points of its own for each of its two descriptors. When a new shared
//! random value takes effect, the second descriptor becomes the first, with its points, and those
//! of the first one end. Apart from that, a point ends after 18 to 24 hours or 16,384 to 32,768
//! introductions (`service_intro_point_new`), or with its relay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onionbalance_operator::consensus::Fingerprint;
use onionbalance_operator::merge::{BackendId, Input};
use onionbalance_operator::onion::{IntroductionPoint, ServiceContent, TimePeriod};
use rand::RngExt as _;

use crate::publishers::Message;
use crate::relays::Follower;
use crate::time::{HOUR, between, log_between};
use crate::world::{Event, Tor, World};

/// The number of introduction points of a descriptor.
pub const POINTS: usize = 3;
/// The time after which the publishers know of a change.
const REPORTED: Duration = Duration::from_millis(500);
/// The time after which the publishers consider a silent backend lost.
const SILENT: Duration = Duration::from_secs(10);

/// An introduction point's owner and its end.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    /// The backend.
    pub backend: usize,
    relay: Fingerprint,
    /// The time at which the point died. None while it lives.
    pub died: Option<Duration>,
}

/// A backend, or the stock service's tor.
#[derive(Debug)]
pub struct Backend {
    /// The number of pods that this backend has had.
    pub pod: u64,
    /// True if this is the stock service's tor.
    pub stock: bool,
    /// True while nothing of the backend works.
    pub stalled: bool,
    /// The tor's consensus.
    pub tor: Follower,
    /// The first of the two periods for which the tor publishes.
    pub period: TimePeriod,
    /// The standing introduction points of both descriptors.
    pub descriptors: BTreeMap<TimePeriod, Vec<u64>>,
    /// The average number of introductions in a second at each point.
    introductions: f64,
}

impl World {
    /// Returns the ID of a backend's pod.
    pub(crate) fn backend_id(&self, index: usize) -> BackendId {
        BackendId(format!("backend-{index}-{}", self.backends.get(index).map_or(0, |backend| backend.pod)))
    }

    pub(crate) fn add_backend(&mut self, stock: bool) {
        let tor = Follower::new(0, &mut self.rng);
        // Between one introduction in ten minutes and two in a second.
        let introductions = log_between(Duration::from_millis(1), Duration::from_secs(2), &mut self.rng);
        self.backends.push(Backend {
            pod: 0,
            stock,
            stalled: false,
            tor,
            period: TimePeriod { number: 0, length_minutes: 0 },
            descriptors: BTreeMap::new(),
            introductions: introductions.as_secs_f64(),
        });
        let index = self.backends.len() - 1;
        self.start_backend(index);
        self.after(tor.next, Event::Fetch(Tor::Backend(index)));
    }

    /// Starts a backend's tor, which has the newest consensus of its cache.
    pub(crate) fn start_backend(&mut self, index: usize) {
        let Some(backend) = self.backends.get_mut(index) else { return };
        backend.pod += 1;
        backend.stalled = false;
        backend.descriptors.clear();
        self.adopt_periods(index);
    }

    pub(crate) fn backend_fetches(&mut self, index: usize) {
        let (now, rng) = (self.now, &mut self.rng);
        let Some(backend) = self.backends.get_mut(index) else { return };
        backend.tor.fetch(now, rng);
        let delay = backend.tor.next.saturating_sub(now);
        self.after(delay, Event::Fetch(Tor::Backend(index)));
        self.adopt_periods(index);
        if self.backends.get(index).is_some_and(|backend| backend.stock) {
            self.stock_has_consensus(index);
        }
    }

    /// Lets a backend's tor have descriptors for the two periods of its consensus.
    fn adopt_periods(&mut self, index: usize) {
        let Some(backend) = self.backends.get_mut(index).filter(|backend| !backend.stalled) else { return };
        let view = self.relays.at(backend.tor.hour).or(self.relays.newest());
        let Some([current, next]) = view.map(|view| view.network.service_periods().map(|service| service.period))
        else {
            return;
        };
        let old: Vec<TimePeriod> =
            backend.descriptors.keys().copied().filter(|period| *period != current && *period != next).collect();
        let ended: Vec<u64> = old.iter().filter_map(|period| backend.descriptors.remove(period)).flatten().collect();
        let new: Vec<TimePeriod> =
            [current, next].into_iter().filter(|period| !backend.descriptors.contains_key(period)).collect();
        backend.descriptors.extend(new.iter().map(|period| (*period, Vec::new())));
        let changed = backend.period != current;
        backend.period = current;
        for point in ended {
            self.mark_dead(point);
        }
        for period in new {
            (0..POINTS).for_each(|_| self.seek_point(index, period));
        }
        if changed {
            self.tell(index);
        }
    }

    /// Lets a backend's tor build an introduction circuit.
    fn seek_point(&mut self, index: usize, period: TimePeriod) {
        let delay = between(Duration::from_secs(2), Duration::from_secs(10), &mut self.rng);
        let pod = self.backends.get(index).map_or(0, |backend| backend.pod);
        self.after(delay, Event::PointStands { backend: index, pod, period });
    }

    pub(crate) fn point_stands(&mut self, index: usize, pod: u64, period: TimePeriod) {
        let Some(backend) = self.backends.get_mut(index) else { return };
        let Some(points) = backend.descriptors.get_mut(&period) else { return };
        if backend.stalled || backend.pod != pod || points.len() >= POINTS {
            return;
        }
        self.last_point += 1;
        points.push(self.last_point);
        let complete = points.len() == POINTS;
        let lifetime = between(HOUR * 18, HOUR * 24, &mut self.rng);
        let introductions: f64 = self.rng.random_range(16_384.0..32_768.0);
        let lifetime = lifetime.min(Duration::from_secs_f64(introductions / backend.introductions));
        let (stock, is_current) = (backend.stock, backend.period == period);
        let relay = self.relays.any(&mut self.rng);
        self.points.insert(self.last_point, Fate { backend: index, relay, died: None });
        let point = self.last_point;
        self.after(lifetime, Event::PointDies(point));
        if is_current {
            self.tell(index);
        }
        if stock && complete {
            self.stock_changed(period);
        }
    }

    /// Ends a point, which its tor then replaces.
    pub(crate) fn point_dies(&mut self, point: u64) {
        let Some(fate) = self.points.get(&point).copied().filter(|fate| fate.died.is_none()) else { return };
        self.mark_dead(point);
        let Some(backend) = self.backends.get_mut(fate.backend) else { return };
        let held = backend.descriptors.iter_mut().find(|(_, points)| points.contains(&point));
        let Some((period, points)) = held else { return };
        points.retain(|other| *other != point);
        let (period, is_current) = (*period, *period == backend.period);
        self.seek_point(fate.backend, period);
        if is_current {
            self.tell(fate.backend);
        }
    }

    fn mark_dead(&mut self, point: u64) {
        let shown = self.is_shown(point);
        if let Some(fate) = self.points.get_mut(&point).filter(|fate| fate.died.is_none()) {
            fate.died = Some(self.now);
        }
        if shown {
            self.figures.dead.open.insert(point, self.now);
        }
    }

    /// Ends the points at relays that have left the network.
    pub(crate) fn lose_relays(&mut self, left: &[Fingerprint]) {
        let lost = |fate: &Fate| fate.died.is_none() && left.binary_search(&fate.relay).is_ok();
        let lost: Vec<u64> = self.points.iter().filter(|(_, fate)| lost(fate)).map(|(point, _)| *point).collect();
        for point in lost {
            self.point_dies(point);
        }
        let now = self.now;
        self.points.retain(|_, fate| fate.died.is_none_or(|died| died + HOUR * 6 > now));
    }

    /// Stops everything that a backend does. Its introduction circuits end.
    pub(crate) fn stall(&mut self, index: usize) {
        let Some(backend) = self.backends.get_mut(index).filter(|backend| !backend.stalled) else { return };
        backend.stalled = true;
        let pod = backend.pod;
        let points: Vec<u64> = std::mem::take(&mut backend.descriptors).into_values().flatten().collect();
        for point in points {
            self.mark_dead(point);
        }
        self.after(SILENT, Event::Report { backend: index, pod, content: None });
    }

    /// Lets the publishers know what a backend's descriptor contains now.
    fn tell(&mut self, index: usize) {
        let Some(backend) = self.backends.get(index).filter(|backend| !backend.stock) else { return };
        let pod = backend.pod;
        let content = Some(Arc::new(self.content(backend)));
        self.after(REPORTED, Event::Report { backend: index, pod, content });
    }

    fn content(&self, backend: &Backend) -> ServiceContent {
        let points = backend.descriptors.get(&backend.period).map(Vec::as_slice).unwrap_or_default();
        let point = |id: &u64| Some(introduction_point(*id, &self.points.get(id)?.relay));
        ServiceContent {
            create2_formats: vec![2],
            flow_control: "1-2 31".parse().ok(),
            single_onion_service: false,
            intro_auth_required: Vec::new(),
            pow_params: false,
            introduction_points: points.iter().filter_map(point).collect(),
        }
    }

    pub(crate) fn report(&mut self, index: usize, pod: u64, content: Option<&Arc<ServiceContent>>) {
        let id = BackendId(format!("backend-{index}-{pod}"));
        for publisher in 0..self.publishers.len() {
            let input = match content {
                Some(content) => Input::Backend(id.clone(), Arc::clone(content)),
                None => Input::BackendLost(id.clone()),
            };
            self.turn(publisher, Message::Engine(input));
        }
    }

    /// Lets a new publisher know what a backend's descriptor contains.
    pub(crate) fn poll(&mut self, publisher: usize, process: u64, index: usize) {
        let is_same = self.publishers.get(publisher).is_some_and(|publisher| publisher.process == process);
        let Some(backend) = self.backends.get(index).filter(|backend| is_same && !backend.stalled) else { return };
        let input = Input::Backend(self.backend_id(index), Arc::new(self.content(backend)));
        self.turn(publisher, Message::Engine(input));
    }
}

/// Returns an introduction point. The engine only compares its keys.
fn introduction_point(id: u64, relay: &Fingerprint) -> IntroductionPoint {
    let mut auth_key = [0; 32];
    for (to, from) in auth_key.iter_mut().zip(id.to_be_bytes()) {
        *to = from;
    }
    let mut link_specifiers = vec![2, 0, 6, 192, 0, 2, 1, 0x23, 0x29, 2, 20];
    link_specifiers.extend(relay.0);
    IntroductionPoint {
        link_specifiers,
        onion_key: [0; 32],
        auth_key,
        enc_key: auth_key,
        enc_key_ed25519: auth_key,
        legacy: false,
    }
}
