use serde_json::{Value, json};

use super::*;
use crate::status::doctor::judge::tests::{forbidden, healthy, pod};

/// Returns the findings about the backends if they are these pods.
fn found(pods: Vec<Value>, events: Value) -> Vec<Finding> {
    let mut facts = healthy();
    let frontend = pod("web-frontend-a", "frontend", true);
    facts.pods = Ok(serde_json::from_value(pods.into_iter().chain([frontend]).collect()).unwrap());
    facts.events = Ok(serde_json::from_value(events).unwrap());
    let mut found = examine(&facts, facts.object().unwrap());
    assert_eq!(found.pop(), Some(Finding::ok("frontend pods", "1 of 1 pods are ready.")));
    found
}

/// Returns the text of the only finding about a backend that is not ready, beside one that is.
fn obstacle_of(status: Value, events: Value) -> (Mark, String, String) {
    let mut broken = pod("web-backend-b", "backend", false);
    broken["status"] = status;
    let found = found(vec![pod("web-backend-a", "backend", true), broken], events);
    let [Finding { mark, found, remedy: Some(remedy), .. }] = found.as_slice() else { panic!("{found:?}") };
    (*mark, found.clone(), remedy.commands.join("; "))
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({
        "phase": "Pending",
        "containerStatuses": [{
            "name": "agent", "image": "r.example/operator:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}},
        }],
    })
}

#[test]
fn ready_pods_are_counted() {
    let found = found(vec![pod("web-backend-a", "backend", true), pod("web-backend-b", "backend", true)], json!([]));
    assert_eq!(found, [Finding::ok("backend pods", "2 of 2 pods are ready.")]);
}

#[test]
fn pods_that_do_not_exist_are_a_problem() {
    let found = found(vec![pod("web-backend-a", "backend", true)], json!([]));
    assert_eq!((found[0].mark, found[0].found.as_str()), (Mark::Problem, "1 of 2 pods exist."));
    assert!(found[0].remedy.as_ref().unwrap().commands[0].starts_with("kubectl describe replicasets -n shop"));
}

#[test]
fn pods_that_cannot_be_listed_are_not_checked() {
    let mut facts = healthy();
    facts.pods = Err(forbidden("list"));
    let found = examine(&facts, facts.object().unwrap());
    assert_eq!((found.len(), found[0].mark), (1, Mark::Unchecked));
}

#[test]
fn a_pod_without_a_node_is_named_in_the_schedulers_words() {
    let scheduled = json!({"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available."});
    let (mark, text, _) = obstacle_of(json!({"phase": "Pending", "conditions": [scheduled]}), json!([]));
    assert_eq!((mark, text.as_str()), (Mark::Problem, "web-backend-b: no node: 0/3 nodes are available."));
}

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    let (mark, text, command) = obstacle_of(waiting("ImagePullBackOff", "Back-off"), json!([]));
    let expected = "web-backend-b: container agent: ImagePullBackOff: cannot pull image r.example/operator:1.";
    assert_eq!((mark, text.as_str()), (Mark::Problem, expected));
    assert!(command.starts_with("kubectl get events -n shop"), "{command}");
}

#[test]
fn a_container_that_waits_is_explained() {
    let (mark, text, command) = obstacle_of(waiting("CreateContainerConfigError", "secret \"x\" not found"), json!([]));
    let expected = "web-backend-b: container agent: CreateContainerConfigError: secret \"x\" not found.";
    assert_eq!((mark, text.as_str()), (Mark::Problem, expected));
    assert_eq!(command, "kubectl describe pod web-backend-b -n shop");
    let mut crashing = waiting("CrashLoopBackOff", "back-off 5m0s");
    crashing["containerStatuses"][0]["lastState"] = json!({"terminated": {"reason": "Error", "exitCode": 101}});
    let (_, text, _) = obstacle_of(crashing, json!([]));
    assert!(text.ends_with("CrashLoopBackOff: its last run ended with Error, exit code 101."), "{text}");
}

