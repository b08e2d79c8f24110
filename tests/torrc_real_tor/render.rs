//! Renders the torrc files that the operator would put into a service's `ConfigMap`s.

use std::path::Path;

use onionbalance_operator::crd::OnionBalancedService;
use onionbalance_operator::link::paths::{RUN_DIR, TOR_DATA_DIR};
use onionbalance_operator::link::{AgentToken, ForwardedPort};
use onionbalance_operator::onion::MasterKey;
use onionbalance_operator::operator::{
    BuildError, DataPlaneLog, DefaultTemplates, Environment, Fields, Inputs, ObjectPolicy, Served, Settings, manifests,
};
use serde::de::Error as _;
use serde_json::{Value, json};

/// The service whose torrc files are rendered.
pub struct Service<'a> {
    /// The service's master key.
    pub key: &'a MasterKey,
    /// The service's ports.
    pub ports: &'a [ForwardedPort],
    /// The service's `spec.backends`.
    pub backends: &'a Value,
    /// The service's `spec.anonymity`.
    pub anonymity: &'a Value,
    /// The lines that the operator adds for every tor.
    pub global: &'a str,
}

impl Service<'_> {
    /// Returns the torrc of a component (`backend` or `frontend`). The folders of a pod are
    /// replaced with `run` and `data` under `dir`.
    pub fn torrc(&self, component: &str, dir: &Path) -> Result<String, BuildError> {
        let &Self { key, ports, backends, anonymity, global } = self;
        let of_object = ports.iter().map(|port| json!({"port": port.port, "target": {"address": port.target}}));
        let object: OnionBalancedService = serde_json::from_value(json!({
            "apiVersion": "onionbalance.dev/v1alpha1", "kind": "OnionBalancedService", "metadata": {"name": "web"},
            "spec": {"ports": of_object.collect::<Vec<_>>(), "backends": backends, "anonymity": anonymity},
        }))?;
        let settings = Settings {
            tor_image: "tor".to_owned(),
            data_plane_image: "operator".to_owned(),
            image_pull_policy: "Never".to_owned(),
            tor_extra_config: global.to_owned(),
            default_templates: DefaultTemplates::default(),
            network_policies: None,
            wants_disruption_budgets: false,
            fixed_user_ids: true,
            data_plane_log: DataPlaneLog::default(),
            policy: ObjectPolicy::default(),
        };
        let environment =
            Environment { settings, served: Served { disruption_budgets: None, fields: Fields::default() } };
        let token = AgentToken::derive(key);
        let inputs = Inputs {
            object: &object,
            environment: &environment,
            address: key.address(),
            token: Some(&token),
            ports,
            clients: None,
            frontend_account: None,
            withheld: &[],
            guards_taken: false,
        };
        let manifests = manifests(&inputs, key)?;
        let is_wanted = |manifest: &&Value| {
            manifest["kind"] == "ConfigMap" && manifest["metadata"]["name"] == format!("web-{component}")
        };
        let torrc = manifests.iter().find(is_wanted).and_then(|manifest| manifest["data"]["torrc"].as_str());
        let torrc = torrc.ok_or_else(|| serde_json::Error::custom("there is no ConfigMap with a torrc"))?;
        let in_dir = |folder: &str| dir.join(folder).display().to_string();
        Ok(torrc.replace(RUN_DIR, &in_dir("run")).replace(TOR_DATA_DIR, &in_dir("data")))
    }
}
