//! Tests of the inputs for the engine and of the states of the backends.

use super::*;
use crate::frontend::targets::TargetReport;
use crate::link::{TargetHealth, TargetState};
use crate::merge::Outvoted;
use crate::merge::tests::network::point;
use crate::onion::ServiceContent;

fn id(uid: &str) -> BackendId {
    BackendId(uid.into())
}

fn pods(pods: &[(&str, bool)]) -> Arc<Pods> {
    let pod = |uid: &str, terminating| Pod { name: format!("pod-{uid}"), agent: None, ready: true, terminating };
    Arc::new(pods.iter().map(|(uid, terminating)| (id(uid), pod(uid, *terminating))).collect())
}

fn lost(inputs: impl IntoIterator<Item = Input>) -> Vec<BackendId> {
    let lost = |input| match input {
        Input::BackendLost(id) => id,
        other => panic!("{other:?}"),
    };
    inputs.into_iter().map(lost).collect()
}

#[test]
fn terminating_and_vanished_pods_lose_their_points_once() {
    let mut backends = Backends::default();
    assert_eq!(lost(backends.pods(pods(&[("a", false), ("b", false), ("c", false)]))), []);
    assert_eq!(lost(backends.pods(pods(&[("a", true), ("c", false)]))), [id("a"), id("b")]);
    assert_eq!(lost(backends.pods(pods(&[("a", true), ("c", false)]))), []);
    assert_eq!(lost(backends.pods(pods(&[]))), [id("c")]);
}

#[test]
fn a_silent_backend_is_lost_unless_its_pod_is_terminating_or_has_vanished() {
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false), ("b", true)]));
    assert_eq!(lost(backends.report(id("a"), AgentReport::Silent)), [id("a")]);
    assert_eq!(lost(backends.report(id("b"), AgentReport::Silent)), []);
    assert_eq!(lost(backends.report(id("gone"), AgentReport::Silent)), []);
    assert_eq!(backends.terminating().collect::<Vec<_>>(), [&id("b")]);
}

#[test]
fn a_backend_that_answers_without_points_is_lost() {
    let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false), ("b", true)]));
    assert_eq!(lost(backends.report(id("a"), AgentReport::NoPoints(address))), [id("a")]);
    assert_eq!(lost(backends.report(id("b"), AgentReport::NoPoints(address))), [], "the pod is terminating");
}

/// Returns a report on port 80.
fn target(round: u64, state: TargetState, fresh: bool) -> AgentNews {
    let problem = (state == TargetState::Failing).then(|| "cannot connect".to_owned());
    AgentNews::Targets(TargetReport {
        round,
        ports: vec![TargetHealth { port: 80, state, fresh: Some(fresh), problem }],
    })
}

#[test]
fn a_backend_whose_target_fails_is_lost_while_another_one_passes() {
    let mut backends = Backends::default();
    backends.set_leads(true);
    backends.pods(pods(&[("a", false), ("b", false)]));
    for name in ["a", "b"] {
        backends.report(id(name), points(false));
    }
    let (passing, failing) = (TargetState::Passing, TargetState::Failing);
    assert_eq!(lost(backends.take(id("a"), target(0, failing, false))), [], "nothing is known about b");
    assert_eq!(lost(backends.take(id("b"), target(0, passing, true))), []);
    assert_eq!(lost(backends.take(id("b"), target(1, passing, true))), []);
    assert_eq!(backends.expected().collect::<Vec<_>>(), [&id("a"), &id("b")]);
    assert_eq!(lost(backends.take(id("a"), target(2, failing, false))), [id("a")]);
    assert_eq!(backends.expected().collect::<Vec<_>>(), [&id("b")], "a is not waited for");
    assert_eq!(lost(backends.report(id("a"), points(true))), [id("a")], "new points stay unpublished");
    let view = backends.views(&Status::default(), SystemTime::UNIX_EPOCH).remove(0);
    assert_eq!(view.state, BackendState::Unhealthy);
    assert_eq!(view.failing, BTreeMap::from([(80, "cannot connect".to_owned())]));
    // The other backend is about to stop, so this one returns.
    let inputs = backends.pods(pods(&[("a", false), ("b", true)]));
    assert!(matches!(&inputs[..], [Input::BackendLost(gone), Input::Backend(back, _)]
        if *gone == id("b") && *back == id("a")));
}

#[test]
fn a_new_leader_does_not_publish_a_failing_backend_before_the_comparison_has_ended() {
    let (passing, failing) = (TargetState::Passing, TargetState::Failing);
    let mut backends = Backends::default();
    backends.set_leads(true);
    backends.pods(pods(&[("a", false), ("b", false)]));
    // Each answer of an agent contains both, and the health comes first.
    assert_eq!(lost(backends.take(id("a"), target(0, failing, false))), []);
    assert_eq!(lost(backends.take(id("a"), AgentNews::Backend(points(false)))), [id("a")], "b is not known yet");
    assert_eq!(lost(backends.take(id("b"), target(0, passing, true))), []);
    let inputs = backends.take(id("b"), AgentNews::Backend(points(false)));
    assert!(matches!(&inputs[..], [Input::Backend(published, _)] if *published == id("b")), "{inputs:?}");
    assert_eq!(backends.expected().collect::<Vec<_>>(), [&id("b")], "a is not waited for");
    assert_eq!(backends.targets().round(), 1);
    // Before the comparison has ended, the target of a passes again.
    let inputs = backends.take(id("a"), target(1, passing, true));
    assert!(matches!(&inputs[..], [Input::Backend(published, _)] if *published == id("a")), "{inputs:?}");
}

