//! Manages the publishing state of one time period: its keys, its HSDirs and its newest
//! descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;

use super::counters::Counters;
use super::layout::Layout;
use super::pace::{self, Loss};
use super::rises::Rises;
use super::schedule::{PATIENT_REFILL, Schedule};
use super::scribe::{Draft, Scribe};
use super::subsets::{Merged, Subsets};
use super::upload::HsdirUploads;
use super::{BackendId, Now, PeriodStatus};
use crate::consensus::{Fingerprint, Network, ServicePeriod};
use crate::onion::descriptor::{DescriptorError, DescriptorKeys};
use crate::onion::{Discovery, OnionAddress, PeriodKey};

/// The time for which HSDirs keep a descriptor (`descriptor-lifetime 180`). The certificates of the
/// descriptor are valid for longer.
pub(super) const DESCRIPTOR_LIFETIME: Duration = Duration::from_secs(3 * 3600);
/// The largest drift between the wall clock and the monotonic clock that is considered normal. A
/// larger drift means that the wall clock was set. Smaller drifts do not matter, because the
/// expiration times of certificates have a granularity of one hour.
const CLOCK_SET: Duration = Duration::from_secs(30 * 60);
/// The time by which the revision counter runs ahead of the clock after the first rejection. Each
/// further rejection quadruples it.
const FIRST_LEAD: Duration = Duration::from_secs(16);

/// The publishing state of one time period.
pub(super) struct Period {
    pub(super) service: ServicePeriod,
    pub(super) hsdirs: BTreeSet<Fingerprint>,
    pub(super) layout: Layout,
    pub(super) subsets: Subsets,
    pub(super) schedule: Schedule,
    /// The newest descriptors, or None if nothing is published.
    pub(super) round: Option<PublishRound>,
    pub(super) rises: Rises,
    /// The usable backends that had no introduction point in the last selection.
    pub(super) waiting: BTreeSet<BackendId>,
    key: Box<dyn PeriodKey>,
    descriptor_keys: DescriptorKeys,
    /// For each backend, the greatest revision counter of a round that included its introduction
    /// points.
    last_with: BTreeMap<BackendId, u64>,
}

/// The descriptors that the HSDirs of a time period should hold: one for all HSDirs, or different
/// ones with the same revision counter. After any change, all of them are published again, because
/// a client drops a descriptor whose counter is lower than that of its cached descriptor.
pub(super) struct PublishRound {
    pub(super) counter: u64,
    pub(super) merged: Merged,
    /// The descriptors, ordered by subset.
    descriptors: Vec<Arc<str>>,
    /// The layout with which this round was created. It ensures that an HSDir never receives two
    /// different descriptors with the same counter.
    layout: Layout,
    made: Now,
}

impl PublishRound {
    /// Returns the descriptor that this round assigns to an HSDir.
    pub(super) fn descriptor(&self, hsdir: &Fingerprint) -> Option<Arc<str>> {
        let subset = self.layout.subset(hsdir)?;
        match self.descriptors.as_slice() {
            [for_all] => Some(Arc::clone(for_all)),
            several => several.get(subset).map(Arc::clone),
        }
    }
}

impl Period {
    /// Creates the state of a time period, initially without HSDirs and descriptors.
    pub(super) fn new(service: ServicePeriod, key: Box<dyn PeriodKey>, rng: &mut StdRng) -> Self {
        Self {
            schedule: Schedule::new(pace::scaled(PATIENT_REFILL, service.period), pace::apart(service.period)),
            descriptor_keys: DescriptorKeys::for_key(&*key, rng),
            key,
            service,
            hsdirs: BTreeSet::new(),
            layout: Layout::default(),
            subsets: Subsets::default(),
            round: None,
            rises: Rises::default(),
            waiting: BTreeSet::new(),
            last_with: BTreeMap::new(),
        }
    }

    /// Adopts the HSDirs of a network. Returns true if a new publishing round is required because
    /// there are new HSDirs or the subsets are assigned differently.
    pub(super) fn set_network(&mut self, service: ServicePeriod, network: &Network) -> bool {
        let blinded = self.key.public();
        let responsible = network.responsible_hsdirs(&blinded, &service);
        let fetched = network.fetch_hsdirs(&blinded, &service);
        let layout = Layout::new(&responsible, &fetched, &self.layout);
        let hsdirs = layout.hsdirs();
        let new_hsdirs = !hsdirs.is_subset(&self.hsdirs);
        let rearranged = layout != self.layout && self.round.as_ref().is_some_and(|round| round.descriptors.len() > 1);
        (self.service, self.layout, self.hsdirs) = (service, layout, hsdirs);
        new_hsdirs || rearranged
    }

