//! Writes entries of the Secret of the guards. One task keeps the guards there, and another one the
//! vanguards.

use hyper::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

use crate::crd::PUBLISHER_MANAGER;

/// Writes entries of a Secret of which the caller has read the version `resource_version`. Returns
/// the new version, or None if somebody else has changed the Secret since.
pub(super) async fn write<const N: usize>(
    secrets: &Api<Secret>,
    name: &str,
    resource_version: Option<&str>,
    entries: [(&'static str, String); N],
) -> kube::Result<Option<Secret>> {
    let data: Map<String, Value> =
        entries.into_iter().map(|(name, text)| (name.to_owned(), json!(ByteString(text.into_bytes())))).collect();
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": resource_version}, "data": data}));
    let parameters = PatchParams { field_manager: Some(PUBLISHER_MANAGER.to_owned()), ..PatchParams::default() };
    match secrets.patch(name, &parameters, &patch).await {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT.as_u16() => Ok(None),
        Err(error) => Err(error),
    }
}
