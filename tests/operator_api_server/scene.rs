//! Sets up a namespace for each test, with an operator that watches only that namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, NamespaceResourceScope, ObjectMeta};
use kube::{Client, Resource, ResourceExt as _};
use onionbalance_operator::crd::names::{Component, labels};
use onionbalance_operator::crd::{OnionBalancedService, OnionBalancedServiceStatus, PUBLISHER_MANAGER};
use onionbalance_operator::operator::{
    DataPlaneLog, DefaultTemplates, ObjectPolicy, Seat, Settings, Telemetry, operate,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::server::{OWN_NAMESPACE, administrator, evaluates_rules, operator, operator_with_role};
use crate::wait::until;

/// The maximum time to wait on a busy machine. Passing tests never wait this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the Lease for the leader election among operators.
pub const OPERATOR_LEASE: &str = "onionbalance-operator-leader";

/// Returns the operator's default settings, except that objects may have any template.
pub fn settings() -> Settings {
    Settings {
        tor_image: "tor:1".to_owned(),
        data_plane_image: "operator:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        tor_extra_config: String::new(),
        default_templates: DefaultTemplates::default(),
        network_policies: Some(Vec::new()),
        wants_disruption_budgets: true,
        fixed_user_ids: true,
        data_plane_log: DataPlaneLog::default(),
        policy: ObjectPolicy::with_any_template(),
    }
}

/// A torrc line that the operator rejects and every API server stores, because the validation rules
/// do not check the values of options.
pub const VERBOSE_LOG: &str = "Log debug stdout";

/// The namespace of a single test, with its own operator.
pub struct Scene {
    pub client: Client,
    pub namespace: String,
    pub telemetry: Arc<Telemetry>,
    /// The version of `PodDisruptionBudget` that the API server recommends.
    pub budgets: ApiResource,
    /// The operator's Kubernetes client, whose credentials determine the operator's permissions.
    rights: Client,
    /// The namespace in which the operator elects its leader.
    seat: String,
    operator: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

impl Scene {
    /// Creates a namespace with a Service `web`, whose port 80 is named `http`, and starts an
    /// operator.
    pub async fn start(name: &str) -> Self {
        let mut scene = Self::without_operator(name).await;
        scene.start_operator(settings());
        scene
    }

    /// Sets up a namespace and starts an operator that elects its leader in the given namespace.
    /// The operator's requests for the election then do not mix with its other requests.
    pub async fn start_electing_in(seat: &str, name: &str) -> Self {
        let mut scene = Self::without_operator(name).await;
        seat.clone_into(&mut scene.seat);
        scene.start_operator(settings());
        scene
    }

    /// Sets up a namespace and starts an operator that has a Role in the namespace but no
    /// cluster-wide permissions.
    pub async fn start_with_role(name: &str) -> Self {
        let mut scene = Self::without_operator(name).await;
        scene.rights = operator_with_role(&scene.namespace).await;
        scene.start_operator(settings());
        scene
    }

    /// Sets up a namespace and starts an operator that has a Role there and elects its leader in
    /// [`OWN_NAMESPACE`]. Only one test at a time may call this function, because a second operator
    /// would wait for the Lease.
    pub async fn start_as_installed_for_a_namespace(name: &str) -> Self {
        let mut scene = Self::without_operator(name).await;
        scene.rights = operator_with_role(&scene.namespace).await;
        scene.seat = OWN_NAMESPACE.into();
        scene.start_operator(settings());
        scene
    }

    /// Creates a namespace with a Service `web`, without starting an operator.
    pub async fn without_operator(name: &str) -> Self {
        let client = administrator().await;
        let namespace = format!("test-{name}");
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let policies = kube::discovery::group(&client, "policy").await.unwrap();
        let (budgets, _) = policies.recommended_kind("PodDisruptionBudget").expect("the server has no budgets");
        let (rights, seat) = (operator(), namespace.clone());
        let scene = Self { client, namespace, telemetry: Arc::default(), budgets, rights, seat, operator: None };
        scene.create_target("web").await;
        scene
    }

    /// Starts an operator that watches the test's namespace with the given settings.
    pub fn start_operator(&mut self, settings: Settings) {
        let own = self.namespace.clone();
        self.start_operator_for(settings, &[own.as_str()]);
    }

    /// Starts an operator that watches the given namespaces with the given settings.
    pub fn start_operator_for(&mut self, settings: Settings, namespaces: &[&str]) {
        self.telemetry = Arc::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let seat = Seat {
            namespace: self.seat.clone(),
            lease: OPERATOR_LEASE.to_owned(),
            identity: format!("operator-{}", self.namespace),
        };
        let rights = self.rights.clone();
        let namespaces = namespaces.iter().map(|name| Some((*name).to_owned())).collect();
        let telemetry = Arc::clone(&self.telemetry);
        let operator = tokio::spawn(operate(rights, settings, namespaces, Some(seat), telemetry, async move {
            let _ = stopped.await;
        }));
        self.operator = Some((stop, operator));
    }

    /// Ends the test by stopping the operator.
    pub async fn end(mut self) {
        self.stop_operator().await;
    }

    /// Asks the operator to stop, and waits until it has ended.
    pub async fn stop_operator(&mut self) {
        let (stop, operator) = self.operator.take().expect("no operator is running");
        let _ = stop.send(());
        tokio::time::timeout(PATIENCE, operator)
            .await
            .expect("the operator did not stop")
            .expect("the operator panicked");
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
            metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            data: Some(BTreeMap::from([("hs_ed25519_secret_key".to_owned(), k8s_openapi::ByteString(file.to_vec()))])),
            ..Default::default()
        };
        self.api().create(&PostParams::default(), &secret).await.unwrap();
    }

    /// Creates an object whose port 80 leads to the Service `web`. `spec` contains additional
    /// fields.
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

    /// Creates an object that violates a validation rule. A server with rules must reject the
    /// object. On a server without rules, the operator must report the given reason in the
    /// condition `Accepted`. Returns the message of the server or of the operator.
    pub async fn create_violating(&self, name: &str, spec: Value, reason: &str) -> String {
        let created = self.try_create(name, spec).await;
        if evaluates_rules(&self.client).await {
            return created.expect_err("no rule rejected the object").to_string();
        }
        created.unwrap();
        self.wait_condition(name, "Accepted", &format!("False {reason}")).await
    }

    pub async fn change(&self, name: &str, patch: Value) {
        self.untyped().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Returns an untyped API for our objects, because our types cannot represent some of the
    /// invalid objects that the API server must check.
    pub fn untyped(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<OnionBalancedService>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub async fn status(&self, name: &str) -> OnionBalancedServiceStatus {
        self.api::<OnionBalancedService>().get_status(name).await.unwrap().status.unwrap_or_default()
    }

    /// Waits until a condition of the current generation has the expected status and reason, for
    /// example `False InvalidSpec`. Returns the condition's message.
    pub async fn wait_condition(&self, name: &str, kind: &str, expected: &str) -> String {
        self.wait_message(name, kind, expected, "").await
    }

    /// Waits like [`Self::wait_condition`], but also requires the condition's message to begin with
    /// the given text. Returns the message.
    pub async fn wait_message(&self, name: &str, kind: &str, expected: &str, begins: &str) -> String {
        until(&format!("{name}: {kind} {expected}"), PATIENCE, async || {
            let object = self.untyped().get(name).await.map_err(|error| error.to_string())?;
            let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let condition = conditions.iter().find(|condition| condition["type"] == kind);
            let condition = condition.ok_or_else(|| format!("{:?}", object.data["status"]))?;
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            let current = condition["observedGeneration"].as_i64() == object.metadata.generation;
            let state = format!("{} {}", text("status"), text("reason"));
            let fits = current && state == expected && text("message").starts_with(begins);
            if fits { Ok(text("message")) } else { Err(format!("{state}: {}", text("message"))) }
        })
        .await
    }

    /// Waits for an Event with this reason about the named object. Returns the newest such Event.
    pub async fn wait_event(&self, name: &str, reason: &str) -> Event {
        let events: Api<Event> = self.api();
        until(&format!("{name}: Event {reason}"), PATIENCE, async || {
            let events = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let about = |event: &&Event| {
                let about = event.regarding.as_ref().and_then(|about| about.name.as_deref());
                about == Some(name) && event.reason.as_deref() == Some(reason)
            };
            let found = events.iter().filter(about).max_by_key(|event| event.event_time.clone().map(|time| time.0));
            found.cloned().ok_or_else(|| format!("{:?}", events.iter().map(|event| &event.reason).collect::<Vec<_>>()))
        })
        .await
    }

    /// Waits until the status contains the onion address, and returns the address.
    pub async fn address(&self, name: &str) -> String {
        until(&format!("{name} has an address"), PATIENCE, async || {
            let status = self.status(name).await;
            status.onion_address.clone().ok_or_else(|| format!("{status:?}"))
        })
        .await
    }

    /// Waits until the named object exists and satisfies `good`, and returns it.
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
            Ok(None) => Err("does not exist".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Returns the kinds of all children, in versions that the API server serves.
    pub fn kinds_of_children(&self) -> [ApiResource; 9] {
        [
            ApiResource::erase::<ServiceAccount>(&()),
            ApiResource::erase::<Role>(&()),
            ApiResource::erase::<RoleBinding>(&()),
            ApiResource::erase::<Secret>(&()),
            ApiResource::erase::<ConfigMap>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
            self.budgets.clone(),
            ApiResource::erase::<Deployment>(&()),
        ]
    }

    /// Returns the UID and the resource version of each child of an object, by kind and name. The
    /// master key's Secret is omitted.
    pub async fn children(&self, service: &str) -> BTreeMap<String, (String, String)> {
        let found = self.metadata_of_children(service).await.into_iter();
        found
            .map(|(name, child)| (name, (child.uid.unwrap_or_default(), child.resource_version.unwrap_or_default())))
            .collect()
    }

    /// Returns the metadata of each child of an object, by kind and name. The master key's Secret
    /// is omitted.
    pub async fn metadata_of_children(&self, service: &str) -> BTreeMap<String, ObjectMeta> {
        let mut found = BTreeMap::new();
        let selector = ListParams::default().labels(&format!("onionbalance.dev/service={service}"));
        for resource in self.kinds_of_children() {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            for child in api.list(&selector).await.unwrap() {
                found.insert(format!("{} {}", resource.kind, child.name_any()), child.metadata);
            }
        }
        found.retain(|name, _| name != &format!("Secret {service}-master-key"));
        found
    }

    /// Waits until all children of an object exist: 16, and a copy of the authorized clients if the
    /// object names a Secret with clients.
    pub async fn wait_children(&self, service: &str) -> BTreeMap<String, (String, String)> {
        let object = self.untyped().get(service).await.unwrap();
        let spec = &object.data["spec"];
        let has_copy = spec["restrictedDiscovery"]["secretName"].is_string();
        let has_header = |port: &Value| port["proxyProtocol"].is_string();
        let closes_circuits =
            spec["backends"]["circuitLimits"].is_object() && spec["ports"].as_array().unwrap().iter().any(has_header);
        self.wait_number_of_children(service, 16 + usize::from(has_copy) + usize::from(closes_circuits)).await
    }

    /// Waits until an object has the given number of children.
    pub async fn wait_number_of_children(&self, service: &str, number: usize) -> BTreeMap<String, (String, String)> {
        until(&format!("{number} children of {service}"), PATIENCE, async || {
            let children = self.children(service).await;
            if children.len() == number { Ok(children) } else { Err(format!("{:?}", children.keys())) }
        })
        .await
    }

    /// Deletes all children of an object, as the garbage collector would.
    pub async fn collect_garbage(&self, service: &str) {
        for child in self.children(service).await.into_keys() {
            let (kind, name) = child.split_once(' ').unwrap();
            let resource = self.kinds_of_children().into_iter().find(|resource| resource.kind == kind).unwrap();
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            api.delete(name, &DeleteParams::background()).await.unwrap();
        }
    }

    /// Writes a Deployment status with the given number of ready backends, as the Deployment
    /// controller would.
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

    /// Writes a Lease that is held and a status with a published descriptor, as the publisher
    /// would.
    pub async fn report_published(&self, service: &str) {
        let name = format!("{service}-frontend");
        let now = jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "labels": labels(service, Some(Component::Frontend))},
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

    /// Writes the result of a probe of port 80, as the publisher would.
    pub async fn report_probe(&self, service: &str, result: &str) {
        let time = format!("{:.0}", jiff::Timestamp::now());
        let probe = json!({"port": 80, "result": result, "message": "why", "since": time});
        let status = Patch::Merge(json!({"status": {"probes": [probe]}}));
        let api: Api<OnionBalancedService> = self.api();
        api.patch_status(service, &PatchParams::default(), &status).await.unwrap();
    }
}
