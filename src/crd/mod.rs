//! The `OnionBalancedService` custom resource: types, names and validation. No IO.

mod spec;
mod status;

pub use spec::*;
pub use status::*;

/// The `CustomResourceDefinition` as YAML: what `crds/` holds.
pub fn manifest() -> Result<String, serde_saphyr::ser::Error> {
    todo!()
}
