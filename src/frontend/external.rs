//! Manages the external backends of a service. All backends of the stand-alone daemon are external.
//!
//! The descriptors of external backends are fetched from HSDirs according to the schedule in
//! `merge`, checked here, and passed to the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::check;
use super::tor::{Fetch, FetchError, TorOrders};
use super::view::{BackendView, StateHistory};
use crate::consensus::{Fingerprint, Network};
use crate::crd::BackendState;
use crate::merge::{
    BackendId, ExternalState, FetchAnswer, FetchInput, FetchOutput, FetchSchedule, Input, Now, PointLimits, Status,
    remarks,
};
use crate::onion::{OnionAddress, ServiceContent};

/// The external backends of one service.
pub(super) struct ExternalBackends {
    /// The service's own address, which cannot be one of its backends.
    own: OnionAddress,
    scheduler: FetchSchedule,
    /// The number of introduction points that each backend may contribute.
    limits: PointLimits,
    network: Option<Arc<Network>>,
    tor: Option<TorOrders>,
    states: StateHistory<OnionAddress>,
    /// For each backend, the parts of its descriptor that are not published, or the reason why
    /// nothing is published.
    messages: BTreeMap<OnionAddress, String>,
    fetches: FetchCounts,
}

/// The numbers of fetches, by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FetchCounts {
    /// The number of fetches that returned a valid descriptor.
    pub(super) found: u64,
    /// The number of fetches that failed or returned an invalid descriptor.
    pub(super) failed: u64,
}

impl ExternalBackends {
    pub(super) fn new(own: OnionAddress, seed: [u8; 32]) -> Self {
        Self {
            own,
            scheduler: FetchSchedule::new(seed),
            limits: PointLimits::default(),
            network: None,
            tor: None,
            states: StateHistory::default(),
            messages: BTreeMap::new(),
            fetches: FetchCounts::default(),
        }
    }

    /// Sets the external backends, and the number of introduction points that each may contribute.
    /// If `active` is false, their descriptors are not fetched, because nothing is published.
    pub(super) fn set(&mut self, backends: &BTreeSet<OnionAddress>, limits: &PointLimits, active: bool, now: Now) {
        self.limits = limits.clone();
        let backends: BTreeSet<_> = backends.iter().copied().filter(|address| *address != self.own).collect();
        self.states.retain(|address| backends.contains(address));
        self.messages.retain(|address, _| backends.contains(address));
        self.scheduler.handle(FetchInput::Backends(backends), now);
        self.scheduler.handle(FetchInput::Active(active), now);
    }

    /// Returns the backends with these addresses, except for the service itself.
    pub(super) fn expected(&self, backends: &BTreeSet<OnionAddress>) -> impl Iterator<Item = BackendId> {
        backends.iter().filter(|address| **address != self.own).map(id)
    }

    /// Records that the connection to tor was established or lost.
    pub(super) fn set_tor(&mut self, tor: Option<TorOrders>, now: Now) {
        self.scheduler.handle(FetchInput::Tor(tor.is_some()), now);
        self.tor = tor;
    }

    pub(super) fn set_network(&mut self, network: Arc<Network>, now: Now) {
        self.network = Some(network.clone());
        self.scheduler.handle(FetchInput::Network(network), now);
    }

    /// Processes the result of a fetch. Returns the content of the descriptor if it is valid.
    pub(super) fn fetched(
        &mut self,
        address: OnionAddress,
        hsdir: Fingerprint,
        result: Result<Arc<str>, FetchError>,
        now: Now,
    ) -> Option<Arc<ServiceContent>> {
        let has_none = matches!(result, Err(FetchError::NotFound));
        let opened = result.map_err(|error| error.to_string()).and_then(|text| {
            let network = self.network.as_ref().ok_or("tor has no consensus yet")?;
            check::open(&text, &address, network, now.wall).map_err(|error| error.to_string())
        });
        let answer = match opened {
            Ok(found) => {
                self.fetches.found += 1;
                let (period, counter) = (found.period.number, found.revision_counter);
                tracing::debug!(%address, %hsdir, period, counter, "found an external backend's descriptor");
                let remarks = remarks(&found.content, self.limits.of(&id(&address)));
                let remarks: Vec<_> = remarks.iter().map(ToString::to_string).collect();
                self.note(address, remarks.join("; "));
                FetchAnswer::Has(found)
            }
            Err(reason) => {
                self.fetches.failed += 1;
                tracing::debug!(%address, %hsdir, reason, "an HSDir sent no usable descriptor of an external backend");
                if !self.counts(address) {
                    self.note(address, format!("no HSDir has a usable descriptor; the last HSDir replied: {reason}"));
                }
                if has_none { FetchAnswer::HasNone } else { FetchAnswer::Useless }
            }
        };
        let content = match &answer {
            FetchAnswer::Has(found) => Some(found.content.clone()),
            _ => None,
        };
        self.scheduler.handle(FetchInput::Fetched { address, hsdir, answer }, now);
        content
    }

