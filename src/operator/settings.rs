//! The operator's command-line flags, and the settings derived from them.

use serde_json::Value;

use super::data_plane_log::{DataPlaneLog, DataPlaneLogArgs};
use super::policy::{ObjectPolicy, PolicyArgs};
use super::served::{PolicyVersion, Served};
use super::templates::DefaultTemplates;
use crate::common::log;
use crate::crd::validate;

/// The flags of `onionbalance-operator operator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image with the `tor` program for the pods
    #[arg(long, env = "TOR_IMAGE", value_name = "IMAGE")]
    tor_image: String,
    /// Image of agents and publishers [default: the operator's own image]
    #[arg(long, env = "DATA_PLANE_IMAGE", value_name = "IMAGE")]
    data_plane_image: Option<String>,
    /// Image of the operator itself
    #[arg(long, env = "OPERATOR_IMAGE", value_name = "IMAGE")]
    operator_image: Option<String>,
    /// Pull policy for the pods' images
    #[arg(long, env = "IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Additional torrc lines for every tor pod, for example for a proxy or a test network
    #[arg(
        long,
        env = "TOR_EXTRA_CONFIG",
        value_name = "LINES",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    tor_extra_config: String,
    /// Default pod templates in YAML or JSON: a map with `backend`, `frontend` or both, each with
    /// the fields of `spec.backends.template`
    #[arg(long, env = "DEFAULT_TEMPLATES", value_name = "TEMPLATES", default_value = "", hide_default_value = true, value_parser = DefaultTemplates::parse)]
    default_templates: DefaultTemplates,
    /// Namespace to watch; repeatable [default: all]
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// Create a `NetworkPolicy` for the pods of a service
    #[arg(long, env = "NETWORK_POLICIES", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    network_policies: bool,
    /// `NetworkPolicy` peers that may read the pods' metrics, in JSON, such as
    /// `[{"namespaceSelector": {…}}]`; `[]` admits everyone
    #[arg(long, env = "METRICS_FROM", value_name = "PEERS", default_value = "[]", value_parser = peers)]
    metrics_from: Peers,
    /// Create a `PodDisruptionBudget` for the pods of a service
    #[arg(long, env = "DISRUPTION_BUDGETS", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    disruption_budgets: bool,
    /// Run the pods with the user, group and file system group 65532; if false, the cluster must
    /// assign all three, and the same user to both containers of a pod, as OpenShift does
    #[arg(long, env = "FIXED_USER_IDS", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    fixed_user_ids: bool,
    #[command(flatten)]
    data_plane_log: DataPlaneLogArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Name of the Lease for leader election, in the operator's own namespace; if empty, the
    /// operator runs without an election
    #[arg(long, env = "LEASE_NAME", value_name = "NAME", default_value = "onionbalance-operator-leader")]
    lease_name: String,
    /// Port that serves /livez and /readyz
    #[arg(long, env = "PROBE_PORT", default_value_t = crate::link::PROBE_PORT)]
    pub(super) probe_port: u16,
    /// Port that serves /metrics
    #[arg(long, env = "METRICS_PORT", default_value_t = crate::link::METRICS_PORT)]
    pub(super) metrics_port: u16,
}

/// The peers of a `NetworkPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peers(Vec<Value>);

/// The fields that a `NetworkPolicy` peer can have. The API server validates their values.
const PEER_FIELDS: [&str; 3] = ["podSelector", "namespaceSelector", "ipBlock"];

fn peers(text: &str) -> Result<Peers, String> {
    let peers: Vec<serde_json::Map<String, Value>> =
        serde_json::from_str(text).map_err(|error| format!("not a JSON list of NetworkPolicy peers: {error}"))?;
    for (index, peer) in peers.iter().enumerate() {
        if peer.is_empty() {
            return Err(format!("[{index}] is empty; it needs one of {}", PEER_FIELDS.join(", ")));
        }
        if let Some(field) = peer.keys().find(|field| !PEER_FIELDS.contains(&field.as_str())) {
            return Err(format!(
                "[{index}].{field} is not a known field; the valid fields of a peer are {}",
                PEER_FIELDS.join(", ")
            ));
        }
    }
    Ok(Peers(peers.into_iter().map(Value::Object).collect()))
}

