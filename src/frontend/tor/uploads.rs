//! Tracks the uploads in flight and assigns results to them.

use std::collections::BTreeSet;

use crate::consensus::Fingerprint;
use crate::control::{HsDescAction, HsDescEvent};
use crate::merge::UploadError;
use crate::onion::OnionAddress;

/// Tor's `REASON=` if an HSDir rejects a descriptor because it is malformed, or not newer than the
/// one that the HSDir holds. Tor never gives this reason for a fetch.
const REJECTED: &str = "UPLOAD_REJECTED";
/// Tor's `REASON=` if an HSDir sends a response that tor does not recognise.
const UNEXPECTED: &str = "UNEXPECTED";
/// Tor's reasons that only a fetch can have (control-spec, `HS_DESC`).
const FETCH_REASONS: [&str; 5] = ["NOT_FOUND", "BAD_DESC", "QUERY_REJECTED", "QUERY_NO_HSDIR", "QUERY_RATE_LIMITED"];
/// The reason that is reported for a failure without a `REASON=`.
const NO_REASON: &str = "FAILED";

/// The uploads in flight. There is at most one per HSDir and service, because tor's events could
/// not distinguish two of them.
#[derive(Debug, Default)]
pub(super) struct PendingUploads(BTreeSet<(Fingerprint, OnionAddress)>);

/// The result of an upload: the service, the HSDir, and Ok if the HSDir accepted the descriptor.
pub(super) type UploadResult = (OnionAddress, Fingerprint, Result<(), UploadError>);

impl PendingUploads {
    /// Records that an upload was sent.
    pub(super) fn started(&mut self, service: OnionAddress, hsdir: Fingerprint) {
        self.0.insert((hsdir, service));
    }

    /// Records that an upload ended without an event.
    pub(super) fn ended(&mut self, service: OnionAddress, hsdir: Fingerprint) {
        self.0.remove(&(hsdir, service));
    }

    /// Ends the upload to which an event belongs, and returns its result. The caller must first
    /// rule out that a FAILED event belongs to a fetch that the publisher requested. Tor also
    /// fetches the service's own descriptor by itself, when the probe connects to the address.
    pub(super) fn event(&mut self, event: &HsDescEvent) -> Option<UploadResult> {
        let result = match event.action {
            HsDescAction::Uploaded => Ok(()),
            HsDescAction::Failed if !is_of_a_fetch(event) => Err(error(event.reason.as_deref())),
            _ => return None,
        };
        let hsdir = Fingerprint(event.hsdir?);
        let service = event.address.or_else(|| self.only_service(hsdir))?;
        self.0.remove(&(hsdir, service)).then_some((service, hsdir, result))
    }

    /// Returns the service to which an event without an address belongs, if only one service is
    /// uploading to the HSDir.
    fn only_service(&self, hsdir: Fingerprint) -> Option<OnionAddress> {
        let mut services = self.0.iter().filter(|(at, _)| *at == hsdir);
        let (_, service) = services.next()?;
        services.next().is_none().then_some(*service)
    }
}

/// Parses tor's `REASON=`.
fn error(reason: Option<&str>) -> UploadError {
    match reason {
        Some(REJECTED) => UploadError::Rejected,
        Some(UNEXPECTED) => UploadError::Unexpected,
        other => UploadError::Other(other.unwrap_or(NO_REASON).to_owned()),
    }
}

/// Returns true if a FAILED event can only belong to a fetch.
fn is_of_a_fetch(event: &HsDescEvent) -> bool {
    event.reason.as_deref().is_some_and(|reason| FETCH_REASONS.contains(&reason))
}

/// Returns true if a FAILED event can only belong to an upload.
pub(super) fn is_rejection(event: &HsDescEvent) -> bool {
    event.reason.as_deref() == Some(REJECTED)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{address, event};
    use super::*;

    const HSDIR: Fingerprint = Fingerprint([7; 20]);

    fn uploads() -> PendingUploads {
        let mut uploads = PendingUploads::default();
        uploads.started(address(0), HSDIR);
        uploads.started(address(1), HSDIR);
        uploads
    }

    #[test]
    fn each_result_is_reported_once_to_its_own_service() {
        let mut uploads = uploads();
        let uploaded = event(HsDescAction::Uploaded, Some(address(1)), HSDIR, None);
        assert_eq!(uploads.event(&uploaded), Some((address(1), HSDIR, Ok(()))));
        assert_eq!(uploads.event(&uploaded), None);
        let rejected = event(HsDescAction::Failed, Some(address(0)), HSDIR, Some(REJECTED));
        assert!(is_rejection(&rejected));
        assert_eq!(uploads.event(&rejected), Some((address(0), HSDIR, Err(UploadError::Rejected))));
        let nameless = event(HsDescAction::Failed, Some(address(0)), HSDIR, None);
        assert_eq!(uploads.event(&nameless), None);
    }

    #[test]
    fn parses_the_reasons_that_tor_gives() {
        assert_eq!(error(Some("UPLOAD_REJECTED")), UploadError::Rejected);
        assert_eq!(error(Some("UNEXPECTED")), UploadError::Unexpected);
        assert_eq!(error(Some("CANT_CONNECT")), UploadError::Other("CANT_CONNECT".to_owned()));
        assert_eq!(error(None).to_string(), "FAILED");
    }

    #[test]
    fn other_events_do_not_end_an_upload() {
        let mut uploads = uploads();
        assert_eq!(uploads.event(&event(HsDescAction::Upload, Some(address(0)), HSDIR, None)), None);
        assert_eq!(uploads.event(&event(HsDescAction::Uploaded, Some(address(2)), HSDIR, None)), None);
        assert_eq!(uploads.event(&event(HsDescAction::Uploaded, Some(address(0)), Fingerprint([8; 20]), None)), None);
        let nowhere = HsDescEvent { hsdir: None, ..event(HsDescAction::Uploaded, Some(address(0)), HSDIR, None) };
        assert_eq!(uploads.event(&nowhere), None);
    }

    #[test]
    fn an_event_without_an_address_ends_the_only_upload_to_its_hsdir() {
        let mut uploads = uploads();
        let nameless = event(HsDescAction::Uploaded, None, HSDIR, None);
        assert_eq!(uploads.event(&nameless), None);
        uploads.ended(address(0), HSDIR);
        assert_eq!(uploads.event(&nameless), Some((address(1), HSDIR, Ok(()))));
    }
}
