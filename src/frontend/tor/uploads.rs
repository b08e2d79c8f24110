//! Which uploads are on their way, and what became of them.

use std::collections::BTreeSet;

use crate::consensus::Fingerprint;
use crate::control::{HsDescAction, HsDescEvent};
use crate::onion::OnionAddress;

/// What tor says where an HSDir took a descriptor for no newer one, or for malformed. It fails no fetch with this.
const REJECTED: &str = "UPLOAD_REJECTED";

/// Uploads on their way: at most one for each HSDir and service, since events do not tell two of them apart.
#[derive(Debug, Default)]
pub(super) struct Uploads(BTreeSet<(Fingerprint, OnionAddress)>);

/// What became of an upload.
pub(super) type Fate = (OnionAddress, Fingerprint, Result<(), String>);

impl Uploads {
    pub(super) fn started(&mut self, service: OnionAddress, hsdir: Fingerprint) {
        self.0.insert((hsdir, service));
    }

    pub(super) fn ended(&mut self, service: OnionAddress, hsdir: Fingerprint) {
        self.0.remove(&(hsdir, service));
    }

    /// What an event says of an upload of ours, which is over then. Fetches fail with FAILED, too: the caller asks for theirs
    /// first.
    pub(super) fn event(&mut self, event: &HsDescEvent) -> Option<Fate> {
        let result = match event.action {
            HsDescAction::Uploaded => Ok(()),
            HsDescAction::Failed => Err(event.reason.clone().unwrap_or_else(|| "FAILED".to_owned())),
            _ => return None,
        };
        let hsdir = Fingerprint(event.hsdir?);
        let service = event.address.or_else(|| self.only_service(hsdir))?;
        self.0.remove(&(hsdir, service)).then_some((service, hsdir, result))
    }

    /// Whose upload an event without an address speaks of, where that is certain.
    fn only_service(&self, hsdir: Fingerprint) -> Option<OnionAddress> {
        let mut services = self.0.iter().filter(|(at, _)| *at == hsdir);
        let (_, service) = services.next()?;
        services.next().is_none().then_some(*service)
    }
}

/// Whether a FAILED event can only speak of an upload.
pub(super) fn is_rejection(event: &HsDescEvent) -> bool {
    event.reason.as_deref() == Some(REJECTED)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{address, event};
    use super::*;

    const HSDIR: Fingerprint = Fingerprint([7; 20]);

    fn uploads() -> Uploads {
        let mut uploads = Uploads::default();
        uploads.started(address(0), HSDIR);
        uploads.started(address(1), HSDIR);
        uploads
    }

    #[test]
    fn each_fate_comes_once_and_to_its_own_service() {
        let mut uploads = uploads();
        let uploaded = event(HsDescAction::Uploaded, Some(address(1)), HSDIR, None);
        assert_eq!(uploads.event(&uploaded), Some((address(1), HSDIR, Ok(()))));
        assert_eq!(uploads.event(&uploaded), None);
        let rejected = event(HsDescAction::Failed, Some(address(0)), HSDIR, Some(REJECTED));
        assert!(is_rejection(&rejected));
        assert_eq!(uploads.event(&rejected), Some((address(0), HSDIR, Err(REJECTED.to_owned()))));
        let nameless = event(HsDescAction::Failed, Some(address(0)), HSDIR, None);
        assert_eq!(uploads.event(&nameless), None);
    }

    #[test]
    fn other_events_are_no_fate() {
        let mut uploads = uploads();
        assert_eq!(uploads.event(&event(HsDescAction::Upload, Some(address(0)), HSDIR, None)), None);
        assert_eq!(uploads.event(&event(HsDescAction::Uploaded, Some(address(2)), HSDIR, None)), None);
        assert_eq!(uploads.event(&event(HsDescAction::Uploaded, Some(address(0)), Fingerprint([8; 20]), None)), None);
        let nowhere = HsDescEvent { hsdir: None, ..event(HsDescAction::Uploaded, Some(address(0)), HSDIR, None) };
        assert_eq!(uploads.event(&nowhere), None);
    }

    #[test]
    fn an_event_without_address_counts_where_only_one_can_be_meant() {
        let mut uploads = uploads();
        let nameless = event(HsDescAction::Uploaded, None, HSDIR, None);
        assert_eq!(uploads.event(&nameless), None);
        uploads.ended(address(0), HSDIR);
        assert_eq!(uploads.event(&nameless), Some((address(1), HSDIR, Ok(()))));
    }
}