#[test]
fn since_is_the_time_at_which_the_state_began() {
    let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false)]));
    let state = |backends: &mut Backends, seconds| {
        let view = backends.views(&Status::default(), at(seconds)).remove(0);
        (view.state, view.since)
    };
    assert_eq!(state(&mut backends, 10), (BackendState::Starting, at(10)));
    assert_eq!(state(&mut backends, 20), (BackendState::Starting, at(10)));
    backends.pods(pods(&[("a", true)]));
    assert_eq!(state(&mut backends, 30), (BackendState::Draining, at(30)));
}

#[test]
fn the_state_follows_from_the_pod_the_agent_and_the_engine() {
    let pod = |terminating| Pod { name: "a".into(), agent: None, ready: true, terminating };
    let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
    let none = AgentReport::NoPoints(address);
    let lost = BackendState::Lost;
    assert_eq!(state(&pod(false), None, Usage::Unused, false), BackendState::Starting);
    assert_eq!(state(&pod(false), Some(&none), Usage::Unused, false), BackendState::Starting);
    assert_eq!(state(&pod(false), Some(&none), Usage::Unused, true), lost);
    assert_eq!(
        state(&pod(false), Some(&AgentReport::Silent), Usage::Published, true),
        lost,
        "the last descriptor stays published"
    );
    assert_eq!(
        state(&pod(false), Some(&AgentReport::Silent), Usage::Waiting, true),
        lost,
        "the engine will soon be informed"
    );
    assert_eq!(state(&pod(true), Some(&none), Usage::Published, true), BackendState::Draining);
}

#[test]
fn a_backend_that_waits_for_its_turn_is_not_lost() {
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false)]));
    let mut state = |report: Option<AgentReport>, points, waits: bool| {
        if let Some(report) = report {
            backends.report(id("a"), report);
        }
        let waiting = waits.then(|| id("a")).into_iter().collect();
        let status = Status { points: vec![(id("a"), points)], waiting, ..Status::default() };
        backends.views(&status, SystemTime::UNIX_EPOCH).remove(0).state
    };
    assert_eq!(state(Some(points(false)), 0, false), BackendState::Starting, "the engine has not selected points yet");
    assert_eq!(state(None, 0, true), BackendState::Waiting);
    assert_eq!(state(None, 3, false), BackendState::Ready);
    assert_eq!(state(None, 0, true), BackendState::Waiting);
    assert_eq!(state(Some(AgentReport::Silent), 0, false), BackendState::Lost);
}

#[test]
fn an_outvoted_backend_is_excluded_and_its_message_says_why() {
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false)]));
    let mut view = |report: Option<AgentReport>, points, outvoted: bool| {
        if let Some(report) = report {
            backends.report(id("a"), report);
        }
        let outvoted = outvoted.then(|| (id("a"), Outvoted { own: None, increment: 31 })).into_iter().collect();
        let status = Status { points: vec![(id("a"), points)], outvoted, ..Status::default() };
        let view = backends.views(&status, SystemTime::UNIX_EPOCH).remove(0);
        (view.state, view.message)
    };
    let (state, message) = view(Some(points(true)), 0, true);
    assert_eq!(state, BackendState::Excluded);
    let message = message.unwrap();
    assert!(message.starts_with("it is not published, because its descriptor has no flow-control"), "{message}");
    assert!(message.contains("; its proof-of-work defence"), "{message}");
    assert_eq!(view(Some(points(false)), 3, true), (BackendState::Ready, None), "a new round is about to begin");
    assert_eq!(view(Some(AgentReport::Silent), 0, false), (BackendState::Lost, None));
}

#[test]
fn a_limit_below_the_number_of_points_is_remarked_as_soon_as_it_is_known() {
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false)]));
    let offered = (1..=5).map(|number| point(number, number));
    let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
    let content = Arc::new(ServiceContent::plain(offered.collect()));
    let mut message = |usual| {
        backends.set_limits(&PointLimits { usual, ..PointLimits::default() });
        backends.report(id("a"), AgentReport::Points(address, content.clone()));
        backends.set_limits(&PointLimits { usual: usual + 1, ..PointLimits::default() });
        backends.views(&Status::default(), SystemTime::UNIX_EPOCH).remove(0).message
    };
    assert!(message(2).unwrap().starts_with("it offers 5 introduction points, but only 3 of them are published"));
    assert_eq!(message(4), None);
}

fn points(pow_params: bool) -> AgentReport {
    let address = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
    let content = ServiceContent { pow_params, ..ServiceContent::plain(Vec::new()) };
    AgentReport::Points(address, Arc::new(content))
}

#[test]
fn the_message_names_unpublished_features_while_they_last() {
    let mut backends = Backends::default();
    backends.pods(pods(&[("a", false)]));
    let mut report = |pow_params| {
        backends.report(id("a"), points(pow_params));
        backends.views(&Status::default(), SystemTime::UNIX_EPOCH).remove(0).message
    };
    assert_eq!(report(false), None);
    assert!(report(true).unwrap().starts_with("its proof-of-work defence protects its own address only"));
    assert_eq!(report(false), None);
}

#[test]
fn views_are_sorted_by_name() {
    let mut backends = Backends::default();
    let pod = |name: &str| Pod { name: name.into(), agent: None, ready: true, terminating: false };
    backends.pods(Arc::new(Pods::from([(id("1"), pod("z")), (id("2"), pod("a"))])));
    let views = backends.views(&Status::default(), SystemTime::UNIX_EPOCH);
    let names: Vec<_> = views.into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["a", "z"]);
}
