//! The Secret of the agent token.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn the_token_is_derived_from_the_master_key() {
        let fixture = Fixture::new();
        let token = secret(&fixture.inputs(), &fixture.token).data.unwrap()["token"].0.clone();
        assert_eq!(token, AgentToken::derive(&fixture.key).to_hex().as_bytes());
        assert_eq!(token.len(), 64);
    }
}
