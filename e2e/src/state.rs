//! Where a bring-up keeps what it writes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The folder of one bring-up, outside the source tree.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

impl State {
    /// `dir`, or `$XDG_STATE_HOME/onionbalance-operator/e2e` (`~/.local/state/…`).
    pub fn new(dir: Option<PathBuf>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => state_home()?.join("onionbalance-operator/e2e"),
        };
        ensure!(
            !dir.starts_with("/run") && !dir.starts_with("/var/log"),
            "{} is hidden inside the node",
            dir.display()
        );
        Ok(Self { dir })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubernetes().join("admin.conf")
    }

    /// Of the node: namespaces, containerd.
    pub fn node(&self) -> PathBuf {
        self.dir.join("node")
    }

    /// Of Kubernetes' own programs.
    pub fn kubernetes(&self) -> PathBuf {
        self.dir.join("kubernetes")
    }

    /// Of the private Tor network.
    pub fn tornet(&self) -> PathBuf {
        self.dir.join("tor")
    }
}

/// The source tree's root: the set-up scripts, manifests and images are found from here.
pub fn source_tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where the set-up scripts keep what outlives a bring-up: `$OB_CACHE`, or `$XDG_CACHE_HOME/onionbalance-operator`.
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
        _ => Ok(std::env::home_dir().context("no home folder: give --dir")?.join(".local/state")),
    }
}
