//! The Secrets of the agent token and of the app's token.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::Inputs;
use crate::crd::names;
use crate::link::AgentToken;

/// Builds the Secret with the token shared by publishers and agents.
pub(super) fn secret(inputs: &Inputs<'_>, token: &AgentToken) -> Secret {
    Secret {
        metadata: inputs.metadata(names::agent_token_secret(&inputs.name()), None),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([("token".to_owned(), ByteString(token.to_hex().as_bytes().to_vec()))])),
        ..Secret::default()
    }
}

/// Builds the Secret with the token for the app's requests to close circuits, if the publishers
/// accept them.
pub(super) fn circuit_secret(inputs: &Inputs<'_>, token: &AgentToken) -> Option<Secret> {
    inputs.closes_circuits().then(|| Secret {
        metadata: inputs.metadata(names::circuit_token_secret(&inputs.name()), None),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([("token".to_owned(), ByteString(token.circuit_token().as_bytes().to_vec()))])),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn the_token_is_derived_from_the_master_key() {
        let fixture = Fixture::new();
        let token = secret(&fixture.inputs(), &fixture.token).data.unwrap()["token"].0.clone();
        assert_eq!(token, AgentToken::derive(&fixture.key).to_hex().as_bytes());
        assert_eq!(token.len(), 64);
    }

    #[test]
    fn the_app_gets_a_token_if_it_can_name_limited_circuits() {
        let secret = |limits: serde_json::Value| {
            let mut fixture = Fixture::of(&json!({"backends": {"circuitLimits": limits}}));
            let before = circuit_secret(&fixture.inputs(), &fixture.token);
            assert_eq!(before, None, "no port has the header");
            fixture.ports[0].proxy_header = true;
            circuit_secret(&fixture.inputs(), &fixture.token)
        };
        assert_eq!(secret(json!(null)), None);
        let token = secret(json!({})).unwrap().data.unwrap()["token"].0.clone();
        assert_eq!(token, Fixture::new().token.circuit_token().as_bytes());
    }
}
