//! The configuration with which arti joins a private network.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::TorNetwork;
use super::torrc::{self, Role};

/// The header that precedes the key in `ed25519_master_id_public_key`.
const PUBLIC_KEY_TAG: &[u8] = b"== ed25519v1-public: type0 ==\0\0\0";

impl TorNetwork {
    /// Returns the configuration lines that make arti use this network. The network must already
    /// have been started.
    pub fn arti_lines(&self) -> Result<String> {
        let mut v3idents = Vec::new();
        let mut fallbacks = Vec::new();
        for line in self.directory_authorities()? {
            let words: Vec<&str> = line.split(' ').collect();
            let ident = words.iter().find_map(|word| word.strip_prefix("v3ident="));
            v3idents.push(format!("{:?}", ident.context("a DirAuthority line has no v3ident")?));
            let (name, fingerprint) = words.get(1).zip(words.last()).context("a DirAuthority line has no nickname")?;
            let authorities = self.nodes.iter().filter(|node| node.role == Role::Authority);
            let node = authorities
                .into_iter()
                .find(|node| node.name == **name)
                .context("a DirAuthority line names no authority of this network")?;
            fallbacks.push(self.fallback(node, fingerprint)?);
        }
        Ok(format!(
            "[tor_network]\nauthorities = {{ v3idents = [{}] }}\nfallback_caches = [{}]\n\
             [override_net_params]\nhsdir_interval = {}\n",
            v3idents.join(", "),
            fallbacks.join(", "),
            torrc::PERIOD_MINUTES,
        ))
    }

    fn fallback(&self, node: &torrc::TorNode, fingerprint: &str) -> Result<String> {
        let file = self.dir.join(&node.name).join("data/keys/ed25519_master_id_public_key");
        let bytes = fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
        let key = bytes.strip_prefix(PUBLIC_KEY_TAG).with_context(|| format!("{} holds no key", file.display()))?;
        ensure!(key.len() == 32, "{} holds no ed25519 key", file.display());
        let ed25519 = data_encoding::BASE64_NOPAD.encode(key);
        Ok(format!(
            "{{ rsa_identity = {fingerprint:?}, ed_identity = {ed25519:?}, orports = [\"{}:{}\"] }}",
            self.address(),
            node.or_port
        ))
    }
}