    fn counts(&self, address: OnionAddress) -> bool {
        self.scheduler.states().any(|known| known == (address, ExternalState::Counts))
    }

    fn note(&mut self, address: OnionAddress, message: String) {
        if message.is_empty() {
            self.messages.remove(&address);
        } else if self.scheduler.states().any(|(known, _)| known == address)
            && self.messages.get(&address) != Some(&message)
        {
            tracing::warn!(%address, message, "some features of an external backend cannot be published");
            self.messages.insert(address, message);
        }
    }

    /// Requests the fetches that are due. Returns the resulting inputs for the engine.
    pub(super) fn carry_out(&mut self, now: Now) -> Vec<Input> {
        let mut inputs = Vec::new();
        self.scheduler.handle(FetchInput::Tick, now);
        while let Some(output) = self.scheduler.poll_output() {
            match output {
                FetchOutput::Fetch(address, hsdir) => {
                    if !self.tor.as_ref().is_some_and(|tor| tor.fetch(Fetch { address, hsdir })) {
                        // A fetch that could not be requested gets no result, so it fails here.
                        let answer = FetchAnswer::Useless;
                        self.scheduler.handle(FetchInput::Fetched { address, hsdir, answer }, now);
                    }
                }
                FetchOutput::Backend(address, content) => {
                    let points = content.introduction_points.len();
                    tracing::info!(%address, points, "an external backend has new introduction points");
                    inputs.push(Input::Backend(id(&address), content));
                }
                FetchOutput::Lost(address) => {
                    tracing::warn!(%address, "an external backend is no longer used");
                    inputs.push(Input::BackendLost(id(&address)));
                }
            }
        }
        inputs
    }

    /// Returns the monotonic time at which [`Self::carry_out`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.scheduler.poll_timeout()
    }

    pub(super) fn fetches(&self) -> FetchCounts {
        self.fetches
    }

    /// Returns the state of all external backends, sorted by address. `status` is the state of the
    /// engine.
    pub(super) fn views(&mut self, status: &Status, now: SystemTime) -> Vec<BackendView> {
        let points: BTreeMap<&BackendId, usize> = status.points.iter().map(|(id, count)| (id, *count)).collect();
        let view = |(address, state)| {
            let id = id(&address);
            let points = points.get(&id).copied().unwrap_or_default();
            let outvoted = status.outvoted.get(&id);
            let state = match state {
                ExternalState::Counts if points > 0 => BackendState::Ready,
                ExternalState::Counts if outvoted.is_some() => BackendState::Excluded,
                ExternalState::Counts if status.waiting.contains(&id) => BackendState::Waiting,
                ExternalState::Lost => BackendState::Lost,
                ExternalState::Counts | ExternalState::Unseen => BackendState::Starting,
            };
            let since = self.states.enter(address, state, now);
            let exclusion = outvoted.filter(|_| state == BackendState::Excluded);
            if let Some(reason) = exclusion.filter(|_| since == now) {
                tracing::warn!(%address, "{reason}");
            }
            let name = address.to_string();
            let messages: Vec<_> =
                exclusion.map(ToString::to_string).into_iter().chain(self.messages.get(&address).cloned()).collect();
            let message = Some(messages.join("; ")).filter(|message| !message.is_empty());
            let failing = BTreeMap::new();
            BackendView { onion_address: Some(name.clone()), name, points, state, since, message, failing }
        };
        self.scheduler.states().map(view).collect()
    }
}

