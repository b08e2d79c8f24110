//! The JSON bodies of `POST /v1/sync`, with which a publisher polls an agent, and of
//! `POST /v1/circuits/close`, with which it asks the agent to close a circuit.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::guards::GuardSample;
use super::health::TargetHealth;
use crate::onion::OnionAddress;

/// A request from a publisher to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// An identifier of the publisher process: the UID of its pod, and a part that changes with
    /// every restart.
    pub publisher: String,
    /// A sequence number that increases with every request from this publisher.
    pub sequence: u64,
    /// True if this publisher is the leader. The agent trusts only the leader's value of `phase`.
    pub leading: bool,
    /// The state of the agent's pod in Kubernetes.
    pub phase: PodPhase,
    /// The `revision` of the last response that the publisher processed. The agent does not send
    /// the descriptor for this revision again.
    pub known_revision: Option<Revision>,
    /// The `id` of the last report on guards that the publisher has received from this agent, or 0
    /// if there was none. It is None if the publisher expects no such reports, as older publishers
    /// do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_guards: Option<u64>,
    /// The guards that all tors of the service share, as [`GuardSample`] displays them. They are
    /// sent only to an agent whose tor waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_guards: Option<String>,
    /// The vanguards that all tors of the service use, as [`Vanguards`] displays them. A leading
    /// publisher sends them to an agent that reports others.
    ///
    /// [`Vanguards`]: super::Vanguards
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanguards: Option<String>,
    /// The round of checks that the leader wants, or 0 if it wants none. When the round changes,
    /// the agent checks all targets at once. An older publisher sends no round.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u64,
    /// True if the leader has withdrawn the backend, because a target fails here but not at another
    /// backend. An older publisher never does so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unhealthy: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(round: &u64) -> bool {
    *round == 0
}

/// A request from a publisher to an agent to close a circuit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloseRequest {
    /// An identifier of the publisher process, as in [`SyncRequest`].
    pub publisher: String,
    /// A sequence number that increases with every request of this kind from this publisher.
    pub sequence: u64,
    /// Tor's number of the circuit.
    pub circuit: u32,
}

/// The state of the agent's pod, as the publisher knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// The pod is not terminating. If a `/drain` call is running, a failed liveness probe must have
    /// caused it, so the agent ends the call.
    Active,
    /// The pod's `deletionTimestamp` is set, and its introduction points are being withdrawn.
    Terminating,
    /// The pod is terminating, and no reachable responsible HSDir holds its introduction points any
    /// more. The linger time begins.
    Withdrawn,
}

/// A response from an agent to a publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncResponse {
    /// The backend's own onion address.
    pub onion_address: OnionAddress,
    /// The revision of the current introduction points.
    pub revision: Revision,
    /// The number of introduction points in the backend's descriptor, or 0 while tor has no
    /// descriptor.
    pub introduction_points: usize,
    /// The descriptor as tor returned it. It is None if `known_revision` is current or tor has no
    /// descriptor.
    pub descriptor: Option<String>,
    /// The number of open streams.
    pub streams: u64,
    /// True while `/drain` is running.
    pub draining: bool,
    /// The entry guards of the backend's tor, if the publisher expects them and does not know this
    /// report yet. Older agents never send them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guards: Option<GuardReport>,
    /// True while the backend's tor waits for the shared guards before its first start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_guards: bool,
    /// The number of the vanguards that the backend's tor uses, as [`Vanguards::id`] returns it, or
    /// 0 if tor chooses its second hops itself. It is None if the pods of the service share no
    /// vanguards. Older agents never send it.
    ///
    /// [`Vanguards::id`]: super::Vanguards::id
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanguards: Option<u64>,
    /// The health of the targets that are checked. An older agent sends none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetHealth>,
}

/// The entry guards of a tor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardReport {
    /// A number that changes with the guards. It is derived from `lines` and never 0.
    pub id: u64,
    /// The guards, as [`GuardSample`] displays them.
    pub lines: String,
}

impl GuardReport {
    /// Creates the report on a sample.
    pub fn new(sample: &GuardSample) -> Self {
        let lines = sample.to_string();
        let digest = Sha256::digest(lines.as_bytes());
        let id = digest.iter().take(8).fold(0, |number: u64, byte| (number << 8) | u64::from(*byte));
        Self { id: id.max(1), lines }
    }
}

