//! A wrapper for watched objects that may not match our types.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::crd::validate::Problem;
use crate::crd::{OnionBalancedService, salvage};

/// An `OnionBalancedService`, or the error that occurred when it was deserialized. A single
/// malformed object must not break the watch for all the others.
#[derive(Debug, Clone)]
pub struct Guarded(pub Result<Readable, Unreadable>);

/// An object that could be read, at least in part.
#[derive(Debug, Clone)]
pub struct Readable {
    /// The object. An unreadable part has a default value.
    pub object: OnionBalancedService,
    /// The parts of the object that do not match our types.
    pub problems: Vec<Problem>,
}

/// An object that is unreadable as a whole.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// The object's metadata.
    pub metadata: ObjectMeta,
    /// The explanation of the mismatch.
    pub error: String,
}

impl Guarded {
    /// Returns the object, unless it is unreadable as a whole.
    pub fn object(&self) -> Option<&OnionBalancedService> {
        self.0.as_ref().ok().map(|readable| &readable.object)
    }
}

impl Readable {
    /// Reads an object from JSON.
    pub fn read(whole: &Value) -> Result<Self, serde_json::Error> {
        salvage(whole).map(|(object, problems)| Self { object, problems })
    }
}

impl<'de> Deserialize<'de> for Guarded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Value::deserialize(deserializer)?;
        let error = match Readable::read(&whole) {
            Ok(readable) => return Ok(Self(Ok(readable))),
            Err(error) => error.to_string(),
        };
        let metadata = whole.get("metadata").cloned().unwrap_or_else(|| json!({}));
        let metadata = serde_json::from_value(metadata).map_err(D::Error::custom)?;
        Ok(Self(Err(Unreadable { metadata, error })))
    }
}

impl Resource for Guarded {
    type DynamicType = ();
    type Scope = <OnionBalancedService as Resource>::Scope;

    fn kind(dynamic: &()) -> Cow<'_, str> {
        OnionBalancedService::kind(dynamic)
    }

    fn group(dynamic: &()) -> Cow<'_, str> {
        OnionBalancedService::group(dynamic)
    }

    fn version(dynamic: &()) -> Cow<'_, str> {
        OnionBalancedService::version(dynamic)
    }

    fn plural(dynamic: &()) -> Cow<'_, str> {
        OnionBalancedService::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(readable) => &readable.object.metadata,
            Err(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(readable) => &mut readable.object.metadata,
            Err(unreadable) => &mut unreadable.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt as _;

    use super::*;

    fn read(spec: &Value) -> Guarded {
        serde_json::from_value(json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn an_object_is_readable_without_its_unreadable_part() {
        let Guarded(read) = read(&json!({"ports": [], "suspend": true, "backends": {"replicas": "two"}}));
        let read = read.unwrap();
        assert!(read.object.spec.suspend);
        assert_eq!(read.problems[0].field, "spec.backends.replicas");
    }

    #[test]
    fn an_unreadable_object_still_has_its_name() {
        let read = read(&json!("none"));
        assert_eq!((read.name_any(), read.namespace()), ("web".to_owned(), Some("shop".to_owned())));
        assert!(read.object().is_none());
    }
}
