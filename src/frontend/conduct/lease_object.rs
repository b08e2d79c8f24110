//! Reads and edits the Kubernetes object of a service's Lease: its labels, owner and annotations.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

use super::counters::{self, Counters};
use super::fitness::{self, CutOff};
use crate::crd::OnionBalancedService;
use crate::crd::names::{self, Component};

/// Returns the name of a service's Lease.
pub(in crate::frontend) fn name(service: &str) -> String {
    Component::Frontend.child_name(service)
}

/// Returns a new Lease with the labels of the service.
pub(super) fn create(service: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(name(service));
    lease.metadata.labels = Some(names::labels(service, Some(Component::Frontend)));
    lease
}

/// Returns true if the Lease belongs to this service, that is, if it has the service's labels and
/// no other object controls it.
pub(super) fn belongs_to(lease: &Lease, service: &str) -> bool {
    let controlled = lease.owner_references().iter().any(|owner| owner.controller == Some(true));
    !controlled && names::is_labelled(lease.metadata.labels.as_ref(), service)
}

/// Makes the `OnionBalancedService` the owner of its Lease, so that both are deleted together.
pub(super) fn set_owner(lease: &mut Lease, service: &str, uid: &str) {
    lease.metadata.owner_references = Some(vec![OwnerReference {
        api_version: OnionBalancedService::api_version(&()).into_owned(),
        kind: OnionBalancedService::kind(&()).into_owned(),
        name: service.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }]);
}

/// Returns the revision counters from the Lease's annotation.
pub(super) fn counters(lease: &Lease) -> Counters {
    lease.annotations().get(counters::ANNOTATION).map(|text| Counters::parse(text)).unwrap_or_default()
}

/// Raises each revision counter in the annotation to that of `ours`, unless another publisher has
/// already stored a greater one.
pub(super) fn raise_counters(lease: &mut Lease, ours: &Counters) {
    let mut counters = counters(lease);
    counters.merge(ours);
    lease.annotations_mut().insert(counters::ANNOTATION.to_owned(), counters.to_string());
}

/// Returns the publishers that gave up the Lease because they could not reach the network.
pub(super) fn cut_off(lease: Option<&Lease>) -> CutOff {
    let text = lease.and_then(|lease| lease.annotations().get(fitness::ANNOTATION));
    text.map(|text| CutOff::parse(text)).unwrap_or_default()
}

/// Writes the list of publishers that gave up the Lease because they could not reach the network.
pub(super) fn set_cut_off(lease: &mut Lease, cut_off: &CutOff) {
    lease.annotations_mut().insert(fitness::ANNOTATION.to_owned(), cut_off.to_string());
}

/// Removes the list of publishers that gave up the Lease because they could not reach the network.
pub(super) fn clear_cut_off(lease: &mut Lease) {
    lease.annotations_mut().remove(fitness::ANNOTATION);
}
