//! Logs a trouble once, however often it comes in a row.

use std::error::Error;
use std::fmt::Display;

/// The trouble that was logged last.
#[derive(Debug, Default)]
pub struct Complaint(Option<String>);

impl Complaint {
    /// Logs a warning, unless the last one had the same words.
    pub fn utter(&mut self, what: &str, reason: &dyn Display) {
        let words = format!("{what}: {reason}");
        if self.0.as_ref() == Some(&words) {
            tracing::debug!("{words}");
        } else {
            tracing::warn!("{words}");
            self.0 = Some(words);
        }
    }

    /// The trouble is over.
    pub fn settle(&mut self) {
        self.0 = None;
    }
}

/// What is really wrong with a call to Kubernetes: its words for a refusal, else the innermost cause.
pub fn cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    loop {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            return status.message.clone();
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return cause.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::runtime::watcher;

    use super::*;

    #[test]
    fn a_refusal_in_its_own_words() {
        let refusal = kube::Error::Api(Box::new(Status::failure("pods is forbidden", "Forbidden").with_code(403)));
        assert_eq!(cause(&watcher::Error::WatchStartFailed(refusal)), "pods is forbidden");
    }

    #[test]
    fn the_innermost_cause() {
        let refused = std::io::Error::other("Connection refused");
        let service = kube::Error::Service(Box::new(std::io::Error::other(refused)));
        assert!(cause(&watcher::Error::WatchFailed(service)).contains("Connection refused"));
    }
}
