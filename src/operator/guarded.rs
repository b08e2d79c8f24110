//! Objects that may not match our types.

use kube::core::DeserializeGuard;

use crate::crd::OnionBalancedService;

/// An `OnionBalancedService`, or the reason why it cannot be read. A single unreadable object must
/// not break the watch of all the others.
pub type Guarded = DeserializeGuard<OnionBalancedService>;
