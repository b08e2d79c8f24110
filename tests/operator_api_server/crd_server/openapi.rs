//! Tests of the discovery of fields over HTTP. The OpenAPI documents of this server describe only
//! custom resources.

use std::time::Duration;

use onionbalance_operator::operator::{Discovery, Document, Fields, Index, Served};

use super::operator_on_crd_server;
use crate::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_can_read_which_fields_an_object_has() {
    let client = operator_on_crd_server().await;
    let url = until("the index contains our group", Duration::from_secs(30), async || {
        let index = Index::read(&client).await.unwrap().expect("the server has no index");
        index.url("apis/onionbalance.dev/v1alpha1").map(str::to_owned).ok_or_else(|| format!("{index:?}"))
    })
    .await;
    assert!(url.contains("hash="), "{url}");
    let document = Document::read(&client, &url).await.unwrap();
    let has = |field| document.has("dev.onionbalance.v1alpha1.OnionBalancedService", field);
    assert!(has("spec") && has("status"));
    assert!(!has("replicas"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_describe_deployments_offers_no_optional_field() {
    let served = Discovery::new(operator_on_crd_server().await).served().await;
    assert_eq!(served, Served { disruption_budgets: None, fields: Fields::default() });
}
