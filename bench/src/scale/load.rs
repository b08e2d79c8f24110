//! The load of the benchmark: the objects that the operator reconciles and, for the bare client,
//! the children that the operator would create for the same objects.

use std::ops::Range;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::crd::names::MANAGED_BY_LABEL;
use onionbalance_operator::link::{AgentToken, ForwardedPort, TargetCheck};
use onionbalance_operator::onion::MasterKey;
use onionbalance_operator::operator::{
    DataPlaneLog, DefaultTemplates, Environment, Inputs, ObjectPolicy, Served, Settings, manifests,
};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// The number of objects that are processed concurrently. The operator uses the same concurrency.
const AT_ONCE: usize = 16;
/// The tor image that both the operator and the bare client set.
pub const TOR_IMAGE: &str = "tor:1";
/// The operator image that both the operator and the bare client set.
pub const OPERATOR_IMAGE: &str = "operator:1";
/// The name of the Service that every object has as its target.
const TARGET: &str = "web";

/// Creates the Service that is the target of all objects.
pub async fn create_target(client: &Client, namespace: &str) -> Result<()> {
    let service = serde_json::from_value(
        json!({"metadata": {"name": TARGET}, "spec": {"ports": [{"name": "http", "port": 80}]}}),
    )?;
    Api::<Service>::namespaced(client.clone(), namespace).create(&PostParams::default(), &service).await?;
    Ok(())
}

/// Creates the `OnionBalancedService` objects with the given index numbers.
pub async fn create_objects(client: &Client, namespace: &str, which: Range<usize>) -> Result<()> {
    let api: Api<OnionBalancedService> = Api::namespaced(client.clone(), namespace);
    stream::iter(which)
        .map(|index| {
            let api = &api;
            async move { Ok::<_, anyhow::Error>(api.create(&PostParams::default(), &object(namespace, index)?).await?) }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(())
}

fn object(namespace: &str, index: usize) -> Result<OnionBalancedService> {
    let object = json!({
        "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
        "metadata": {"name": format!("service-{index}"), "namespace": namespace},
        "spec": {"ports": [{"port": 80, "target": {"service": {"name": TARGET, "port": "http"}}}]},
    });
    Ok(serde_json::from_value(object)?)
}

/// Returns the manifests that [`apply_bare`] applies for each of the given objects. They use the
/// optional APIs and fields that the API server serves.
pub fn bare_manifests(namespace: &str, which: Range<usize>, served: Served) -> Result<Vec<Vec<Value>>> {
    which.map(|index| children(namespace, index, served)).collect()
}

/// Applies children without the operator. A client with the operator's permissions applies each
/// object's manifests in sequence, and processes as many objects concurrently as the operator does.
pub async fn apply_bare(client: &Client, namespace: &str, objects: Vec<Vec<Value>>) -> Result<()> {
    stream::iter(objects)
        .map(Ok::<_, anyhow::Error>)
        .try_for_each_concurrent(AT_ONCE, async |manifests| {
            for manifest in manifests {
                apply(client, namespace, &manifest).await?;
            }
            Ok(())
        })
        .await
}

/// Returns the manifests that the operator would apply, but with a different managed-by label. With
/// the operator's own label, the operator would treat these children as its owned objects.
fn children(namespace: &str, index: usize, served: Served) -> Result<Vec<Value>> {
    let mut object = object(namespace, index)?;
    object.metadata.uid = Some(format!("00000000-0000-4000-8000-{index:012}"));
    let key = MasterKey::generate(&mut StdRng::seed_from_u64(u64::try_from(index)?));
    let settings = Settings {
        tor_image: TOR_IMAGE.to_owned(),
        data_plane_image: OPERATOR_IMAGE.to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        tor_extra_config: String::new(),
        default_templates: DefaultTemplates::default(),
        network_policies: Some(Vec::new()),
        wants_disruption_budgets: true,
        fixed_user_ids: true,
        data_plane_log: DataPlaneLog::default(),
        policy: ObjectPolicy::default(),
    };
    let environment = Environment { settings, served };
    let ports = [ForwardedPort {
        name: None,
        port: 80,
        target: format!("{TARGET}.{namespace}.svc:80"),
        proxy_header: false,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    }];
    let inputs = Inputs {
        object: &object,
        environment: &environment,
        address: key.address(),
        token: Some(&AgentToken::derive(&key)),
        ports: &ports,
        clients: None,
        frontend_account: object.metadata.uid.as_deref(),
        withheld: &[],
        guards_taken: false,
    };
    let mut manifests = manifests(&inputs, &key)?;
    for manifest in &mut manifests {
        if let Some(label) =
            manifest.pointer_mut("/metadata/labels").and_then(|labels| labels.get_mut(MANAGED_BY_LABEL))
        {
            *label = json!("bare-client");
        }
    }
    Ok(manifests)
}

async fn apply(client: &Client, namespace: &str, manifest: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(manifest.clone())?;
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.rsplit_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    api.patch(&object.name_any(), &PatchParams::apply("bare-client").force(), &Patch::Apply(manifest)).await?;
    Ok(())
}
