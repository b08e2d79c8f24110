//! A namespace of its own with an operator that looks after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Client, Resource, ResourceExt as _};
use onionbalance_operator::crd::{OnionBalancedService, OnionBalancedServiceStatus, PUBLISHER_MANAGER};
use onionbalance_operator::operator::{Seat, Settings, Telemetry, operate};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::server::{OWN_NAMESPACE, administrator, operator, operator_with_role};
use crate::wait::until;

/// Long enough for a busy machine; nothing here waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// By which the scene's operator leads.
pub const OPERATOR_LEASE: &str = "onionbalance-operator-leader";

/// A namespace of its own with an operator that looks after it.
pub struct Scene {
    pub client: Client,
    pub namespace: String,
    pub telemetry: Arc<Telemetry>,
    operator: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

impl Scene {
    /// With the Service `web`, whose port 80 has the name `http`.
    pub async fn set(name: &str) -> Self {
        Self::set_with_rights(name, false).await
    }

    /// With an operator that has a Role in the namespace, and no rights of the cluster's.
    pub async fn set_with_role(name: &str) -> Self {
        Self::set_with_rights(name, true).await
    }

    /// With a namespace that nobody looks after.
    pub async fn set_without_operator(name: &str) -> Self {
        let client = administrator().await;
        let namespace = format!("test-{name}");
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let scene = Self { client, namespace, telemetry: Arc::default(), operator: None };
        scene.create_target("web").await;
        scene
    }

    async fn set_with_rights(name: &str, role_only: bool) -> Self {
        let mut scene = Self::set_without_operator(name).await;
        let namespace = scene.namespace.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let settings = Settings {
            tor_image: "tor:1".to_owned(),
            data_plane_image: "operator:1".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            tor_extra_config: String::new(),
        };
        let namespaces = vec![Some(namespace.clone())];
        let rights = if role_only { operator_with_role(&namespace).await } else { operator() };
        let seat = Seat {
            namespace: if role_only { OWN_NAMESPACE.to_owned() } else { namespace },
            lease: OPERATOR_LEASE.to_owned(),
            identity: "operator".to_owned(),
        };
        let telemetry = Arc::clone(&scene.telemetry);
        let operator = tokio::spawn(operate(rights, settings, namespaces, Some(seat), telemetry, async move {
            let _ = stopped.await;
        }));
        scene.operator = Some((stop, operator));
        scene
    }

    /// Stops the operator; it must end by itself.
    pub async fn end(mut self) {
        self.stop_operator().await;
    }

    pub async fn stop_operator(&mut self) {
        let (stop, operator) = self.operator.take().expect("stopped once");
        let _ = stop.send(());
        tokio::time::timeout(PATIENCE, operator).await.expect("the operator stops").expect("without a panic");
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn create_target(&self, name: &str) {
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        let service: Service = serde_json::from_value(service).unwrap();
        self.api().create(&PostParams::default(), &service).await.unwrap();
    }

    pub async fn create_key(&self, name: &str, file: &[u8]) {
        let secret = Secret {
            metadata: kube::core::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            data: Some(BTreeMap::from([("hs_ed25519_secret_key".to_owned(), k8s_openapi::ByteString(file.to_vec()))])),
            ..Default::default()
        };
        self.api().create(&PostParams::default(), &secret).await.unwrap();
    }

    /// An object whose port 80 leads to `web`, with these fields of the spec besides.
    pub async fn create(&self, name: &str, spec: Value) -> OnionBalancedService {
        self.try_create(name, spec).await.unwrap()
    }

    pub async fn try_create(&self, name: &str, spec: Value) -> Result<OnionBalancedService, kube::Error> {
        let mut whole = json!({"ports": [{"port": 80, "target": {"service": {"name": "web", "port": "http"}}}]});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let object = json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": whole,
        });
        self.untyped().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await?;
        self.api().get(name).await
    }

