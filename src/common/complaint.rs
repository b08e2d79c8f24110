//! Logs problems. If the same problem occurs several times in a row, only its first occurrence is
//! logged above level DEBUG. The number of lines is also limited, because a neighbour can alternate
//! between different problems.

use std::error::Error;
use std::fmt::Display;

use super::log_limit::{Line, LogLimit};

/// The problem that was logged last.
#[derive(Debug, Default)]
pub struct Complaint {
    last: Option<String>,
    limit: LogLimit,
}

impl Complaint {
    /// Logs a problem as a warning, or at level DEBUG if the previous problem had the same text.
    pub fn utter(&mut self, what: &str, reason: &dyn Display) {
        match self.news(what, reason) {
            Ok((new, Line { suppressed })) => tracing::warn!(suppressed, "{new}"),
            Err(text) => tracing::debug!("{text}"),
        }
    }

    /// Logs an expected problem at level INFO, or at level DEBUG if the previous problem had the
    /// same text.
    pub fn mention(&mut self, what: &str, reason: &dyn Display) {
        match self.news(what, reason) {
            Ok((new, Line { suppressed })) => tracing::info!(suppressed, "{new}"),
            Err(text) => tracing::debug!("{text}"),
        }
    }

    /// Marks the problem as resolved, so that its next occurrence is logged again.
    pub fn settle(&mut self) {
        self.last = None;
    }

    /// Records a problem and returns its text: as `Ok` if the problem is new, or as `Err` if the
    /// problem repeats the previous one or too many problems have been logged.
    fn news(&mut self, what: &str, reason: &dyn Display) -> Result<(String, Line), String> {
        let text = format!("{what}: {reason}");
        if self.last.as_ref() == Some(&text) {
            return Err(text);
        }
        match self.limit.line() {
            Some(line) => {
                self.last = Some(text.clone());
                Ok((text, line))
            }
            // The problem stays new, so that one that lasts longer than the flood is logged.
            None => Err(text),
        }
    }
}

/// Returns the actual cause of a failed Kubernetes call: the API server's message if the server
/// rejected the call, otherwise the innermost error.
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
    fn a_problem_is_new_only_once_until_it_is_settled() {
        let mut complaint = Complaint::default();
        assert!(complaint.news("cannot read", &"denied").is_ok());
        assert!(complaint.news("cannot read", &"denied").is_err());
        assert!(complaint.news("cannot read", &"gone").is_ok());
        complaint.settle();
        assert!(complaint.news("cannot read", &"gone").is_ok());
    }

    #[test]
    fn alternating_problems_do_not_fill_the_log() {
        let mut complaint = Complaint::default();
        let logged = (0..1000).filter(|round| complaint.news("cannot read", &(round % 2)).is_ok()).count();
        assert!(logged < 50, "{logged} lines");
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_that_outlasts_a_flood_is_logged() {
        let mut complaint = Complaint::default();
        for round in 0..20 {
            let _ = complaint.news("cannot read", &(round % 2));
        }
        assert!(complaint.news("cannot read", &"denied").is_err());
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        assert!(complaint.news("cannot read", &"denied").is_ok());
    }

    #[test]
    fn the_cause_of_a_rejected_call_is_the_api_servers_message() {
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