/// An identifier of a set of introduction points. It changes with the set and with every restart of
/// the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// A random number that is chosen when the agent starts.
    pub boot: u64,
    /// A number that increases whenever the introduction points change.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::TargetState;

    /// The wire format must stay compatible between versions, because a running agent may be older
    /// than its publisher.
    #[test]
    fn the_wire_format_of_a_request_is_stable() {
        let json = r#"{"publisher":"0f1e","sequence":7,"leading":true,"phase":"Withdrawn","knownRevision":{"boot":18446744073709551615,"number":3}}"#;
        let request = SyncRequest {
            publisher: "0f1e".to_owned(),
            sequence: 7,
            leading: true,
            phase: PodPhase::Withdrawn,
            known_revision: Some(Revision { boot: u64::MAX, number: 3 }),
            known_guards: None,
            shared_guards: None,
            vanguards: None,
            round: 0,
            unhealthy: false,
        };
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<SyncRequest>(json).unwrap(), request);
        let json = json.replace("3}}", r#"3},"round":9,"unhealthy":true}"#);
        let request = SyncRequest { round: 9, unhealthy: true, ..request };
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<SyncRequest>(&json).unwrap(), request);
    }

    #[test]
    fn the_wire_format_of_a_response_is_stable() {
        let json = r#"{"onionAddress":"2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion","revision":{"boot":1,"number":2},"introductionPoints":3,"descriptor":"hs-descriptor 3\n","streams":4,"draining":false}"#;
        let answer: SyncResponse = serde_json::from_str(json).unwrap();
        assert_eq!(answer.descriptor.as_deref(), Some("hs-descriptor 3\n"));
        assert_eq!((answer.introduction_points, answer.streams), (3, 4));
        assert_eq!(serde_json::to_string(&answer).unwrap(), json);
        assert_eq!(answer.targets, [], "an older agent checks no targets");
        let json = json.replace("false}", r#"false,"targets":[{"port":80,"state":"Passing","fresh":true}]}"#);
        let answer: SyncResponse = serde_json::from_str(&json).unwrap();
        assert_eq!((answer.targets[0].port, answer.targets[0].state), (80, TargetState::Passing));
        assert_eq!(serde_json::to_string(&answer).unwrap(), json);
    }

    #[test]
    fn the_wire_format_of_a_request_to_close_a_circuit_is_stable() {
        let json = r#"{"publisher":"0f1e","sequence":7,"circuit":42}"#;
        let request = CloseRequest { publisher: "0f1e".to_owned(), sequence: 7, circuit: 42 };
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        assert_eq!(serde_json::from_str::<CloseRequest>(json).unwrap(), request);
    }

    #[test]
    fn guards_are_optional_in_both_messages() {
        let json = r#"{"publisher":"a","sequence":1,"leading":false,"phase":"Active","knownRevision":null,"knownGuards":7,"sharedGuards":"x","vanguards":"y"}"#;
        let request: SyncRequest = serde_json::from_str(json).unwrap();
        assert_eq!((request.known_guards, request.shared_guards.as_deref()), (Some(7), Some("x")));
        assert_eq!(request.vanguards.as_deref(), Some("y"));
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        let json = r#"{"onionAddress":"2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion","revision":{"boot":1,"number":2},"introductionPoints":3,"descriptor":null,"streams":4,"draining":false,"guards":{"id":5,"lines":"Guard\n"},"awaitsGuards":true,"vanguards":9}"#;
        let answer: SyncResponse = serde_json::from_str(json).unwrap();
        assert_eq!(answer.guards, Some(GuardReport { id: 5, lines: "Guard\n".to_owned() }));
        assert_eq!(answer.vanguards, Some(9));
        assert_eq!(serde_json::to_string(&answer).unwrap(), json);
    }

    #[test]
    fn an_unknown_field_is_ignored_but_a_missing_field_is_an_error() {
        let newer = r#"{"publisher":"a","sequence":1,"leading":false,"phase":"Active","knownRevision":null,"new":1}"#;
        assert_eq!(serde_json::from_str::<SyncRequest>(newer).unwrap().known_revision, None);
        let short = r#"{"publisher":"a","sequence":1,"leading":false,"knownRevision":null}"#;
        assert!(serde_json::from_str::<SyncRequest>(short).unwrap_err().to_string().contains("phase"));
    }

    fn revision() -> impl Strategy<Value = Revision> {
        any::<(u64, u64)>().prop_map(|(boot, number)| Revision { boot, number })
    }

    fn target() -> impl Strategy<Value = TargetHealth> {
        let state = prop::sample::select([TargetState::Unknown, TargetState::Passing, TargetState::Failing].as_slice());
        let health = (any::<u16>(), state, prop::option::of(any::<bool>()), prop::option::of("\\PC{0,20}"));
        health.prop_map(|(port, state, fresh, problem)| TargetHealth { port, state, fresh, problem })
    }

    fn round_trip<T: Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
        serde_json::from_str(&serde_json::to_string(message).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn any_request_round_trips(
            publisher: String,
            sequence: u64,
            leading: bool,
            phase in prop::sample::select([PodPhase::Active, PodPhase::Terminating, PodPhase::Withdrawn].as_slice()),
            known_revision in prop::option::of(revision()),
            known_guards: Option<u64>,
            shared_guards: Option<String>,
            vanguards: Option<String>,
            round: u64,
            unhealthy: bool,
        ) {
            let request = SyncRequest {
                publisher,
                sequence,
                leading,
                phase,
                known_revision,
                known_guards,
                shared_guards,
                vanguards,
                round,
                unhealthy,
            };
            prop_assert_eq!(round_trip(&request), request);
        }

        #[test]
        fn any_response_round_trips(
            seed: [u8; 32],
            revision in revision(),
            introduction_points: usize,
            descriptor in prop::option::of(".{0,40}|(\\PC|\n){0,40}"),
            streams: u64,
            draining: bool,
            guards: Option<(u64, String)>,
            awaits_guards: bool,
            vanguards: Option<u64>,
            targets in prop::collection::vec(target(), 0..4),
        ) {
            let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
            let onion_address = OnionAddress::from_public_key(key).unwrap();
            let guards = guards.map(|(id, lines)| GuardReport { id, lines });
            let answer = SyncResponse {
                onion_address,
                revision,
                introduction_points,
                descriptor,
                streams,
                draining,
                guards,
                awaits_guards,
                vanguards,
                targets,
            };
            prop_assert_eq!(round_trip(&answer), answer);
        }
    }
}
