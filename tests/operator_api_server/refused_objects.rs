//! Tests the API server against the table of invalid objects.

use crate::scene::Scene;
use crate::server::evaluates_rules;
use crate::table::rejects_exactly_the_invalid_objects;

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_rejects_exactly_the_objects_that_violate_it() {
    let scene = Scene::without_operator("refused").await;
    rejects_exactly_the_invalid_objects(&scene.untyped(), evaluates_rules(&scene.client).await).await;
}
