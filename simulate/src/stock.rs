//! A stock onion service in the same world, for comparison: when C tor would upload its
//! descriptors.
//!
//! C tor uploads each descriptor after 60 to 120 minutes, when its introduction points have changed
//! and stand again, and when there are new HSDirs (`hs_service.c`).

use std::collections::BTreeMap;
use std::time::Duration;

use onionbalance_operator::consensus::Fingerprint;
use onionbalance_operator::onion::TimePeriod;

use crate::backends::POINTS;
use crate::time::{MINUTE, between};
use crate::world::{Event, World};

/// The stock service's descriptors.
#[derive(Debug, Default)]
pub struct Stock {
    /// The time of the next upload of each period's descriptor.
    next: BTreeMap<TimePeriod, Duration>,
    /// The HSDirs that have got each period's descriptor.
    hsdirs: BTreeMap<TimePeriod, Vec<Fingerprint>>,
}

impl World {
    /// Uploads a descriptor whose introduction points have changed.
    pub(crate) fn stock_changed(&mut self, period: TimePeriod) {
        let Some(backend) = self.backends.iter().find(|backend| backend.stock) else { return };
        if backend.descriptors.get(&period).is_none_or(|points| points.len() < POINTS) {
            return;
        }
        let view = self.relays.at(backend.tor.hour).or(self.relays.newest());
        let hsdirs = view.and_then(|view| view.stock.iter().find(|(of, _)| *of == period));
        let Some(hsdirs) = hsdirs.map(|(_, hsdirs)| hsdirs.clone()) else { return };
        self.figures.stock_uploads += hsdirs.len() as u64;
        self.stock.hsdirs.insert(period, hsdirs);
        let delay = between(MINUTE * 60, MINUTE * 120, &mut self.rng);
        let due = self.now + delay;
        self.stock.next.insert(period, due);
        self.after(delay, Event::StockUpload(period, due));
    }

    pub(crate) fn stock_upload_due(&mut self, period: TimePeriod, due: Duration) {
        if self.stock.next.get(&period) == Some(&due) {
            self.stock_changed(period);
        }
    }

    /// Uploads the descriptors that have new HSDirs by a new consensus.
    pub(crate) fn stock_has_consensus(&mut self, index: usize) {
        let Some(backend) = self.backends.get(index) else { return };
        let Some(view) = self.relays.at(backend.tor.hour).cloned() else { return };
        let is_current = |period: &TimePeriod| view.stock.iter().any(|(current, _)| current == period);
        self.stock.hsdirs.retain(|period, _| is_current(period));
        self.stock.next.retain(|period, _| is_current(period));
        for (period, hsdirs) in &view.stock {
            let known = self.stock.hsdirs.get(period);
            if known.is_some_and(|known| hsdirs.iter().any(|hsdir| !known.contains(hsdir))) {
                self.stock_changed(*period);
            }
        }
    }
}