/// Returns the engine's ID of an external backend.
pub(super) fn id(address: &OnionAddress) -> BackendId {
    BackendId(address.to_string())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::merge::{FetchedDescriptor, Outvoted};
    use crate::onion::TimePeriod;

    fn address(number: u8) -> OnionAddress {
        OnionAddress::from_public_key(SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes()).unwrap()
    }

    fn at(seconds: u64) -> Now {
        let elapsed = Duration::from_secs(seconds);
        Now { wall: SystemTime::UNIX_EPOCH + elapsed, elapsed }
    }

    /// Returns the answer of an HSDir with a descriptor of the backend `address(1)`.
    fn fetched() -> FetchInput {
        let content = ServiceContent::plain(Vec::new());
        let period = TimePeriod { number: 20_500, length_minutes: 1440 };
        let lifetime = Duration::from_secs(3 * 3600);
        let answer =
            FetchAnswer::Has(FetchedDescriptor { period, revision_counter: 1, lifetime, content: Arc::new(content) });
        FetchInput::Fetched { address: address(1), hsdir: Fingerprint([1; 20]), answer }
    }

    #[test]
    fn all_backends_except_the_service_itself_are_listed() {
        let mut external = ExternalBackends::new(address(0), [1; 32]);
        let limits = PointLimits::default();
        external.set(&[address(0), address(1), address(2)].into(), &limits, true, at(1));
        let shown = |external: &mut ExternalBackends, seconds| -> Vec<_> {
            let views = external.views(&Status::default(), at(seconds).wall);
            views.into_iter().map(|view| (view.name, view.state, view.since)).collect()
        };
        let first = shown(&mut external, 5);
        let mut names: Vec<_> = first.iter().map(|(name, ..)| name.clone()).collect();
        names.sort();
        let mut expected = [address(1).to_string(), address(2).to_string()];
        expected.sort();
        assert_eq!(names, expected);
        assert!(first.iter().all(|(_, state, since)| (*state, *since) == (BackendState::Starting, at(5).wall)));
        assert_eq!(shown(&mut external, 9), first);
        external.set(&[address(2)].into(), &limits, true, at(10));
        assert_eq!(shown(&mut external, 11).len(), 1);
    }

    #[test]
    fn a_backend_that_waits_for_its_turn_is_neither_lost_nor_starting() {
        let mut external = ExternalBackends::new(address(0), [1; 32]);
        external.set(&[address(1)].into(), &PointLimits::default(), true, at(1));
        external.scheduler.handle(fetched(), at(2));

        let mut state = |points, waits: bool, seconds| {
            let waiting = waits.then(|| id(&address(1))).into_iter().collect();
            let status = Status { points: vec![(id(&address(1)), points)], waiting, ..Status::default() };
            external.scheduler.handle(FetchInput::Tick, at(seconds));
            external.views(&status, at(seconds).wall).remove(0).state
        };
        assert_eq!(state(0, false, 3), BackendState::Starting, "the engine has not selected points yet");
        assert_eq!(state(0, true, 4), BackendState::Waiting);
        assert_eq!(state(3, false, 5), BackendState::Ready);
        assert_eq!(state(0, true, 6), BackendState::Waiting);
        assert_eq!(state(0, false, 4 * 3600), BackendState::Lost);
    }

    #[test]
    fn an_outvoted_backend_is_excluded_and_its_message_says_why() {
        let mut external = ExternalBackends::new(address(0), [1; 32]);
        external.set(&[address(1)].into(), &PointLimits::default(), true, at(1));
        let outvoted = Outvoted { own: "1-2 32".parse().ok(), increment: 31 };
        let status = Status { outvoted: [(id(&address(1)), outvoted)].into(), ..Status::default() };
        assert_eq!(external.views(&status, at(2).wall)[0].state, BackendState::Starting, "nothing was fetched yet");
        external.scheduler.handle(fetched(), at(3));
        external.scheduler.handle(FetchInput::Tick, at(4));
        let view = external.views(&status, at(4).wall).remove(0);
        assert_eq!((view.state, view.message), (BackendState::Excluded, Some(outvoted.to_string())));
    }

    #[test]
    fn an_unusable_descriptor_counts_as_a_failed_fetch() {
        let mut external = ExternalBackends::new(address(0), [1; 32]);
        external.set(&[address(1)].into(), &PointLimits::default(), true, at(1));
        external.fetched(address(1), Fingerprint([1; 20]), Ok("garbage".into()), at(2));
        external.fetched(address(1), Fingerprint([1; 20]), Err(FetchError::NotFound), at(3));
        assert_eq!(external.fetches(), FetchCounts { found: 0, failed: 2 });
        let view = external.views(&Status::default(), at(4).wall).remove(0);
        assert_eq!(view.state, BackendState::Starting);
        assert!(view.message.unwrap().ends_with("the last HSDir replied: NOT_FOUND"));
        assert_eq!(external.carry_out(at(5)).len(), 0);
    }
}
