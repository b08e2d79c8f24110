//! Reads the OpenAPI documents of a current server. This server describes only its own kinds, so
//! the fields that the operator looks for are not among them.

use onionbalance_operator::operator::{Document, Index};

use super::crd_server;

#[tokio::test(flavor = "multi_thread")]
async fn a_document_tells_which_fields_an_object_has() {
    let (client, _) = crd_server().await;
    let index = Index::read(&client).await.unwrap().expect("the server has no index");
    assert_eq!(index.url("apis/apps/v1"), None);
    let url = index.url("apis/apiextensions.k8s.io/v1").unwrap();
    assert!(url.contains("hash="), "{url}");
    let document = Document::read(&client, url).await.unwrap();
    let definition = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
    assert!(document.has(definition, "spec") && document.has(definition, "status"));
    assert!(!document.has(definition, "replicas"));
}
