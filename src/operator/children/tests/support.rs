//! A service and the inputs for building its owned objects, for tests.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::super::{Child, Inputs, Stage, children};
use crate::crd::OnionBalancedService;
use crate::link::{AgentToken, ForwardedPort, TargetCheck};
use crate::onion::MasterKey;
use crate::operator::data_plane_log::DataPlaneLog;
use crate::operator::policy::ObjectPolicy;
use crate::operator::served::{Fields, PolicyVersion, Served};
use crate::operator::settings::{Environment, Settings};
use crate::operator::templates::DefaultTemplates;

/// The service `web` in the namespace `shop`, and everything that its children depend on.
pub struct Fixture {
    pub object: OnionBalancedService,
    pub environment: Environment,
    pub key: MasterKey,
    pub token: AgentToken,
    pub ports: Vec<ForwardedPort>,
}

/// Returns the service `web` with the given fields in its spec.
pub fn object(spec: &Value) -> OnionBalancedService {
    let mut whole =
        json!({"ports": [{"name": "http", "port": 80, "target": {"service": {"name": "web", "port": "http"}}}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "onionbalance.dev/v1alpha1",
        "kind": "OnionBalancedService",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "uid-of-web", "generation": 4,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": whole,
    }))
    .unwrap()
}

/// Returns an environment in which every kind of child is enabled, and the API server serves every
/// optional kind and field.
pub fn environment() -> Environment {
    let settings = Settings {
        tor_image: "tor:1".to_owned(),
        data_plane_image: "operator:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        tor_extra_config: "UseBridges 1".to_owned(),
        default_templates: DefaultTemplates::default(),
        network_policies: Some(Vec::new()),
        wants_disruption_budgets: true,
        fixed_user_ids: true,
        data_plane_log: DataPlaneLog::default(),
        policy: ObjectPolicy::with_any_template(),
    };
    let fields = Fields { probe_grace_period: true, match_label_keys: true, unhealthy_pod_eviction_policy: true };
    Environment { settings, served: Served { disruption_budgets: Some(PolicyVersion::V1), fields } }
}

/// Builds the children of all stages.
pub fn all_children(inputs: &Inputs<'_>) -> Vec<Child> {
    Stage::ALL.into_iter().flat_map(|stage| children(inputs, stage).unwrap()).collect()
}

impl Fixture {
    pub fn new() -> Self {
        Self::of(&json!({}))
    }

    /// Returns the fixture with the given fields in the service's spec.
    pub fn of(spec: &Value) -> Self {
        let key = MasterKey::generate(&mut StdRng::seed_from_u64(1));
        let token = AgentToken::derive(&key);
        let object = object(spec);
        let ports = vec![ForwardedPort {
            name: Some("http".to_owned()),
            port: 80,
            target: "web.shop.svc:8080".to_owned(),
            proxy_header: object.spec.ports.iter().any(|port| port.proxy_protocol.is_some()),
            idle_timeout_seconds: None,
            check: TargetCheck::default(),
        }];
        Self { object, environment: environment(), key, token, ports }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            object: &self.object,
            environment: &self.environment,
            address: self.key.address(),
            token: Some(&self.token),
            ports: &self.ports,
            clients: None,
            frontend_account: Some("uid-of-account"),
            withheld: &[],
            guards_taken: false,
        }
    }

    /// Returns the manifest of a child, given its kind and name, for example `Role web-frontend`.
    pub fn child(&self, id: &str) -> Value {
        let children = all_children(&self.inputs());
        children.into_iter().find(|child| child.id.to_string() == id).unwrap().manifest
    }
}
