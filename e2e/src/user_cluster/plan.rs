//! The names, Helm values and manifests of the demo's objects on the user's cluster.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// The namespace that the demo creates, for the operator and for the service.
pub const NAMESPACE: &str = "onionbalance-demo";
/// The Helm release that the demo creates.
pub const RELEASE: &str = "onionbalance-demo";
/// The label of the namespace, and the annotation of the CRD, that tell that the demo created them.
pub const MARK: &str = "onionbalance.dev/demo";
/// The name of the custom resource's definition.
pub const CRD: &str = "onionbalancedservices.onionbalance.dev";

/// The registry in the names of images that are loaded into the nodes.
const LOADED: &str = "localhost";
/// The tag of all images.
const TAG: &str = "dev";
/// The image in `deploy/samples/web.yaml`.
const SAMPLE: &str = "localhost/onionbalance-sample:dev";

/// The place from which the cluster's nodes get the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    prefix: String,
}

impl Images {
    /// Returns the names of images that are loaded into the nodes.
    pub fn loaded() -> Self {
        Self { prefix: LOADED.to_owned() }
    }

    /// Returns the names of images in a registry. `prefix` is what the names have in common, as in
    /// `registry.example.org/onions`.
    pub fn in_registry(prefix: &str) -> Result<Self> {
        let prefix = prefix.trim_end_matches('/');
        let is_name = |c: char| c.is_ascii_alphanumeric() || "./:_-".contains(c);
        ensure!(
            !prefix.is_empty() && prefix.chars().all(is_name) && !prefix.contains("//"),
            "IMAGES={prefix:?} is not the beginning of an image's name; write it as in \
             IMAGES=registry.example.org/onions"
        );
        Ok(Self { prefix: prefix.to_owned() })
    }

    /// Returns the full name of an image, as in `localhost/onionbalance-tor:dev`.
    pub fn name(&self, image: &str) -> String {
        format!("{}:{TAG}", self.repository(image))
    }

    fn repository(&self, image: &str) -> String {
        format!("{}/onionbalance-{image}", self.prefix)
    }
}

/// Returns the values for the chart. The operator watches only the demo's namespace, and has
/// permissions nowhere else. `torrc` are the lines that lead to a private Tor network. They are
/// empty for the public network.
pub fn values(images: &Images, torrc: &str, installs_crd: bool) -> Value {
    json!({
        "image": {"repository": images.repository("operator"), "tag": TAG},
        "tor": {"image": {"repository": images.repository("tor"), "tag": TAG}},
        "torExtraConfig": torrc,
        "watchNamespaces": [NAMESPACE],
        // Helm never removes the CRD, because this would also remove objects that others have made
        // in the meantime.
        "crds": {"install": installs_crd, "keep": true, "annotations": {MARK: "true"}},
        "rbac": {"aggregate": false},
    })
}

/// Returns the demo's namespace.
pub fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {MARK: "true"}}})
}

/// Returns the manifest of the sample with the image's name on this cluster.
pub fn sample(manifest: &str, images: &Images) -> Result<String> {
    let (before, after) =
        manifest.split_once(SAMPLE).with_context(|| format!("the sample lacks the image {SAMPLE}"))?;
    Ok(format!("{before}{}{after}", images.name("sample")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::source_tree;

    #[test]
    fn images_are_in_the_registry_that_the_user_names() {
        for prefix in ["registry.example.org:5000/onions", "registry.example.org:5000/onions/"] {
            let images = Images::in_registry(prefix).unwrap();
            assert_eq!(images.name("tor"), "registry.example.org:5000/onions/onionbalance-tor:dev");
        }
        assert_eq!(Images::loaded().name("operator"), "localhost/onionbalance-operator:dev");
        for wrong in ["", "/", "https://registry.example.org", "two words", "a;b"] {
            let error = Images::in_registry(wrong).unwrap_err().to_string();
            assert!(error.contains("IMAGES=registry.example.org/onions"), "{error}");
        }
    }

    #[test]
    fn only_the_namespace_of_the_demo_is_watched_and_an_existing_crd_stays() {
        let images = Images::in_registry("registry.example.org/onions").unwrap();
        let values = values(&images, "TestingTorNetwork 1\n", false);
        assert_eq!(values["watchNamespaces"], json!([NAMESPACE]));
        assert_eq!(values["crds"]["install"], json!(false));
        assert_eq!(values["crds"]["keep"], json!(true));
        assert_eq!(values["tor"]["image"]["repository"], json!("registry.example.org/onions/onionbalance-tor"));
        assert_eq!(values["torExtraConfig"], json!("TestingTorNetwork 1\n"));
    }

    #[test]
    fn the_sample_uses_the_image_of_this_cluster() {
        let manifest = std::fs::read_to_string(source_tree().join("deploy/samples/web.yaml")).unwrap();
        let images = Images::in_registry("registry.example.org/onions").unwrap();
        let sample = sample(&manifest, &images).unwrap();
        assert!(sample.contains("image: registry.example.org/onions/onionbalance-sample:dev\n"), "{sample}");
        assert!(!sample.contains("localhost/"), "{sample}");
        assert!(super::sample("kind: Service", &images).is_err());
    }
}
