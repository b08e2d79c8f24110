//! The choice of the cluster, and the connection to its API server.

use std::path::PathBuf;

use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use super::Error;

/// The options that choose a cluster, as kubectl has them.
#[derive(Debug, clap::Args)]
pub struct ClusterOptions {
    /// The kubeconfig [default: that of `kubectl`, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current context]
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
}

impl ClusterOptions {
    /// Returns the configuration of the cluster's client. Without an option and `KUBECONFIG`, a pod
    /// uses its service account.
    pub async fn config(&self) -> Result<Config, Error> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(file) = &self.kubeconfig {
            let unusable = |cause| Error::UnusableConfig { file: file.display().to_string(), cause };
            let read = Kubeconfig::read_from(file).map_err(|error| unusable(error.to_string()))?;
            let found = Config::from_custom_kubeconfig(read, &options).await;
            return found.map_err(|error| unusable(error.to_string()));
        }
        let found = match (&self.context, std::env::var_os("KUBECONFIG")) {
            (None, None) => Config::infer().await.map_err(|error| error.to_string()),
            _ => Config::from_kubeconfig(&options).await.map_err(|error| error.to_string()),
        };
        found.map_err(Error::NoConfig)
    }
}
