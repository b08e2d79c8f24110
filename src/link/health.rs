//! The checks of the targets: their configuration, and the results that an agent reports.

use serde::{Deserialize, Serialize};

/// The longest explanation of a failed check, in bytes. All ports of a response must fit into one
/// message.
const MAX_PROBLEM_BYTES: usize = 200;

/// How an agent checks the target of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TargetCheck {
    /// False if the target is not checked.
    pub enabled: bool,
    /// The HTTP request that the target must answer. If None, the target only has to accept
    /// connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// The time in seconds between the starts of two checks.
    pub period_seconds: u32,
    /// The time in seconds that a check may take.
    pub timeout_seconds: u32,
    /// The number of consecutive failures after which the target counts as failing.
    pub failure_threshold: u32,
    /// The number of consecutive successes after which a failing target counts as passing.
    pub success_threshold: u32,
}

impl Default for TargetCheck {
    /// Returns the check of a port without a configured one: a connection every 10 s.
    fn default() -> Self {
        Self {
            enabled: true,
            http: None,
            period_seconds: 10,
            timeout_seconds: 2,
            failure_threshold: 2,
            success_threshold: 2,
        }
    }
}

impl TargetCheck {
    /// Returns true if this is the default check. The configuration omits such a check, so that an
    /// older agent can read the configuration.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the problem of a value that no check can have, or None if there is none.
    pub fn problem(&self) -> Option<&'static str> {
        let positive = [self.period_seconds, self.timeout_seconds, self.failure_threshold, self.success_threshold];
        if positive.contains(&0) {
            return Some("0 is not a valid time or threshold");
        }
        self.http.as_ref().and_then(HttpCheck::problem)
    }
}

/// An HTTP request that a target must answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpCheck {
    /// The path and the query of the request.
    pub path: String,
    /// The value of the `Host` header. If None, the header names the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The settings of HTTPS. If None, the request uses plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<HttpsCheck>,
    /// The expected statuses. If empty, every status from 200 to 399 is expected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
}

/// The settings of a request over HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpsCheck {
    /// True if the target needs a certificate of an authority that the agent's image trusts.
    pub verify: bool,
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self { path: "/".to_owned(), host: None, https: None, statuses: Vec::new() }
    }
}

impl HttpCheck {
    /// Returns true if a target that answers with this status is healthy.
    pub fn expects(&self, status: u16) -> bool {
        if self.statuses.is_empty() { (200..400).contains(&status) } else { self.statuses.contains(&status) }
    }

    fn problem(&self) -> Option<&'static str> {
        // A line break would add headers to the request.
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.path.starts_with('/') || !is_word(&self.path) {
            return Some("the path must begin with \"/\" and consist of printable ASCII characters without spaces");
        }
        let is_valid = self.host.as_deref().is_none_or(is_word);
        (!is_valid).then_some("the host must consist of printable ASCII characters without spaces")
    }
}

/// The health of a target, as one agent sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    /// The target passes its checks.
    Passing,
    /// The target fails its checks.
    Failing,
    /// Too few checks have ended, or a newer agent reports a state that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The health of the target of one port, as an agent reports it to a publisher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetHealth {
    /// The port that clients connect to.
    pub port: u16,
    /// The state of the target. It changes only after several equal results.
    pub state: TargetState,
    /// The result of the newest check that began after the agent had received the round of the
    /// request: true if the check passed. None if no such check has ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh: Option<bool>,
    /// The reason of the last failure. None if the last check passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Returns the explanation of a failed check for a message: one line of limited length.
pub fn brief(problem: &str) -> String {
    let mut brief = String::new();
    for c in problem.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if brief.len() + c.len_utf8() > MAX_PROBLEM_BYTES {
            break;
        }
        brief.push(c);
    }
    brief
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_list_every_success_and_redirection_is_expected() {
        let check = HttpCheck::default();
        for (status, expected) in [(199, false), (200, true), (302, true), (399, true), (400, false), (503, false)] {
            assert_eq!(check.expects(status), expected, "{status}");
        }
        let only = HttpCheck { statuses: vec![401, 503], ..HttpCheck::default() };
        assert!(only.expects(401) && only.expects(503) && !only.expects(200));
    }

    #[test]
    fn the_default_check_is_valid_and_others_may_not_be() {
        assert_eq!(TargetCheck::default().problem(), None);
        let http = |path: &str, host: Option<&str>| TargetCheck {
            http: Some(HttpCheck { path: path.to_owned(), host: host.map(str::to_owned), ..HttpCheck::default() }),
            ..TargetCheck::default()
        };
        assert_eq!(http("/healthz?full=1", Some("web.example.org:8080")).problem(), None);
        for bad in [http("healthz", None), http("/a b", None), http("/\r\nX: y", None), http("/", Some("a\nb"))] {
            assert!(bad.problem().is_some(), "{bad:?}");
        }
        assert!(TargetCheck { period_seconds: 0, ..TargetCheck::default() }.problem().is_some());
    }

    #[test]
    fn the_wire_format_of_a_targets_health_is_stable() {
        let json = r#"{"port":80,"state":"Failing","fresh":false,"problem":"connection refused"}"#;
        let health: TargetHealth = serde_json::from_str(json).unwrap();
        assert_eq!((health.port, health.state, health.fresh), (80, TargetState::Failing, Some(false)));
        assert_eq!(serde_json::to_string(&health).unwrap(), json);
        let newer: TargetHealth = serde_json::from_str(r#"{"port":80,"state":"Flapping","more":1}"#).unwrap();
        assert_eq!((newer.state, newer.fresh), (TargetState::Unknown, None));
    }

    proptest! {
        #[test]
        fn an_explanation_is_one_short_line(text in "(\\PC|\n|\r){0,400}") {
            let brief = brief(&text);
            prop_assert!(brief.len() <= MAX_PROBLEM_BYTES);
            prop_assert!(!brief.contains(['\n', '\r']));
        }
    }
}
