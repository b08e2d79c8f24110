//! Reads the API server's OpenAPI v3 documents, which list the fields of its objects. Kubernetes
//! serves these documents since 1.24, one for each group and version. Every account that
//! `system:discovery` is bound to can read them; by default, these are all authenticated accounts.

use std::collections::HashMap;

use axum::http::{Request, StatusCode};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The path of the index of all documents.
const INDEX: &str = "/openapi/v3";

/// The reason why a document could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenApiError {
    /// The request failed.
    #[error("could not read {path}: {source}")]
    Request {
        /// The path of the document.
        path: String,
        /// The error of the request.
        source: Box<kube::Error>,
    },
    /// The API server refused the request.
    #[error("the API server answered {path} with {status}")]
    Refused {
        /// The path of the document.
        path: String,
        /// The status of the response.
        status: StatusCode,
    },
    /// The document is not what it should be.
    #[error("could not understand {path}: {source}")]
    Content {
        /// The path of the document.
        path: String,
        /// The first problem that was found.
        source: serde_json::Error,
    },
}

/// The index of an API server's OpenAPI v3 documents.
#[derive(Debug, Deserialize)]
pub struct Index {
    paths: HashMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "serverRelativeURL")]
    url: String,
}

impl Index {
    /// Reads the index. Returns `None` if the API server has none or does not permit reading it.
    pub async fn read(client: &Client) -> Result<Option<Self>, OpenApiError> {
        match read(client, INDEX).await {
            Err(OpenApiError::Refused { status: StatusCode::NOT_FOUND | StatusCode::FORBIDDEN, .. }) => Ok(None),
            index => index.map(Some),
        }
    }

    /// Returns the URL of a document, for example of `apis/apps/v1`. The URL contains a hash of the
    /// document, so a new URL means new content.
    pub fn url(&self, document: &str) -> Option<&str> {
        self.paths.get(document).map(|entry| entry.url.as_str())
    }
}

/// The OpenAPI document of one group and version.
#[derive(Debug, Default, Deserialize)]
pub struct Document {
    #[serde(default)]
    components: Components,
}

#[derive(Debug, Default, Deserialize)]
struct Components {
    #[serde(default)]
    schemas: HashMap<String, Schema>,
}

#[derive(Debug, Deserialize)]
struct Schema {
    #[serde(default)]
    #[allow(clippy::zero_sized_map_values, reason = "the fields are the keys of a JSON object")]
    properties: HashMap<String, IgnoredAny>,
}

impl Document {
    /// Reads the document at a URL that comes from the index.
    pub async fn read(client: &Client, url: &str) -> Result<Self, OpenApiError> {
        read(client, url).await
    }

    /// Returns true if the document has the schema and the schema has the field.
    pub fn has(&self, schema: &str, field: &str) -> bool {
        self.components.schemas.get(schema).is_some_and(|schema| schema.properties.contains_key(field))
    }
}

async fn read<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, OpenApiError> {
    let failed = |source| OpenApiError::Request { path: path.to_owned(), source: Box::new(source) };
    let request = Request::get(path).body(Body::empty()).map_err(|error| failed(kube::Error::HttpError(error)))?;
    let response = client.send(request).await.map_err(failed)?;
    // The body of a refusal need not be a Kubernetes Status: Kubernetes 1.20 answers an unknown
    // path with a list of its paths.
    let status = response.status();
    if !status.is_success() {
        return Err(OpenApiError::Refused { path: path.to_owned(), status });
    }
    let text = response.into_body().collect_bytes().await.map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| OpenApiError::Content { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of the index and of a document of Kubernetes 1.36.
    const INDEX: &str = r#"{"paths": {
        "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=A0"},
        "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=0F"}
    }}"#;
    const DOCUMENT: &str = r##"{
        "components": {"schemas": {
            "io.k8s.api.core.v1.Probe": {
                "description": "A health check.",
                "properties": {
                    "httpGet": {
                        "allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.HTTPGetAction"}],
                        "description": "HTTPGet specifies an HTTP GET request to perform."
                    },
                    "terminationGracePeriodSeconds": {"format": "int64", "type": "integer"}
                },
                "type": "object"
            },
            "io.k8s.apimachinery.pkg.api.resource.Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]}
        }},
        "info": {"title": "Kubernetes", "version": "v1.36.3"},
        "openapi": "3.0.0",
        "paths": {"/apis/apps/v1/": {"get": {"operationId": "getAppsV1APIResources"}}}
    }"##;

    fn document(text: &str) -> Document {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn finds_the_url_of_a_document() {
        let index: Index = serde_json::from_str(INDEX).unwrap();
        assert_eq!(index.url("apis/apps/v1"), Some("/openapi/v3/apis/apps/v1?hash=0F"));
        assert_eq!(index.url("apis/policy/v1"), None);
    }

    #[test]
    fn finds_a_field_only_in_its_own_schema() {
        let document = document(DOCUMENT);
        assert!(document.has("io.k8s.api.core.v1.Probe", "terminationGracePeriodSeconds"));
        assert!(!document.has("io.k8s.api.core.v1.Probe", "nonsense"));
        assert!(!document.has("io.k8s.api.core.v1.PodSpec", "terminationGracePeriodSeconds"));
        assert!(!document.has("io.k8s.apimachinery.pkg.api.resource.Quantity", "type"));
    }

    #[test]
    fn a_document_without_schemas_has_no_field() {
        for text in ["{}", r#"{"components": {}}"#, r#"{"components": {"schemas": {}}}"#] {
            assert!(!document(text).has("io.k8s.api.core.v1.Probe", "terminationGracePeriodSeconds"), "{text}");
        }
    }

    #[test]
    fn rejects_malformed_documents() {
        for text in ["", "404 page not found", "[1]", r#"{"components": {"schemas": {"a": {"properties": []}}}}"#] {
            assert!(serde_json::from_str::<Document>(text).is_err(), "{text}");
        }
        for text in ["{}", r#"{"paths": []}"#, r#"{"paths": {"apis/apps/v1": {}}}"#] {
            assert!(serde_json::from_str::<Index>(text).is_err(), "{text}");
        }
    }
}
