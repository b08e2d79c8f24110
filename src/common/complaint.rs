//! Logging of repeated problems: the same problem is logged once, however often it recurs in a row.

use std::error::Error;
use std::fmt::Display;

/// The problem that was logged last.
#[derive(Debug, Default)]
pub struct Complaint(Option<String>);

impl Complaint {
    /// Logs a warning, or a debug line if the previous problem had the same text.
    pub fn utter(&mut self, what: &str, reason: &dyn Display) {
        match self.news(what, reason) {
            Ok(new) => tracing::warn!("{new}"),
            Err(known) => tracing::debug!("{known}"),
        }
    }

    /// Logs an expected problem at level INFO, or as a debug line if the previous problem had the
    /// same text.
    pub fn mention(&mut self, what: &str, reason: &dyn Display) {
        match self.news(what, reason) {
            Ok(new) => tracing::info!("{new}"),
            Err(known) => tracing::debug!("{known}"),
        }
    }

    /// Ends the problem, so that its next occurrence is logged again.
    pub fn settle(&mut self) {
        self.0 = None;
    }

    /// Remembers a problem and returns its text, as an error if it is the same as the previous one.
    fn news(&mut self, what: &str, reason: &dyn Display) -> Result<String, String> {
        let text = format!("{what}: {reason}");
        if self.0.as_ref() == Some(&text) {
            return Err(text);
        }
        self.0 = Some(text.clone());
        Ok(text)
    }
}

/// Returns the actual cause of a failed Kubernetes call: the API server's message if it refused the
/// call, otherwise the innermost error.
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
    fn a_problem_is_news_once_until_it_is_settled() {
        let mut complaint = Complaint::default();
        assert!(complaint.news("cannot read", &"denied").is_ok());
        assert!(complaint.news("cannot read", &"denied").is_err());
        assert!(complaint.news("cannot read", &"gone").is_ok());
        complaint.settle();
        assert!(complaint.news("cannot read", &"gone").is_ok());
    }

    #[test]
    fn the_cause_of_a_refusal_is_the_api_servers_message() {
        let refusal = kube::Error::Api(Box::new(Status::failure("pods is forbidden", "Forbidden").with_code(403)));
        assert_eq!(cause(&watcher::Error::WatchStartFailed(refusal)), "pods is forbidden");
    }

    #[test]
    fn the_cause_of_a_failed_connection_is_the_innermost_error() {
        let refused = std::io::Error::other("Connection refused");
        let service = kube::Error::Service(Box::new(std::io::Error::other(refused)));
        assert!(cause(&watcher::Error::WatchFailed(service)).contains("Connection refused"));
    }
}
