//! A wrapper for watched objects that may not match our types.

use kube::core::DeserializeGuard;

use crate::crd::OnionBalancedService;

/// An `OnionBalancedService`, or the error that occurred when it was deserialized. A single
/// malformed object must not break the watch for all the others.
pub type Guarded = DeserializeGuard<OnionBalancedService>;
