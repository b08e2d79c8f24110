//! The finding about targets that fail their checks.

use crate::crd::{BackendState, BackendStatus, Reason};
use crate::operator::conditions::Finding;

/// Replaces the finding about the backends if the publisher has withdrawn one of them because of a
/// target, or if targets fail at all published backends. Other problems take precedence. `seen` are
/// the backends as the publisher sees them.
pub(super) fn finding(backends: Finding, seen: &[BackendStatus]) -> Finding {
    // A withdrawn backend is not ready, so the backends are usually in progress.
    let is_open = backends.holds() || backends.reason == Reason::Progressing;
    let Some(failing) = withdrawn(seen).or_else(|| everywhere(seen)).filter(|_| is_open) else { return backends };
    if backends.holds() {
        return failing;
    }
    Finding { message: format!("{} {}", backends.message, failing.message), ..failing }
}

fn withdrawn(seen: &[BackendStatus]) -> Option<Finding> {
    let names: Vec<_> = seen.iter().filter(|backend| backend.state == BackendState::Unhealthy).collect();
    let first = names.first()?;
    let others = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
    let message = format!("Backend {}{others} is withdrawn: {}", first.name, explanation(first));
    Some(Finding::no(Reason::BackendUnhealthy, message))
}

fn everywhere(seen: &[BackendStatus]) -> Option<Finding> {
    // External backends do not check their targets for us.
    let is_published = |backend: &&BackendStatus| {
        matches!(backend.state, BackendState::Ready | BackendState::Waiting)
            && backend.onion_address.as_ref() != Some(&backend.name)
    };
    let published: Vec<_> = seen.iter().filter(is_published).collect();
    let first = published.first()?;
    if published.iter().any(|backend| backend.failing_ports.is_empty()) {
        return None;
    }
    let message = format!(
        "All backends stay published, although none serves all ports. At {}, {}",
        first.name,
        explanation(first)
    );
    Some(Finding::no(Reason::TargetFailing, message))
}

/// Returns why a backend's targets fail, in the words of the publisher.
fn explanation(backend: &BackendStatus) -> String {
    let message = backend.message.as_deref().unwrap_or("the publisher gives no reason");
    format!("{message}.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn backend(name: &str, state: &str, failing: &[u16]) -> BackendStatus {
        serde_json::from_value(json!({
            "name": name, "introductionPoints": 3, "state": state, "failingPorts": failing,
            "message": format!("the targets of {} ports fail", failing.len()), "since": "2025-12-31T23:00:00Z",
        }))
        .unwrap()
    }

    fn ready() -> Finding {
        Finding::yes(Reason::AllReady, "All 2 backends are ready.")
    }

    #[test]
    fn a_withdrawn_backend_is_named_although_the_backends_are_in_progress() {
        let seen = [backend("a", "Ready", &[]), backend("b", "Unhealthy", &[80])];
        let found = finding(Finding::no(Reason::Progressing, "1 of 2 backends are ready."), &seen);
        assert_eq!(found.reason, Reason::BackendUnhealthy);
        assert_eq!(found.message, "1 of 2 backends are ready. Backend b is withdrawn: the targets of 1 ports fail.");
        assert_eq!(finding(ready(), &seen).reason, Reason::BackendUnhealthy);
    }

    #[test]
    fn a_target_that_fails_everywhere_is_reported() {
        let all = [backend("a", "Ready", &[80]), backend("b", "Waiting", &[80, 443])];
        assert_eq!(finding(ready(), &all).reason, Reason::TargetFailing);
        let one = [backend("a", "Ready", &[80]), backend("b", "Ready", &[])];
        assert_eq!(finding(ready(), &one), ready(), "the publisher is about to withdraw a");
        let mut external = backend("x.onion", "Ready", &[]);
        external.onion_address = Some(external.name.clone());
        assert_eq!(finding(ready(), &[backend("a", "Ready", &[80]), external]).reason, Reason::TargetFailing);
        assert_eq!(finding(ready(), &[backend("a", "Starting", &[80])]), ready());
        assert_eq!(finding(ready(), &[]), ready());
    }

    #[test]
    fn other_problems_take_precedence() {
        let suspended = Finding::no(Reason::Suspended, "spec.suspend is true.");
        assert_eq!(finding(suspended.clone(), &[backend("b", "Unhealthy", &[80])]), suspended);
    }
}
