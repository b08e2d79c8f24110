//! The folders in which an environment keeps its files. An environment is the node, the cluster and
//! the Tor network that `e2e up` starts.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The folder of one environment, outside the source tree.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// Uses `dir` as the state folder. The default for `None` is
    /// `$XDG_STATE_HOME/onionbalance-operator/e2e` (`~/.local/state/…`).
    pub fn new(dir: Option<PathBuf>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => state_home()?.join("onionbalance-operator/e2e"),
        };
        ensure!(
            !dir.starts_with("/run") && !dir.starts_with("/var/log"),
            "{} is not visible inside the node; choose a folder outside /run and /var/log",
            dir.display()
        );
        Ok(Self { dir })
    }

    /// Returns the state folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubernetes().join("admin.conf")
    }

    /// Returns the folder of the node, which holds the files of its namespaces and of containerd.
    pub fn node(&self) -> PathBuf {
        self.dir.join("node")
    }

    /// Returns the folder of the cluster's certificates, its kubeconfigs and etcd's data.
    pub fn kubernetes(&self) -> PathBuf {
        self.dir.join("kubernetes")
    }

    /// Returns the folder of the private Tor network.
    pub fn tornet(&self) -> PathBuf {
        self.dir.join("tor")
    }
}

/// Returns the root of the source tree, which contains the setup scripts, manifests and images.
pub fn source_tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Returns the folder in which the setup scripts keep files that outlive an environment:
/// `$OB_CACHE`, or `$XDG_CACHE_HOME/onionbalance-operator`.
pub fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("OB_CACHE").unwrap_or_else(|| {
        let home = set("XDG_CACHE_HOME").unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"));
        home.join("onionbalance-operator")
    })
}

fn state_home() -> Result<PathBuf> {
    match std::env::var_os("XDG_STATE_HOME") {
        Some(dir) if !dir.is_empty() => Ok(dir.into()),
        _ => Ok(std::env::home_dir().context("there is no home folder; pass --dir")?.join(".local/state")),
    }
}
