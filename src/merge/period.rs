//! A time period that is published for: its keys, its HSDirs, its newest descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::CryptoRng;
use rand::rngs::StdRng;

use super::backends::Merged;
use super::schedule::Schedule;
use super::upload::Uploads;
use super::{BackendId, Now, PeriodStatus};
use crate::consensus::{Fingerprint, Network, ServicePeriod};
use crate::onion::descriptor::{DescriptorError, DescriptorKeys};
use crate::onion::{BlindedKeypair, MasterKey, OnionAddress};

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
    pub(super) schedule: Schedule,
    /// The newest descriptor.
    pub(super) round: Option<Round>,
    /// How often in a row that was rejected.
    pub(super) rejections: u32,
    key: BlindedKeypair,
    descriptor_keys: DescriptorKeys,
    /// The greatest counter of ours under which a backend had points.
    last_with: BTreeMap<BackendId, u64>,
}

/// A descriptor, for all HSDirs of a period: a client that has cached one drops another with a lower counter, so all get
/// the same.
pub(super) struct Round {
    pub(super) counter: u64,
    pub(super) descriptor: Arc<str>,
    pub(super) merged: Arc<Merged>,
    made: Now,
}

impl Period {
    pub(super) fn new(service: ServicePeriod, key: &MasterKey, rng: &mut impl CryptoRng) -> Self {
        Self {
            key: key.blind(service.period),
            descriptor_keys: DescriptorKeys::generate(rng),
            service,
            hsdirs: BTreeSet::new(),
            schedule: Schedule::default(),
            round: None,
            rejections: 0,
            last_with: BTreeMap::new(),
        }
    }

    /// Takes the period's ring over from a network. True when it brings new HSDirs.
    pub(super) fn set_network(&mut self, service: ServicePeriod, network: &Network) -> bool {
        let placements = network.responsible_hsdirs(&self.key.public(), &service);
        let hsdirs = placements.into_iter().map(|placement| placement.relay).collect();
        self.service = service;
        let old = std::mem::replace(&mut self.hsdirs, hsdirs);
        !self.hsdirs.is_subset(&old)
    }

    /// The counter of the next descriptor: as time has it, greater than `floor`, and after rejections ahead of time. Another
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

    /// Builds a descriptor; it changes nothing here.
    pub(super) fn build(
        &self,
        address: &OnionAddress,
        merged: &Merged,
        counter: u64,
        now: Now,
        rng: &mut impl CryptoRng,
    ) -> Result<String, DescriptorError> {
        self.descriptor_keys.build(&self.key, address, &merged.content, counter, now.wall, rng)
    }

    /// Makes a descriptor the newest.
    pub(super) fn published(&mut self, round: (u64, String), merged: Arc<Merged>, now: Now, rng: &mut StdRng) {
        let (counter, descriptor) = round;
        self.schedule.published(now.elapsed, rng);
        self.rejections = 0;
        self.last_with.extend(merged.shares.keys().map(|backend| (backend.clone(), counter)));
        self.round = Some(Round { counter, descriptor: descriptor.into(), merged, made: now });
    }

    /// What was published is not ours to know any more.
    pub(super) fn stop(&mut self) {
        self.schedule.clear();
        self.round = None;
        self.rejections = 0;
        self.last_with.clear();
    }

    /// When the newest descriptor ends on the HSDirs.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        self.round.as_ref().map(|round| round.made.elapsed.saturating_add(DESCRIPTOR_LIFETIME))
    }

    /// The wall clock was set since the newest descriptor was dated.
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
            introduction_points: round.merged.content.introduction_points.len(),
            hsdirs_accepted: uploads.accepted(self.service.period),
            hsdirs_total: self.hsdirs.len(),
            last_published: round.made.wall,
        })
    }
}
