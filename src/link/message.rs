//! The bodies of the sync call, JSON both ways.

use serde::{Deserialize, Serialize};

use crate::onion::OnionAddress;

/// Publisher to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// Names the publisher's process: its pod's UID, and what differs after a restart.
    pub publisher: String,
    /// Rises with every request of a publisher.
    pub sequence: u64,
    /// Whether this publisher leads: only a leader's word on `phase` counts.
    pub leading: bool,
    /// What Kubernetes says of the agent's pod.
    pub phase: PodPhase,
    /// The `revision` of the last answer taken in; its descriptor is not sent again.
    pub known_revision: Option<Revision>,
}

/// What the publisher knows of the pod it speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Not terminating: a `/drain` that runs returns at once (it is a liveness kill).
    Active,
    /// Its deletionTimestamp is set; its points are being withdrawn.
    Terminating,
    /// Terminating, and no responsible, reachable HSDir holds its points any more: the linger time begins.
    Withdrawn,
}

/// Agent to publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncResponse {
    /// The backend's own onion address.
    pub onion_address: OnionAddress,
    /// Names the current points.
    pub revision: Revision,
    /// How many points its descriptor has; 0 while tor has none.
    pub introduction_points: usize,
    /// The descriptor as tor gave it; None when `known_revision` is current or there is none.
    pub descriptor: Option<String>,
    /// Open streams.
    pub streams: u64,
    /// `/drain` is running.
    pub draining: bool,
}

/// Names a set of introduction points: changes when the set does, and when the agent restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Random per agent start.
    pub boot: u64,
    /// Rises when the points change.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The wire form is the contract between versions: a running agent may be older than its publisher.
    #[test]
    fn a_request_has_this_wire_form() {
        let json = r#"{"publisher":"0f1e","sequence":7,"leading":true,"phase":"Withdrawn","knownRevision":{"boot":18446744073709551615,"number":3}}"#;
        let request = SyncRequest {
            publisher: "0f1e".to_owned(),
            sequence: 7,
            leading: true,
            phase: PodPhase::Withdrawn,
            known_revision: Some(Revision { boot: u64::MAX, number: 3 }),
        };
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<SyncRequest>(json).unwrap(), request);
    }

    #[test]
    fn an_answer_has_this_wire_form() {
        let json = r#"{"onionAddress":"2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion","revision":{"boot":1,"number":2},"introductionPoints":3,"descriptor":"hs-descriptor 3\n","streams":4,"draining":false}"#;
        let answer: SyncResponse = serde_json::from_str(json).unwrap();
        assert_eq!(answer.descriptor.as_deref(), Some("hs-descriptor 3\n"));
        assert_eq!((answer.introduction_points, answer.streams), (3, 4));
        assert_eq!(serde_json::to_string(&answer).unwrap(), json);
    }

    #[test]
    fn a_newer_peers_unknown_field_is_ignored_and_a_missing_field_is_not() {
        let newer = r#"{"publisher":"a","sequence":1,"leading":false,"phase":"Active","knownRevision":null,"new":1}"#;
        assert_eq!(serde_json::from_str::<SyncRequest>(newer).unwrap().known_revision, None);
        let short = r#"{"publisher":"a","sequence":1,"leading":false,"knownRevision":null}"#;
        assert!(serde_json::from_str::<SyncRequest>(short).unwrap_err().to_string().contains("phase"));
    }

    fn revision() -> impl Strategy<Value = Revision> {
        any::<(u64, u64)>().prop_map(|(boot, number)| Revision { boot, number })
    }

    fn read_again<T: Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
        serde_json::from_str(&serde_json::to_string(message).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn any_request_is_read_as_it_was_written(
            publisher: String,
            sequence: u64,
            leading: bool,
            phase in prop::sample::select([PodPhase::Active, PodPhase::Terminating, PodPhase::Withdrawn].as_slice()),
            known_revision in prop::option::of(revision()),
        ) {
            let request = SyncRequest { publisher, sequence, leading, phase, known_revision };
            prop_assert_eq!(read_again(&request), request);
        }

        #[test]
        fn any_answer_is_read_as_it_was_written(
            seed: [u8; 32],
            revision in revision(),
            introduction_points: usize,
            descriptor in prop::option::of(".{0,40}|(\\PC|\n){0,40}"),
            streams: u64,
            draining: bool,
        ) {
            let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
            let onion_address = OnionAddress::from_public_key(key).unwrap();
            let answer = SyncResponse { onion_address, revision, introduction_points, descriptor, streams, draining };
            prop_assert_eq!(read_again(&answer), answer);
        }
    }
}