    pub async fn change(&self, name: &str, patch: Value) {
        self.untyped().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// The objects, not of our types: those would refuse what the API server is to judge.
    fn untyped(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<OnionBalancedService>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub async fn status(&self, name: &str) -> OnionBalancedServiceStatus {
        self.api::<OnionBalancedService>().get_status(name).await.unwrap().status.unwrap_or_default()
    }

    /// Waits until a condition says so (`False InvalidSpec`) of the present generation; gives its message.
    pub async fn wait_condition(&self, name: &str, kind: &str, expected: &str) -> String {
        self.wait_message(name, kind, expected, "").await
    }

    /// Waits until it says so with a message that begins like this.
    pub async fn wait_message(&self, name: &str, kind: &str, expected: &str, begins: &str) -> String {
        until(&format!("{name}: {kind} {expected}"), PATIENCE, async || {
            let object = self.untyped().get(name).await.map_err(|error| error.to_string())?;
            let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let condition = conditions.iter().find(|condition| condition["type"] == kind);
            let condition = condition.ok_or_else(|| format!("{:?}", object.data["status"]))?;
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            let current = condition["observedGeneration"].as_i64() == object.metadata.generation;
            let said = format!("{} {}", text("status"), text("reason"));
            let fits = current && said == expected && text("message").starts_with(begins);
            if fits { Ok(text("message")) } else { Err(format!("{said}: {}", text("message"))) }
        })
        .await
    }

    /// Waits for the address.
    pub async fn address(&self, name: &str) -> String {
        until(&format!("{name} has an address"), PATIENCE, async || {
            let status = self.status(name).await;
            status.onion_address.clone().ok_or_else(|| format!("{status:?}"))
        })
        .await
    }

    /// Waits until the object exists, and satisfies `good`.
    pub async fn wait_for<K>(&self, name: &str, good: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + serde::Serialize,
    {
        let kind = K::kind(&());
        until(&format!("{kind} {name}"), PATIENCE, async || match self.api::<K>().get_opt(name).await {
            Ok(Some(object)) if good(&object) => Ok(object),
            Ok(Some(object)) => Err(serde_json::to_string(&object).unwrap_or_default()),
            Ok(None) => Err("not there".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// All that the operator makes for an object, but for the master key: kind and name, with UID and resource version.
    pub async fn children(&self, service: &str) -> BTreeMap<String, (String, String)> {
        let mut found = BTreeMap::new();
        self.list::<ServiceAccount>(service, &mut found).await;
        self.list::<Role>(service, &mut found).await;
        self.list::<RoleBinding>(service, &mut found).await;
        self.list::<Secret>(service, &mut found).await;
        self.list::<ConfigMap>(service, &mut found).await;
        self.list::<Service>(service, &mut found).await;
        self.list::<Deployment>(service, &mut found).await;
        found.retain(|name, _| name != &format!("Secret {service}-master-key"));
        found
    }

    async fn list<K>(&self, service: &str, into: &mut BTreeMap<String, (String, String)>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let selector = format!("onionbalance.dev/service={service}");
        let api: Api<K> = self.api();
        for child in api.list(&ListParams::default().labels(&selector)).await.unwrap() {
            let version = child.resource_version().unwrap_or_default();
            into.insert(format!("{} {}", K::kind(&()), child.name_any()), (child.uid().unwrap_or_default(), version));
        }
    }

    /// Waits until all 11 children are there.
    pub async fn wait_children(&self, service: &str) -> BTreeMap<String, (String, String)> {
        until(&format!("the children of {service}"), PATIENCE, async || {
            let children = self.children(service).await;
            if children.len() == 11 { Ok(children) } else { Err(format!("{:?}", children.keys())) }
        })
        .await
    }

    /// Removes all children, as the garbage collector would.
    pub async fn collect_garbage(&self, service: &str) {
        async fn remove<K>(scene: &Scene, names: &[String])
        where
            K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        {
            let prefix = format!("{} ", K::kind(&()));
            for name in names.iter().filter_map(|name| name.strip_prefix(&prefix)) {
                scene.api::<K>().delete(name, &DeleteParams::background()).await.unwrap();
            }
        }
        let names: Vec<_> = self.children(service).await.into_keys().collect();
        remove::<ServiceAccount>(self, &names).await;
        remove::<Role>(self, &names).await;
        remove::<RoleBinding>(self, &names).await;
        remove::<Secret>(self, &names).await;
        remove::<ConfigMap>(self, &names).await;
        remove::<Service>(self, &names).await;
        remove::<Deployment>(self, &names).await;
    }

    /// Plays the Deployment controller: so many backends are ready.
    pub async fn report_backends(&self, service: &str, ready: i32) {
        let name = format!("{service}-backend");
        let deployment = self.wait_for::<Deployment>(&name, |_| true).await;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": ready, "readyReplicas": ready,
            "updatedReplicas": ready,
        }});
        let api: Api<Deployment> = self.api();
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Plays the publisher: it holds the Lease and has published.
    pub async fn report_published(&self, service: &str) {
        let name = format!("{service}-frontend");
        let now = jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": format!("{now:.6}")},
        });
        let parameters = PatchParams::apply(PUBLISHER_MANAGER).force();
        self.api::<Lease>().patch(&name, &parameters, &Patch::Apply(lease)).await.unwrap();
        let status = json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": service},
            "status": {
                "backends": [{"name": "b", "introductionPoints": 3, "state": "Ready", "since": format!("{now:.0}")}],
                "published": [{
                    "timePeriod": 1, "revisionCounter": 2, "introductionPoints": 3, "hsdirsAccepted": 8, "hsdirsTotal": 8,
                    "lastPublished": format!("{now:.0}"),
                }],
            },
        });
        let api: Api<OnionBalancedService> = self.api();
        api.patch_status(service, &parameters, &Patch::Apply(status)).await.unwrap();
    }
}