/// The settings that apply to the pods of all services.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The image of the `tor` containers.
    pub tor_image: String,
    /// The image of the other containers.
    pub data_plane_image: String,
    /// The pull policy of the images: `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// The torrc lines that are added for every tor instance.
    pub tor_extra_config: String,
    /// The default pod templates, which fill in what a service's own templates leave unset.
    pub default_templates: DefaultTemplates,
    /// The `NetworkPolicy` peers that may read the pods' metrics. An empty list admits everyone;
    /// `None` means that the pods get no `NetworkPolicy`.
    pub network_policies: Option<Vec<Value>>,
    /// True if the operator should create `PodDisruptionBudget`s for the pods.
    pub wants_disruption_budgets: bool,
    /// True if the pods have fixed user and group IDs. False if the cluster assigns these IDs.
    pub fixed_user_ids: bool,
    /// The settings for the logs of agents and publishers.
    pub data_plane_log: DataPlaneLog,
    /// The values that the authors of objects may use.
    pub policy: ObjectPolicy,
}

/// The environment that all services share: the operator's settings, and the API server's optional
/// APIs and fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Environment {
    /// The operator's settings for the pods of all services.
    pub settings: Settings,
    /// The optional APIs and fields that the API server serves.
    pub served: Served,
}

impl Environment {
    /// Returns the API version of the `PodDisruptionBudget`s to create, or `None` if they are
    /// disabled or the API server does not serve them.
    pub fn disruption_budgets(&self) -> Option<PolicyVersion> {
        self.served.disruption_budgets.filter(|_| self.settings.wants_disruption_budgets)
    }
}

/// The reason why the flags yield no settings.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Neither the data-plane image nor the operator's image is configured.
    #[error("no image for agents and publishers is configured; set --data-plane-image or --operator-image")]
    NoImage,
    /// Some of the torrc lines for all pods are not allowed. The text names the lines and options.
    #[error("invalid torrc lines in --tor-extra-config (chart value torExtraConfig): {0}")]
    TorExtraConfig(String),
}

impl Args {
    /// Returns the settings for the pods of all services, as specified by these flags. `own_log` is
    /// the format of the operator's own log.
    pub fn settings(&self, own_log: log::Format) -> Result<Settings, SettingsError> {
        // clap would quote the lines in its error, and they can contain a proxy's password.
        let refused = validate::tor_extra_config(&self.tor_extra_config);
        if !refused.is_empty() {
            return Err(SettingsError::TorExtraConfig(refused.join("; ")));
        }
        let data_plane_image = self.data_plane_image.as_ref().or(self.operator_image.as_ref());
        Ok(Settings {
            tor_image: self.tor_image.clone(),
            data_plane_image: data_plane_image.cloned().ok_or(SettingsError::NoImage)?,
            image_pull_policy: self.image_pull_policy.clone(),
            tor_extra_config: self.tor_extra_config.clone(),
            default_templates: self.default_templates.clone(),
            network_policies: self.network_policies.then(|| self.metrics_from.0.clone()),
            wants_disruption_budgets: self.disruption_budgets,
            fixed_user_ids: self.fixed_user_ids,
            data_plane_log: self.data_plane_log.settings(own_log),
            policy: self.policy.policy(),
        })
    }

    /// Returns the name of the Lease for the leader election, or `None` if the election is
    /// disabled.
    pub(super) fn lease(&self) -> Option<String> {
        Some(self.lease_name.clone()).filter(|name| !name.is_empty())
    }

    /// Returns the namespaces to watch. A single `None` means all namespaces.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let named: Vec<_> = self.watch_namespace.iter().filter(|name| !name.is_empty()).cloned().map(Some).collect();
        if named.is_empty() { vec![None] } else { named }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Args {
        Program::parse_from(["operator", "--tor-image", "tor:1"].iter().chain(flags)).args
    }

    #[test]
    fn the_data_plane_runs_the_operators_image_by_default() {
        let image = |flags: &[&str]| parse(flags).settings(log::Format::Text).map(|settings| settings.data_plane_image);
        assert_eq!(image(&["--operator-image", "op:2"]).as_deref(), Ok("op:2"));
        assert_eq!(image(&["--operator-image", "op:2", "--data-plane-image", "op:1"]).as_deref(), Ok("op:1"));
        assert_eq!(image(&[]), Err(SettingsError::NoImage));
    }

    #[test]
    fn policies_and_budgets_can_be_disabled() {
        let settings = |flags: &[&str]| {
            let settings = parse(&[&["--operator-image", "op:1"], flags].concat()).settings(log::Format::Text).unwrap();
            (settings.network_policies, settings.wants_disruption_budgets)
        };
        assert_eq!(settings(&[]), (Some(Vec::new()), true));
        assert_eq!(settings(&["--network-policies", "false", "--disruption-budgets=false"]), (None, false));
        let named = r#"[{"ipBlock": {"cidr": "10.0.0.0/8"}}]"#;
        let peers = vec![serde_json::json!({"ipBlock": {"cidr": "10.0.0.0/8"}})];
        assert_eq!(settings(&["--metrics-from", named]), (Some(peers), true));
    }

