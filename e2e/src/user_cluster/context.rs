//! Reads the user's kubeconfig and chooses a context.

use anyhow::{Context as _, Result, bail};
use kube::config::Kubeconfig;

/// The word that stands for the kubeconfig's current context.
pub const CURRENT: &str = "current-context";

/// A context of a kubeconfig, and the cluster to which it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The context's name.
    pub context: String,
    /// The API server's URL.
    pub server: String,
    /// The certificate authority of the API server: its file or its content.
    pub authority: Option<String>,
}

/// Reads the files that the variable `KUBECONFIG` lists, or else `~/.kube/config`.
pub fn read() -> Result<Kubeconfig> {
    Kubeconfig::read().context("could not read the kubeconfig; set KUBECONFIG to the file that kubectl uses")
}

/// Returns the context that the user wants: [`CURRENT`], or a context's name.
pub fn choose(kubeconfig: &Kubeconfig, wanted: &str) -> Result<Chosen> {
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    let name = match (wanted, &kubeconfig.current_context) {
        (CURRENT, Some(current)) if !current.is_empty() => current.as_str(),
        (CURRENT, _) => {
            bail!("the kubeconfig has no current context; set CLUSTER to one of its contexts: {}", known.join(", "))
        }
        (wanted, _) => wanted,
    };
    let context = kubeconfig.contexts.iter().find(|context| context.name == name).with_context(|| {
        format!("the kubeconfig has no context named {name}; set CLUSTER to one of its contexts: {}", known.join(", "))
    })?;
    let cluster_name = context.context.as_ref().map(|context| context.cluster.as_str()).unwrap_or_default();
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == cluster_name);
    let cluster = cluster.and_then(|cluster| cluster.cluster.as_ref());
    let cluster = cluster.with_context(|| {
        format!("the context {name} names the cluster {cluster_name:?}, which the kubeconfig does not describe")
    })?;
    Ok(Chosen {
        context: name.to_owned(),
        server: cluster.server.clone().with_context(|| format!("the cluster {cluster_name} has no server"))?,
        authority: cluster.certificate_authority_data.clone().or_else(|| cluster.certificate_authority.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "
apiVersion: v1
kind: Config
current-context: kind-dev
clusters:
- {name: kind-dev, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: QQ==}}
- {name: prod, cluster: {server: 'https://prod.example.com', certificate-authority: /etc/ca.crt}}
contexts:
- {name: kind-dev, context: {cluster: kind-dev, user: kind-dev}}
- {name: admin@prod, context: {cluster: prod, user: admin}}
- {name: broken, context: {cluster: gone, user: admin}}
users: []
";

    fn error(kubeconfig: &str, wanted: &str) -> String {
        choose(&Kubeconfig::from_yaml(kubeconfig).unwrap(), wanted).unwrap_err().to_string()
    }

    #[test]
    fn a_context_is_chosen_by_its_name_or_because_it_is_the_current_one() {
        let two = Kubeconfig::from_yaml(TWO).unwrap();
        let current = choose(&two, CURRENT).unwrap();
        assert_eq!((current.context.as_str(), current.server.as_str()), ("kind-dev", "https://127.0.0.1:1"));
        assert_eq!(current.authority.as_deref(), Some("QQ=="));
        assert_eq!(choose(&two, "kind-dev").unwrap(), current);
        let named = choose(&two, "admin@prod").unwrap();
        assert_eq!((named.context.as_str(), named.server.as_str()), ("admin@prod", "https://prod.example.com"));
        assert_eq!(named.authority.as_deref(), Some("/etc/ca.crt"));
    }

    #[test]
    fn an_error_names_the_contexts() {
        let list = "set CLUSTER to one of its contexts: kind-dev, admin@prod, broken";
        assert_eq!(error(TWO, "prod"), format!("the kubeconfig has no context named prod; {list}"));
        let without = TWO.replace("current-context: kind-dev", "");
        assert_eq!(error(&without, CURRENT), format!("the kubeconfig has no current context; {list}"));
        assert!(error(TWO, "broken").contains("which the kubeconfig does not describe"));
    }
}
