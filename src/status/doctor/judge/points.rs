//! Examines the introduction points of the backends, as the publisher reports them.

use crate::crd::{BackendState, BackendStatus, Reason};
use crate::status::advice;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;

const AREA: &str = "backends";
/// The time in seconds that a backend may take to get introduction points.
const START: i64 = 300;

pub(super) fn examine(facts: &Facts) -> Finding {
    let backends = facts.status().backends;
    let advice = |reason: Reason| advice::action(reason.as_str(), &facts.namespace, &facts.name);
    let problem = |reason, text: String| Finding::problem(AREA, text).maybe(advice(reason).as_deref());
    if backends.is_empty() {
        return problem(Reason::NoBackends, "The publisher knows no backend.".to_owned());
    }
    for (state, reason, words) in [
        (BackendState::Lost, Reason::NoBackends, "lost: no answer, or no introduction points"),
        (BackendState::Excluded, Reason::BackendExcluded, "excluded"),
        (BackendState::Unhealthy, Reason::BackendUnhealthy, "withdrawn, because a target fails there"),
    ] {
        let found: Vec<_> = backends.iter().filter(|backend| backend.state == state).collect();
        if let Some(first) = found.first() {
            let remark = first.message.as_ref().map(|message| format!(" {message}")).unwrap_or_default();
            let text = format!("{} of {} backends: {words}. {}.{remark}", found.len(), backends.len(), first.name);
            return problem(reason, text);
        }
    }
    let is_starting = |backend: &&BackendStatus| backend.state == BackendState::Starting;
    let starting: Vec<_> = backends.iter().filter(is_starting).collect();
    let published: Vec<_> = backends.iter().filter(|backend| backend.introduction_points > 0).collect();
    let points: u32 = published.iter().map(|backend| backend.introduction_points).sum();
    if let Some(slowest) = starting.iter().max_by_key(|backend| facts.seconds_since(backend.since.0)) {
        let since = facts.seconds_since(slowest.since.0);
        let text = format!(
            "{} of {} backends have no introduction points yet; {} for {since} s.",
            starting.len(),
            backends.len(),
            slowest.name
        );
        return if since > START {
            problem(Reason::NoBackends, text)
        } else {
            Finding::warning(AREA, text).maybe(advice(Reason::Progressing).as_deref())
        };
    }
    if points == 0 {
        return problem(Reason::NoBackends, "No introduction point is published.".to_owned());
    }
    Finding::ok(
        AREA,
        format!("{} of {} backends are published, with {points} introduction points.", published.len(), backends.len()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{healthy, with_status};

    fn backend(name: &str, state: &str, points: u32, since: &str) -> Value {
        let message = (state == "Excluded").then_some("its congestion control differs");
        json!({"name": name, "state": state, "introductionPoints": points, "since": since, "message": message})
    }

    const LONG: &str = "2026-01-01T11:00:00Z";
    const SHORT: &str = "2026-01-01T11:59:30Z";

    fn found(backends: &[Value]) -> (Mark, String) {
        let mut facts = healthy();
        with_status(&mut facts, "backends", backends.into());
        let finding = examine(&facts);
        (finding.mark, finding.found)
    }

    #[test]
    fn published_backends_are_counted() {
        let backends =
            [backend("a", "Ready", 3, LONG), backend("b", "Waiting", 0, LONG), backend("c", "Draining", 0, SHORT)];
        let expected = "1 of 3 backends are published, with 3 introduction points.";
        assert_eq!(found(&backends), (Mark::Ok, expected.to_owned()));
    }

    #[test]
    fn backends_that_are_not_published_are_problems() {
        for (state, expected) in [
            ("Lost", "1 of 2 backends: lost: no answer, or no introduction points. b."),
            ("Excluded", "1 of 2 backends: excluded. b. its congestion control differs"),
            ("Unhealthy", "1 of 2 backends: withdrawn, because a target fails there. b."),
            ("Starting", "1 of 2 backends have no introduction points yet; b for 3600 s."),
        ] {
            let found = found(&[backend("a", "Ready", 3, LONG), backend("b", state, 0, LONG)]);
            assert_eq!(found, (Mark::Problem, expected.to_owned()));
        }
        assert_eq!(found(&[]).0, Mark::Problem);
        assert_eq!(found(&[backend("a", "Waiting", 0, LONG)]).0, Mark::Problem);
    }

    #[test]
    fn a_backend_that_has_just_started_is_a_warning() {
        let (mark, text) = found(&[backend("a", "Ready", 3, LONG), backend("b", "Starting", 0, SHORT)]);
        assert!(mark == Mark::Warning && text.ends_with("b for 30 s."), "{text}");
    }
}