    #[test]
    fn an_error_names_the_bad_torrc_option_and_quotes_no_value() {
        let settings =
            |lines: &str| parse(&["--operator-image", "op:1", "--tor-extra-config", lines]).settings(log::Format::Text);
        let network = "UseBridges 1\nBridge 192.0.2.1:443 0123456789ABCDEF0123456789ABCDEF01234567\n";
        assert_eq!(settings(network).map(|settings| settings.tor_extra_config).as_deref(), Ok(network));
        let error = settings("HTTPSProxyAuthenticator user:secret\nControlPort 9051\nSocks5ProxyPasswor secret");
        assert_eq!(
            error.map_err(|error| error.to_string()).unwrap_err(),
            "invalid torrc lines in --tor-extra-config (chart value torExtraConfig): line 2: \"ControlPort\" is controlled by \
             the operator; remove the line; line 3: \"Socks5ProxyPasswor\" is not allowed; write the full name of an option \
             that docs/reference.md lists"
        );
    }

    #[test]
    fn user_ids_are_fixed_unless_the_cluster_assigns_them() {
        let fixed = |flags: &[&str]| {
            let flags = [&["--operator-image", "op:1"], flags].concat();
            parse(&flags).settings(log::Format::Text).unwrap().fixed_user_ids
        };
        assert!(fixed(&[]) && !fixed(&["--fixed-user-ids", "false"]) && !fixed(&["--fixed-user-ids=false"]));
    }

    #[test]
    fn the_flags_of_the_policy_reach_the_settings() {
        let policy = |flags: &[&str]| {
            let flags = [&["--operator-image", "op:1"], flags].concat();
            parse(&flags).settings(log::Format::Text).unwrap().policy
        };
        let refused = policy(&["--refused-targets", "none"]).refused_targets;
        assert_eq!(refused, crate::link::RefusedTargets::none());
        assert_eq!(policy(&[]).refused_targets, crate::link::RefusedTargets::default());
        assert_ne!(policy(&["--allowed-tolerations", "tor"]), policy(&[]));
    }

    #[test]
    fn agents_and_publishers_log_in_the_operators_own_format() {
        let of = |flags: &[&str], own| {
            parse(&[&["--operator-image", "op:1"], flags].concat()).settings(own).unwrap().data_plane_log.format
        };
        assert_eq!(of(&[], log::Format::Json), log::Format::Json);
        assert_eq!(of(&["--data-plane-log-format", "text"], log::Format::Json), log::Format::Text);
        assert_eq!(of(&["--data-plane-log-format", "json"], log::Format::Text), log::Format::Json);
    }

    #[test]
    fn an_error_names_the_bad_peer() {
        for (text, message) in [
            ("monitoring", "not a JSON list of NetworkPolicy peers: expected value at line 1 column 1"),
            ("[{}]", "[0] is empty; it needs one of podSelector, namespaceSelector, ipBlock"),
            (
                r#"[{"podSelecter": {}}]"#,
                "[0].podSelecter is not a known field; the valid fields of a peer are podSelector, namespaceSelector, ipBlock",
            ),
        ] {
            assert_eq!(peers(text).unwrap_err(), message);
        }
    }

    #[test]
    fn an_error_names_the_bad_field_of_a_default_template() {
        let given = |text| Program::try_parse_from(["operator", "--tor-image", "tor:1", "--default-templates", text]);
        assert_eq!(parse(&["--operator-image", "op:1"]).default_templates, DefaultTemplates::default());
        let templates =
            given("backend: {priorityClassName: high}").unwrap_or_else(|e| panic!("{e}")).args.default_templates;
        assert_eq!(templates.backend.priority_class_name.as_deref(), Some("high"));
        let refusal = given("backend: {priority: high}").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            refusal.contains("--default-templates <TEMPLATES>': backend.priority is not a known field; the valid fields of a template are"),
            "{refusal}"
        );
    }

    #[test]
    fn all_namespaces_are_watched_by_default() {
        assert_eq!(parse(&[]).namespaces(), [None]);
        assert_eq!(parse(&["--watch-namespace", ""]).namespaces(), [None]);
        let two = [Some("a".to_owned()), Some("b".to_owned())];
        assert_eq!(parse(&["--watch-namespace", "a,b"]).namespaces(), two);
        assert_eq!(parse(&["--watch-namespace", "a", "--watch-namespace", "b"]).namespaces(), two);
    }
}