#[test]
fn a_volume_that_cannot_be_mounted_is_explained_by_the_event() {
    let creating = |start: &str| {
        let mut status = waiting("ContainerCreating", "");
        status["startTime"] = start.into();
        status
    };
    let event = json!({
        "metadata": {}, "involvedObject": {"kind": "Pod", "name": "web-backend-b"}, "type": "Warning",
        "reason": "FailedMount", "message": "MountVolume.SetUp failed: secret \"web-guards\" not found\n",
        "lastTimestamp": "2026-01-01T11:59:50Z",
    });
    let other = json!({
        "metadata": {}, "involvedObject": {"kind": "Pod", "name": "web-backend-c"}, "type": "Warning",
        "reason": "Other", "message": "of another pod", "lastTimestamp": "2026-01-01T11:59:59Z",
    });
    let (mark, text, _) = obstacle_of(creating("2026-01-01T11:59:40Z"), json!([other, event]));
    let expected = "web-backend-b: FailedMount: MountVolume.SetUp failed: secret \"web-guards\" not found.";
    assert_eq!((mark, text.as_str()), (Mark::Problem, expected));
    let (mark, text, _) = obstacle_of(creating("2026-01-01T11:59:40Z"), json!([]));
    assert!(mark == Mark::Warning && text.ends_with("being created for 20 s."), "{text}");
    assert_eq!(obstacle_of(creating("2026-01-01T11:50:00Z"), json!([])).0, Mark::Problem);
}

fn running(start: &str) -> Value {
    json!({
        "phase": "Running", "startTime": start,
        "containerStatuses": [{
            "name": "agent", "image": "o:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"running": {"startedAt": start}},
        }],
    })
}

#[test]
fn a_pod_that_has_just_started_is_a_warning_and_later_a_problem() {
    let (mark, text, _) = obstacle_of(running("2026-01-01T11:59:00Z"), json!([]));
    assert_eq!((mark, text.as_str()), (Mark::Warning, "web-backend-b: container agent is not ready yet."));
    let (mark, text, command) = obstacle_of(running("2026-01-01T11:50:00Z"), json!([]));
    assert_eq!((mark, text.as_str()), (Mark::Problem, "web-backend-b: container agent is not ready after 10 min."));
    let logs = "kubectl logs -n shop web-backend-b -c";
    assert_eq!(command, format!("{logs} agent; {logs} tor"));
}

#[test]
fn a_failed_pod_counts_only_until_another_one_replaces_it() {
    let mut failed = pod("web-backend-c", "backend", false);
    failed["status"] = json!({"phase": "Failed", "reason": "OutOfmemory", "message": "Node has no memory."});
    let ready = || vec![pod("web-backend-a", "backend", true), pod("web-backend-b", "backend", true)];
    let replaced = found(ready().into_iter().chain([failed.clone()]).collect(), json!([]));
    assert_eq!(replaced, [Finding::ok("backend pods", "2 of 2 pods are ready.")]);
    let found = found(vec![pod("web-backend-a", "backend", true), failed], json!([]));
    assert_eq!(found[1].found, "web-backend-c: failed: OutOfmemory Node has no memory.");
}

#[test]
fn a_recent_restart_is_a_warning() {
    let restarted = |finished: &str| {
        let mut pod = pod("web-backend-b", "backend", true);
        pod["status"]["containerStatuses"] = json!([{
            "name": "tor", "image": "t:1", "imageID": "", "ready": true, "restartCount": 4,
            "state": {"running": {}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": finished}},
        }]);
        found(vec![self::pod("web-backend-a", "backend", true), pod], json!([]))
    };
    let found = restarted("2026-01-01T11:30:00Z");
    let expected =
        "web-backend-b: container tor was restarted 4 times; its last run ended with OOMKilled, exit code 137.";
    assert_eq!((found[1].mark, found[1].found.as_str()), (Mark::Warning, expected));
    assert_eq!(restarted("2026-01-01T08:30:00Z").len(), 1, "restarts of hours ago are over");
}

#[test]
fn pods_with_the_same_obstacle_share_a_finding() {
    let pods = ["a", "b", "c"].map(|letter| {
        let mut pod = pod(&format!("web-backend-{letter}"), "backend", false);
        pod["status"] = waiting("ErrImagePull", "");
        pod
    });
    let found = found(pods.to_vec(), json!([]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].found.starts_with("web-backend-a and 2 more: container agent"), "{found:?}");
}

#[test]
fn events_are_missed_only_if_a_pod_is_not_ready() {
    let mut facts = healthy();
    facts.events = Err(forbidden("list"));
    let unread = |facts: &Facts| {
        examine(facts, facts.object().unwrap()).iter().filter(|finding| finding.mark == Mark::Unchecked).count()
    };
    assert_eq!(unread(&facts), 0);
    facts.pods = Ok(vec![serde_json::from_value(pod("web-backend-a", "backend", false)).unwrap()]);
    assert_eq!(unread(&facts), 1);
}
