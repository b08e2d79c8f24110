//! The `ServiceAccount` of each component. Kubernetes does not mount its token automatically; the
//! publisher's pod has a separate volume for the token.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::Inputs;
use crate::crd::names::Component;

/// Builds the `ServiceAccount` of a component.
pub(super) fn service_account(inputs: &Inputs<'_>, component: Component) -> ServiceAccount {
    ServiceAccount {
        metadata: inputs.component_metadata(component),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::operator::children::tests::support::Fixture;

    #[test]
    fn no_token_is_mounted_automatically() {
        for id in ["ServiceAccount web-backend", "ServiceAccount web-frontend"] {
            assert_eq!(Fixture::new().child(id)["automountServiceAccountToken"], false);
        }
    }
}
