//! Tracks the introduction points that tor holds, and detects when they change.

use std::sync::Arc;
use std::time::SystemTime;

use crate::link::Revision;
use crate::onion::descriptor::DescriptorError;
use crate::onion::{BlindedPublicKey, OnionAddress, ServiceContent, UncheckedDescriptor};

/// Tor's newest descriptor, with a revision that increases when the descriptor's content changes.
///
/// Tor signs and encrypts the descriptor again for each GETINFO command, so the text always
/// differs. The revision therefore depends on the decrypted content.
#[derive(Debug, Clone)]
pub struct Points {
    revision: Revision,
    held: Option<OwnDescriptor>,
}

#[derive(Debug, Clone)]
struct OwnDescriptor {
    text: Arc<str>,
    /// The blinded key of the descriptor's time period.
    blinded_key: BlindedPublicKey,
    content: Arc<ServiceContent>,
}

impl Points {
    /// Creates an empty state. `boot` distinguishes the revisions of this run of the agent from
    /// those of earlier runs.
    pub fn new(boot: u64) -> Self {
        Self { revision: Revision { boot, number: 0 }, held: None }
    }

    /// Returns the current revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the number of introduction points.
    pub fn count(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.content.introduction_points.len())
    }

    /// Returns the blinded key of the descriptor's time period, or None without introduction
    /// points.
    pub fn blinded_key(&self) -> Option<&BlindedPublicKey> {
        self.held.as_ref().map(|held| &held.blinded_key)
    }

    /// Returns the text of tor's newest descriptor, or None without introduction points.
    pub fn descriptor(&self) -> Option<Arc<str>> {
        self.held.as_ref().map(|held| held.text.clone())
    }

    /// Records tor's newest descriptor. Returns true if the introduction points changed. The text
    /// is always replaced, so that it is never outdated.
    pub fn observe(&mut self, opened: Opened) -> bool {
        let Opened { text, blinded_key, content } = opened;
        if content.introduction_points.is_empty() {
            return self.clear();
        }
        let new = OwnDescriptor { text, blinded_key, content: Arc::new(content) };
        let changed = !self.held.as_ref().is_some_and(|old| old.same_points(&new));
        self.held = Some(new);
        self.count_change(changed)
    }

    /// Records that tor has no introduction points or is not running. Returns true if there were
    /// introduction points before.
    pub fn clear(&mut self) -> bool {
        let changed = self.held.take().is_some();
        self.count_change(changed)
    }

    fn count_change(&mut self, changed: bool) -> bool {
        self.revision.number += u64::from(changed);
        changed
    }
}

impl OwnDescriptor {
    fn same_points(&self, other: &Self) -> bool {
        self.blinded_key == other.blinded_key && self.content == other.content
    }
}

/// A descriptor's text with its decrypted content.
#[derive(Debug)]
pub struct Opened {
    text: Arc<str>,
    blinded_key: BlindedPublicKey,
    content: ServiceContent,
}

/// Decrypts and checks a descriptor of the agent's own tor. The time period is not checked, because
/// only the publisher knows the consensus.
pub fn open(text: String, address: &OnionAddress, now: SystemTime) -> Result<Opened, DescriptorError> {
    let unchecked = UncheckedDescriptor::parse(&text)?;
    let blinded_key = unchecked.blinded_key();
    let descriptor = unchecked.check(address, &blinded_key, now)?;
    Ok(Opened { text: text.into(), blinded_key, content: descriptor.content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onion::IntroductionPoint;

    impl Points {
        /// Returns a state with the given number of distinct introduction points.
        pub fn with_count(count: u8) -> Self {
            let mut points = Self::new(7);
            points.observe(opened("text", 1, &(0..count).collect::<Vec<_>>()));
            points
        }
    }

    fn opened(text: &str, period: u8, keys: &[u8]) -> Opened {
        let point = |&key: &u8| IntroductionPoint {
            link_specifiers: vec![0],
            onion_key: [1; 32],
            auth_key: [key; 32],
            enc_key: [2; 32],
            enc_key_ed25519: [3; 32],
            legacy: false,
        };
        let content = ServiceContent::plain(keys.iter().map(point).collect());
        Opened { text: text.into(), blinded_key: BlindedPublicKey([period; 32]), content }
    }

    #[test]
    fn the_revision_changes_with_the_points_and_the_text_is_always_the_newest() {
        let mut points = Points::new(7);
        let mut step = |answer: Option<Opened>| {
            let changed = match answer {
                Some(opened) => points.observe(opened),
                None => points.clear(),
            };
            (changed, points.revision().number, points.count(), points.descriptor().map(|text| text.to_string()))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(step(None), (false, 0, 0, None));
        assert_eq!(step(Some(opened("a", 1, &[]))), (false, 0, 0, None));
        assert_eq!(step(Some(opened("b", 1, &[1, 2]))), (true, 1, 2, text("b")));
        assert_eq!(step(Some(opened("c", 1, &[1, 2]))), (false, 1, 2, text("c")));
        assert_eq!(step(Some(opened("d", 1, &[1, 3]))), (true, 2, 2, text("d")));
        assert_eq!(step(Some(opened("e", 2, &[1, 3]))), (true, 3, 2, text("e")), "another period");
        assert_eq!(step(Some(opened("f", 2, &[]))), (true, 4, 0, None));
        assert_eq!(step(None), (false, 4, 0, None));
        assert_eq!(points.revision().boot, 7);
    }
}
