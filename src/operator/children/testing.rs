//! An object and what its children are made from, for the builders' tests.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Inputs, PolicyVersion, children};
use crate::crd::OnionBalancedService;
use crate::link::{AgentToken, ForwardedPort};
use crate::onion::MasterKey;
use crate::operator::settings::Settings;
use crate::operator::templates::DefaultTemplates;

pub struct Fixture {
    pub object: OnionBalancedService,
    pub settings: Settings,
    pub key: MasterKey,
    pub token: AgentToken,
    pub ports: Vec<ForwardedPort>,
}

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

pub fn settings() -> Settings {
    Settings {
        tor_image: "tor:1".to_owned(),
        data_plane_image: "operator:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        tor_extra_config: "UseBridges 1".to_owned(),
        default_templates: DefaultTemplates::default(),
        network_policies: Some(Vec::new()),
        wants_disruption_budgets: true,
        policy: Some(PolicyVersion::V1),
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self::of(&json!({}))
    }

    pub fn of(spec: &Value) -> Self {
        let key = MasterKey::generate(&mut StdRng::seed_from_u64(1));
        let token = AgentToken::derive(&key);
        let ports = vec![ForwardedPort {
            name: Some("http".to_owned()),
            port: 80,
            target: "web.shop.svc:8080".to_owned(),
            proxy_header: false,
        }];
        Self { object: object(spec), settings: settings(), key, token, ports }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            object: &self.object,
            settings: &self.settings,
            address: self.key.address(),
            token: &self.token,
            ports: &self.ports,
            frontend_account: Some("uid-of-account"),
        }
    }

    /// The manifest of a child, by its kind and name.
    pub fn child(&self, id: &str) -> Value {
        let children = children(&self.inputs()).unwrap();
        children.into_iter().find(|child| child.id.to_string() == id).unwrap().manifest
    }
}