    /// Returns the revision counter of the next round. The counter is derived from the clock, lies
    /// in the range `counters`, and is greater than `floor`. After rejections, the counter runs
    /// ahead of the clock, because the clock of another publisher may be ahead. The lead grows with
    /// every rejection, so that few rejections are needed to overtake that publisher. Where
    /// possible, the counter is a value that the clock itself would produce at some later time.
    pub(super) fn next_counter(&self, counters: Counters, floor: u64, now: Now) -> u64 {
        let since_srv = now.wall.duration_since(self.service.srv_start).unwrap_or_default();
        let (lead, step) = match self.rises.times() {
            0 => (Duration::ZERO, None),
            times => {
                let faster = 4_u32.saturating_pow(times - 1);
                (FIRST_LEAD.saturating_mul(faster), Some(u64::from(faster)))
            }
        };
        let by_time = self.key.revision_counter(since_srv.saturating_add(lead).as_secs());
        counters.by_time(by_time).max(counters.above(floor, step))
    }

    /// Builds the descriptors of a round, one for each content, encrypted for the authorized
    /// clients.
    pub(super) fn build(
        &mut self,
        scribe: &dyn Scribe,
        address: &OnionAddress,
        merged: &Merged,
        counter: u64,
        now: Now,
        rng: &mut StdRng,
    ) -> Result<Vec<Arc<str>>, DescriptorError> {
        self.descriptor_keys.set_discovery(&*self.key, address, &merged.discovery, rng);
        let (keys, key) = (&self.descriptor_keys, &*self.key);
        let draft = |content| Draft { keys, key, address, content, counter, now: now.wall };
        let write = |content| scribe.write(&draft(content), rng).map(Arc::from);
        merged.contents.iter().map(write).collect()
    }

    /// Records a round of descriptors as the newest round. Returns true if its revision counter
    /// rose because of rejections.
    pub(super) fn published(
        &mut self,
        round: (u64, Vec<Arc<str>>),
        merged: Merged,
        now: Now,
        rng: &mut StdRng,
    ) -> bool {
        let (counter, descriptors) = round;
        self.schedule.published(now.elapsed, rng);
        self.last_with.extend(merged.points.keys().map(|backend| (backend.clone(), counter)));
        self.round = Some(PublishRound { counter, descriptors, merged, layout: self.layout.clone(), made: now });
        self.rises.published()
    }

    /// Forgets everything about the published descriptors, because another publisher may lead now.
    pub(super) fn stop(&mut self) {
        self.schedule.clear();
        self.round = None;
        self.rises.stop();
        self.waiting.clear();
        self.last_with.clear();
    }

    /// Returns the share of the newest descriptors' introduction points whose keys are not in
    /// `live`, and the number of all their points.
    pub(super) fn loss(&self, live: &BTreeSet<[u8; 32]>) -> (Loss, usize) {
        let contents = self.round.iter().flat_map(|round| &round.merged.contents);
        let points = contents.flat_map(|content| &content.introduction_points);
        let published: BTreeSet<[u8; 32]> = points.map(|point| point.auth_key).collect();
        (Loss::of(published.difference(live).count(), published.len()), published.len())
    }

    /// Returns the time at which the newest descriptors expire on the HSDirs.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        self.round.as_ref().map(|round| round.made.elapsed.saturating_add(DESCRIPTOR_LIFETIME))
    }

    /// Returns true if the wall clock was set after the newest descriptors were created.
    pub(super) fn is_misdated(&self, now: Now) -> bool {
        self.round.as_ref().is_some_and(|round| {
            let passed = now.elapsed.saturating_sub(round.made.elapsed);
            let moved = match now.wall.duration_since(round.made.wall) {
                Ok(forward) => forward.abs_diff(passed),
                Err(back) => back.duration().saturating_add(passed),
            };
            moved > CLOCK_SET
        })
    }

    /// Returns true if the backend's introduction points have been withdrawn. The newest round must
    /// omit them. For every HSDir of the period, an upload of a descriptor from a later round than
    /// the last one with these points must have ended, successfully or not.
    pub(super) fn is_withdrawn(&self, backend: &BackendId, uploads: &HsdirUploads) -> bool {
        let last_with = self.last_with.get(backend).copied().unwrap_or_default();
        self.round.as_ref().is_some_and(|round| round.counter > last_with)
            && self.hsdirs.iter().all(|hsdir| uploads.tried(hsdir, self.service.period) > last_with)
    }

    /// Returns the number of entries in the collections of this state.
    pub(super) fn entries(&self) -> usize {
        self.last_with.len() + self.hsdirs.len() + self.waiting.len() + self.subsets.entries()
    }

    /// Returns the publishing state of the period, or None if nothing is published.
    pub(super) fn status(&self, uploads: &HsdirUploads) -> Option<PeriodStatus> {
        let round = self.round.as_ref()?;
        Some(PeriodStatus {
            period: self.service.period,
            revision_counter: round.counter,
            introduction_points: round.merged.points.values().sum(),
            descriptors: round.descriptors.len(),
            hsdirs_accepted: uploads.accepted(self.service.period),
            hsdirs_rejected: uploads.answers(self.service.period, round.counter).rejected,
            hsdirs_total: self.hsdirs.len(),
            last_published: round.made.wall,
            authorized_clients: match &*round.merged.discovery {
                Discovery::Open => None,
                Discovery::Restricted(clients) => Some(clients.len()),
            },
            foreign: None,
        })
    }
}
