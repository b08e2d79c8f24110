//! Logs a trouble once, however often it comes in a row.

use std::fmt::Display;

/// The trouble that was logged last.
#[derive(Debug, Default)]
pub(super) struct Complaint(Option<String>);

impl Complaint {
    /// Logs a warning, unless the last one had the same words.
    pub(super) fn utter(&mut self, what: &str, reason: &dyn Display) {
        let words = format!("{what}: {reason}");
        if self.0.as_ref() == Some(&words) {
            tracing::debug!("{words}");
        } else {
            tracing::warn!("{words}");
            self.0 = Some(words);
        }
    }

    /// The trouble is over.
    pub(super) fn settle(&mut self) {
        self.0 = None;
    }
}
