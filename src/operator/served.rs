//! The optional APIs that an API server may serve.

/// A version of `PodDisruptionBudget`. Kubernetes 1.21 added `v1` and 1.25 removed `v1beta1`; the
/// fields that the operator sets are the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyVersion {
    /// `policy/v1`.
    V1,
    /// `policy/v1beta1`.
    V1Beta1,
}

/// The optional APIs that the API server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The newest version of `PodDisruptionBudget` that the API server serves and the operator
    /// supports, if there is one.
    pub disruption_budgets: Option<PolicyVersion>,
}
