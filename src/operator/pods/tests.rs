use serde_json::{Value, json};

use super::*;

fn pod(status: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "web-backend-x", "namespace": "shop", "uid": "u",
            "labels": {"app.kubernetes.io/component": "backend", "onionbalance.dev/service": "web", "team": "a"},
        },
        "spec": {"containers": []},
        "status": {"phase": "Pending"},
    });
    for (field, value) in status.as_object().unwrap() {
        pod["status"][field] = value.clone();
    }
    // The cache holds shrunk pods only.
    let mut pod = serde_json::from_value(pod).unwrap();
    shrink(&mut pod);
    pod
}

fn container(name: &str, state: &Value) -> Value {
    json!({"name": name, "image": "tor:1", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn waits(reason: &str) -> Pod {
    let running = container("agent", &json!({"running": {}}));
    let waiting = container("tor", &json!({"waiting": {"reason": reason, "message": "rpc error"}}));
    pod(&json!({"containerStatuses": [running, waiting]}))
}

fn scheduled(status: &str, message: &str) -> Value {
    json!([
        {"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message,
         "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Ready", "status": "False"},
    ])
}

fn problem_of(pod: &Pod) -> Option<(Reason, String)> {
    state(pod).unwrap().problem.map(|problem| (problem.reason, problem.message))
}

fn at(second: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

fn event(kind: &str, reason: &str, message: &str, time: &str) -> CoreEvent {
    serde_json::from_value(json!({
        "metadata": {}, "involvedObject": {}, "type": kind, "reason": reason, "message": message, "lastTimestamp": time,
    }))
    .unwrap()
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_with_its_pod() {
    let message = "Pod web-backend-x: container tor: ImagePullBackOff: could not pull image \"tor:1\"; \
                   see `kubectl describe pod web-backend-x`.";
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        let pod = waits(reason);
        assert!(pod.spec.is_none() && pod.labels().len() == 2);
        assert_eq!(problem_of(&pod), Some((Reason::ImagePullFailed, message.to_owned())));
    }
    assert_eq!(problem_of(&waits("ContainerCreating")), None);
    assert_eq!(problem_of(&pod(&json!({}))), None);
}

#[test]
fn a_container_that_cannot_start_is_named_with_the_kubelets_words() {
    let message = |reason: &str| {
        let (found, message) = problem_of(&waits(reason)).unwrap();
        assert_eq!(found, Reason::PodsFailing);
        message
    };
    let expected = "Pod web-backend-x: container tor: CreateContainerConfigError: rpc error; ";
    assert!(message("CreateContainerConfigError").starts_with(expected));
    assert!(message("CrashLoopBackOff").starts_with("Pod web-backend-x: container tor: CrashLoopBackOff; "));
    let last = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
    let crashing = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}});
    let status = json!({"name": "tor", "image": "", "imageID": "", "ready": false, "restartCount": 9, "state": crashing, "lastState": last});
    let (_, message) = problem_of(&pod(&json!({"containerStatuses": [status]}))).unwrap();
    let expected = "container tor: CrashLoopBackOff: its last run ended with OOMKilled, exit code 137; ";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_pod_that_no_node_takes_is_named_with_the_schedulers_words() {
    let words = "0/1 nodes are available: 1 Insufficient memory.";
    let (reason, message) = problem_of(&pod(&json!({"conditions": scheduled("False", words)}))).unwrap();
    assert_eq!(reason, Reason::Unschedulable);
    let expected = "Pod web-backend-x: Unschedulable: 0/1 nodes are available: 1 Insufficient memory; see `kubectl";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(problem_of(&pod(&json!({"conditions": scheduled("True", "")}))), None);
}

#[test]
fn a_pod_that_its_node_rejects_is_named_with_the_kubelets_words() {
    let words = "Pod was rejected: Node didn't have enough resource: memory, requested: 2, used: 3, capacity: 4";
    let rejected = |status: &Value| {
        let mut pod = pod(status);
        pod.metadata.creation_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        pod
    };
    let status = json!({"phase": "Failed", "reason": "OutOfmemory", "message": words});
    let (reason, message) = problem_of(&rejected(&status)).unwrap();
    assert_eq!(reason, Reason::PodsFailing);
    let expected = format!("Pod web-backend-x: rejected by its node: OutOfmemory: {words}; see `kubectl");
    assert!(message.starts_with(&expected), "{message}");

    let state = state(&rejected(&status)).unwrap();
    assert_eq!((state.rejected, state.creating_since), (Some(at(0)), None));
    assert!(!state.is_outdated(at(300)) && state.is_outdated(at(301)));

    let ended = json!([container("tor", &json!({"terminated": {"exitCode": 1}}))]);
    for status in [
        json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": ended}),
        json!({"phase": "Failed", "reason": ""}),
        json!({"phase": "Succeeded", "reason": "OutOfmemory"}),
    ] {
        assert_eq!(super::state(&rejected(&status)), None, "{status}");
    }
    let mut leaving = rejected(&status);
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    assert_eq!(super::state(&leaving), None);
}

#[test]
fn the_creation_of_containers_takes_too_long_after_a_minute() {
    let creating = json!([container("tor", &json!({"waiting": {"reason": "ContainerCreating"}}))]);
    let running = json!([container("tor", &json!({"running": {}}))]);
    let assigned = scheduled("True", "");
    for (status, since) in [
        (json!({"conditions": assigned}), Some(0)),
        (json!({"conditions": assigned, "startTime": "2026-01-01T00:00:05Z"}), Some(5)),
        (json!({"conditions": assigned, "containerStatuses": creating}), Some(0)),
        (json!({"conditions": assigned, "containerStatuses": running}), None),
        (json!({"conditions": assigned, "phase": "Running"}), None),
        (json!({}), None),
    ] {
        let state = state(&pod(&status)).unwrap();
        assert_eq!(state.creating_since, since.map(at), "{status}");
        if let Some(since) = since {
            assert!(!state.is_stuck(at(since + 59)) && state.is_stuck(at(since + 60)), "{status}");
        }
    }
}

#[test]
fn a_stuck_pod_is_explained_by_the_newest_warning() {
    let mut state = state(&pod(&json!({"conditions": scheduled("True", "")}))).unwrap();
    let mut message = |events: &[CoreEvent]| {
        state.explain(events);
        state.problem.clone().unwrap().message
    };
    let beginning = "Pod web-backend-x: its containers have been in creation for over a minute: ";
    let expected = |cause: &str| format!("{beginning}{cause}; see `kubectl describe pod web-backend-x`.");
    assert_eq!(message(&[]), expected("its node reports no reason"));
    let events = [
        event("Normal", "Scheduled", "Successfully assigned", "2026-01-01T00:00:09Z"),
        event("Warning", "FailedMount", "secret \"a\" not found", "2026-01-01T00:00:05Z"),
        event("Warning", "FailedMount", "older", "2026-01-01T00:00:04Z"),
    ];
    assert_eq!(message(&events), expected("FailedMount: secret \"a\" not found"));
    assert_eq!(message(&events[..1]), expected("Scheduled: Successfully assigned"));
}

#[test]
fn a_quotation_has_one_line_and_no_numbers_of_attempts() {
    let sandbox = "0123456789abcdef".repeat(4);
    assert_eq!(quoted(&format!("network for \"{sandbox}\":\n plugin failed.")), "network for \"…\":  plugin failed");
    assert_eq!(quoted("pod abcdef-1234 é 5"), "pod abcdef-1234 é 5");
    assert_eq!(quoted(&"é".repeat(9999)).chars().count(), MAX_QUOTATION + 1);
}

#[test]
fn a_terminating_pod_is_still_running_and_a_finished_one_is_not() {
    let mut leaving = waits("ErrImagePull");
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(problem_of(&leaving), None);
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(state(&pod(&json!({"phase": phase}))), None);
    }
}

#[test]
fn only_a_change_of_the_state_triggers_a_reconciliation() {
    let mut known = KnownPods::default();
    let (web, nothing) = (vec![("shop".to_owned(), "web".to_owned())], Vec::new());
    assert_eq!(known.update(&Event::Apply(pod(&json!({})))), web);
    assert_eq!(known.update(&Event::Apply(pod(&json!({})))), nothing);
    assert_eq!(known.update(&Event::Apply(waits("ErrImagePull"))), web);
    assert_eq!(known.update(&Event::Apply(waits("ImagePullBackOff"))), nothing);
    assert_eq!(known.update(&Event::Delete(waits("ImagePullBackOff"))), web);
    assert_eq!(known.update(&Event::Delete(waits("ImagePullBackOff"))), nothing);
}

#[test]
fn a_pod_that_is_missing_in_a_new_listing_is_gone() {
    let mut known = KnownPods::default();
    let (web, nothing) = (vec![("shop".to_owned(), "web".to_owned())], Vec::new());
    known.update(&Event::Apply(pod(&json!({}))));
    let mut other = pod(&json!({}));
    other.metadata.uid = Some("v".to_owned());
    known.update(&Event::Apply(other.clone()));
    for event in [Event::Init, Event::InitApply(other)] {
        assert_eq!(known.update(&event), nothing);
    }
    assert_eq!(known.update(&Event::InitDone), web);
    assert_eq!(known.update(&Event::Delete(pod(&json!({})))), nothing, "the pod has been forgotten");
}
