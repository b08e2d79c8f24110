//! Flags, and what they amount to.

/// Flags of `onionbalance-operator operator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image whose `tor` the pods run
    #[arg(long, env = "TOR_IMAGE", value_name = "IMAGE")]
    tor_image: String,
    /// The image of agents and publishers; by default the operator's own
    #[arg(long, env = "DATA_PLANE_IMAGE", value_name = "IMAGE")]
    data_plane_image: Option<String>,
    /// The operator's own image
    #[arg(long, env = "OPERATOR_IMAGE", value_name = "IMAGE")]
    operator_image: Option<String>,
    /// When the pods' images are pulled
    #[arg(long, env = "IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// torrc lines for every tor pod: bridges, a test network
    #[arg(long, env = "TOR_EXTRA_CONFIG", value_name = "LINES", default_value = "", hide_default_value = true)]
    tor_extra_config: String,
    /// A namespace to look after; repeatable, by default all
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// The Lease, in the operator's own namespace, by which several operators elect the one that works; empty: none, for one alone
    #[arg(long, env = "LEASE_NAME", value_name = "NAME", default_value = "onionbalance-operator-leader")]
    lease_name: String,
    /// The port of /livez and /readyz
    #[arg(long, env = "PROBE_PORT", default_value_t = crate::link::PROBE_PORT)]
    pub(super) probe_port: u16,
    /// The port of /metrics
    #[arg(long, env = "METRICS_PORT", default_value_t = crate::link::METRICS_PORT)]
    pub(super) metrics_port: u16,
}

/// What every service's pods have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image of the `tor` containers.
    pub tor_image: String,
    /// The image of the other containers.
    pub data_plane_image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// torrc lines for every tor.
    pub tor_extra_config: String,
}

/// Neither the data plane's image nor the operator's is known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("set --data-plane-image, or OPERATOR_IMAGE to the operator's own image")]
pub struct NoImage;

impl Args {
    /// The settings of the pods.
    pub fn settings(&self) -> Result<Settings, NoImage> {
        Ok(Settings {
            tor_image: self.tor_image.clone(),
            data_plane_image: self.data_plane_image.clone().or_else(|| self.operator_image.clone()).ok_or(NoImage)?,
            image_pull_policy: self.image_pull_policy.clone(),
            tor_extra_config: self.tor_extra_config.clone(),
        })
    }

    /// The name of the Lease, if leaders are elected.
    pub(super) fn lease(&self) -> Option<String> {
        Some(self.lease_name.clone()).filter(|name| !name.is_empty())
    }

    /// The namespaces to look after: each, or None for all.
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
    fn the_data_plane_runs_the_operators_image_unless_told_otherwise() {
        let image = |flags: &[&str]| parse(flags).settings().map(|settings| settings.data_plane_image);
        assert_eq!(image(&["--operator-image", "op:2"]).as_deref(), Ok("op:2"));
        assert_eq!(image(&["--operator-image", "op:2", "--data-plane-image", "op:1"]).as_deref(), Ok("op:1"));
        assert_eq!(image(&[]), Err(NoImage));
    }

    #[test]
    fn all_namespaces_unless_some_are_named() {
        assert_eq!(parse(&[]).namespaces(), [None]);
        assert_eq!(parse(&["--watch-namespace", ""]).namespaces(), [None]);
        let two = [Some("a".to_owned()), Some("b".to_owned())];
        assert_eq!(parse(&["--watch-namespace", "a,b"]).namespaces(), two);
        assert_eq!(parse(&["--watch-namespace", "a", "--watch-namespace", "b"]).namespaces(), two);
    }
}
