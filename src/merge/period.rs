//! A time period that is published for: its keys, its HSDirs, its newest descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;

use super::layout::Layout;
use super::schedule::Schedule;
use super::subsets::{Merged, Subsets};
use super::upload::Uploads;
use super::{BackendId, Now, PeriodStatus};
use crate::consensus::{Fingerprint, Network, ServicePeriod};
use crate::onion::descriptor::{DescriptorError, DescriptorKeys};
use crate::onion::{BlindedKeypair, Discovery, MasterKey, OnionAddress};

/// How long HSDirs keep a descriptor (`descriptor-lifetime 180`); its certificates live longer.
pub(super) const DESCRIPTOR_LIFETIME: Duration = Duration::from_secs(3 * 3600);
/// A clock that moved by more than this against the monotonic one was set. Certificates count in hours.
const CLOCK_SET: Duration = Duration::from_secs(30 * 60);
/// How far ahead of our clock the counter goes at the first rejection; four times as far at each further one.
const FIRST_LEAD: Duration = Duration::from_secs(16);

/// What is published in one period.
pub(super) struct Period {
    pub(super) service: ServicePeriod,
    pub(super) hsdirs: BTreeSet<Fingerprint>,
    pub(super) layout: Layout,
    pub(super) subsets: Subsets,
    pub(super) schedule: Schedule,
    /// The newest descriptors.
    pub(super) round: Option<Round>,
    /// How often in a row that was rejected.
    pub(super) rejections: u32,
    /// Backends that counted when points were selected last, and had none selected.
    pub(super) waiting: BTreeSet<BackendId>,
    key: BlindedKeypair,
    descriptor_keys: DescriptorKeys,
    /// The greatest counter of ours under which a backend had points.
    last_with: BTreeMap<BackendId, u64>,
}

/// What all HSDirs of a period are to hold: the same descriptor, or each its own, but of the same counter. A client that has cached
/// one drops another with a lower counter, so whatever changes, all are published again.
pub(super) struct Round {
    pub(super) counter: u64,
    pub(super) merged: Merged,
    /// By subset.
    descriptors: Vec<Arc<str>>,
    /// As it was for this round: what an HSDir is sent under one counter never changes.
    layout: Layout,
    made: Now,
}

impl Round {
    /// The descriptor of one of the HSDirs that this round was made for.
    pub(super) fn descriptor(&self, hsdir: &Fingerprint) -> Option<Arc<str>> {
        let subset = self.layout.subset(hsdir)?;
        match self.descriptors.as_slice() {
            [for_all] => Some(Arc::clone(for_all)),
            several => several.get(subset).map(Arc::clone),
        }
    }
}

impl Period {
    pub(super) fn new(service: ServicePeriod, key: &MasterKey, rng: &mut StdRng) -> Self {
        Self {
            key: key.blind(service.period),
            descriptor_keys: DescriptorKeys::generate(rng),
            service,
            hsdirs: BTreeSet::new(),
            layout: Layout::default(),
            subsets: Subsets::default(),
            schedule: Schedule::default(),
            round: None,
            rejections: 0,
            waiting: BTreeSet::new(),
            last_with: BTreeMap::new(),
        }
    }

    /// Takes the period's ring over from a network. True when its HSDirs, or whom of them clients ask, ask for a new round.
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

    /// The counter of the next round: as time has it, greater than `floor`, and after rejections ahead of time. Another
    /// publisher's clock may be ahead, so the lead grows fast; it stays a value that the clock would come to as long as there is one.
    pub(super) fn next_counter(&self, floor: u64, now: Now) -> u64 {
        let since_srv = now.wall.duration_since(self.service.srv_start).unwrap_or_default();
        let (lead, step) = match self.rejections {
            0 => (Duration::ZERO, 1),
            times => {
                let faster = 4_u32.saturating_pow(times - 1);
                (FIRST_LEAD.saturating_mul(faster), u64::from(faster))
            }
        };
        let by_time = self.key.revision_counter(since_srv.saturating_add(lead).as_secs());
        by_time.max(floor.saturating_add(step))
    }

    /// Builds the descriptors of a round, one for each content, for those who may read it.
    pub(super) fn build(
        &mut self,
        address: &OnionAddress,
        merged: &Merged,
        counter: u64,
        now: Now,
        rng: &mut StdRng,
    ) -> Result<Vec<Arc<str>>, DescriptorError> {
        self.descriptor_keys.set_discovery(&self.key, address, &merged.discovery, rng);
        let build = |content| self.descriptor_keys.build(&self.key, address, content, counter, now.wall, rng);
        merged.contents.iter().map(build).map(|text| text.map(Arc::from)).collect()
    }

    /// Makes these descriptors the newest.
    pub(super) fn published(&mut self, round: (u64, Vec<Arc<str>>), merged: Merged, now: Now, rng: &mut StdRng) {
        let (counter, descriptors) = round;
        self.schedule.published(now.elapsed, rng);
        self.rejections = 0;
        self.last_with.extend(merged.points.keys().map(|backend| (backend.clone(), counter)));
        self.round = Some(Round { counter, descriptors, merged, layout: self.layout.clone(), made: now });
    }

    /// What was published is not ours to know any more.
    pub(super) fn stop(&mut self) {
        self.schedule.clear();
        self.round = None;
        self.rejections = 0;
        self.waiting.clear();
        self.last_with.clear();
    }

    /// When the newest descriptors end on the HSDirs.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        self.round.as_ref().map(|round| round.made.elapsed.saturating_add(DESCRIPTOR_LIFETIME))
    }

    /// The wall clock was set since the newest descriptors were dated.
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

    /// No HSDir that answers can hold a descriptor of ours with a point of this backend.
    pub(super) fn is_withdrawn(&self, backend: &BackendId, uploads: &Uploads) -> bool {
        let last_with = self.last_with.get(backend).copied().unwrap_or_default();
        self.round.as_ref().is_some_and(|round| round.counter > last_with)
            && self.hsdirs.iter().all(|hsdir| uploads.tried(hsdir, self.service.period) > last_with)
    }

    /// None when nothing is published.
    pub(super) fn status(&self, uploads: &Uploads) -> Option<PeriodStatus> {
        let round = self.round.as_ref()?;
        Some(PeriodStatus {
            period: self.service.period,
            revision_counter: round.counter,
            introduction_points: round.merged.points.values().sum(),
            descriptors: round.descriptors.len(),
            hsdirs_accepted: uploads.accepted(self.service.period),
            hsdirs_total: self.hsdirs.len(),
            last_published: round.made.wall,
            authorized_clients: match &*round.merged.discovery {
                Discovery::Open => None,
                Discovery::Restricted(clients) => Some(clients.len()),
            },
        })
    }
}
