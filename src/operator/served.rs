//! The optional APIs that an API server may serve, and the optional fields that its objects may
//! have.

/// A version of `PodDisruptionBudget`. Kubernetes 1.21 added `v1` and 1.25 removed `v1beta1`; the
/// fields that the operator sets are the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyVersion {
    /// `policy/v1`.
    V1,
    /// `policy/v1beta1`.
    V1Beta1,
}

/// The optional APIs and fields that the API server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The newest version of `PodDisruptionBudget` that the API server serves and the operator
    /// supports, if there is one.
    pub disruption_budgets: Option<PolicyVersion>,
    /// The optional fields that the API server's objects have.
    pub fields: Fields,
}

/// The fields that the operator sets only if the API server's objects have them, because an older
/// server refuses an apply with an unknown field. A server that knows a field whose feature gate is
/// off drops the field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields {
    /// `terminationGracePeriodSeconds` of a probe: Kubernetes 1.21 and newer, enabled by default
    /// since 1.25.
    pub probe_grace_period: bool,
    /// `matchLabelKeys` of a topology spread constraint: Kubernetes 1.25 and newer, enabled by
    /// default since 1.27.
    pub match_label_keys: bool,
    /// `unhealthyPodEvictionPolicy` of a `PodDisruptionBudget`: Kubernetes 1.26 and newer, enabled
    /// by default since 1.27.
    pub unhealthy_pod_eviction_policy: bool,
}
