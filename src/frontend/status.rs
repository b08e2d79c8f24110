//! Writes the publisher's part of the object's status: `backends`, `published`, `probes` and
//! `guards`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::guard_view::GuardView;
use super::metrics::VanguardFigures;
use super::object::Object;
use super::view::BackendView;
use crate::common::complaint::{Complaint, cause};
use crate::crd::{
    BackendState, BackendStatus, GuardsProblem, GuardsStatus, OnionBalancedService, PUBLISHER_MANAGER, ProbeStatus,
    PublishedStatus, VanguardsStatus,
};
use crate::merge::PeriodStatus;

/// The shortest time between two writes of the status, and the pause before a failed write is
/// repeated.
const PAUSE: Duration = Duration::from_secs(5);
/// The maximum time that the API server may take to respond.
const DEADLINE: Duration = Duration::from_secs(10);

/// The facts from which the status is computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// True if this publisher is the leader. Only the leader writes the status.
    pub(super) leading: bool,
    /// The state of each backend.
    pub(super) backends: Vec<BackendView>,
    /// The published descriptors of each time period.
    pub(super) periods: Vec<PeriodStatus>,
    /// The number of authorized clients that belong to the publisher itself.
    pub(super) own_clients: usize,
    /// The ports that are probed. None of them is probed if the list is empty.
    pub(super) probed: Vec<u16>,
    /// The results of this publisher's last probes.
    pub(super) probes: Vec<ProbeStatus>,
    /// The shared guards. None if the pods share no guards.
    pub(super) guards: Option<GuardView>,
    /// The numbers of vanguards.
    pub(super) vanguards: VanguardFigures,
}

/// The publisher's part of the status.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Part {
    backends: Vec<BackendStatus>,
    published: Vec<PublishedStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<ProbeStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guards: Option<GuardsStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vanguards: Option<VanguardsStatus>,
}

/// Keeps the object's status up to date until the sender of `facts` is dropped.
pub(super) async fn run(
    client: Client,
    namespace: &str,
    service: &str,
    object: watch::Receiver<Option<Arc<Object>>>,
    mut facts: watch::Receiver<Facts>,
) {
    let api: Api<OnionBalancedService> = Api::namespaced(client, namespace);
    let mut last: Option<Last> = None;
    let mut complaint = Complaint::default();
    while facts.changed().await.is_ok() {
        loop {
            let now = facts.borrow_and_update().clone();
            let Some(object) = object.borrow().clone().filter(|_| now.leading) else {
                last = None;
                break;
            };
            // An object that has been deleted and created again has no status.
            let before = last.take().filter(|last| last.uid == object.uid);
            let before = before.unwrap_or_else(|| Last::publishers(&object));
            let wanted = part(&now, &before.part);
            if before.written && before.part == wanted {
                last = Some(before);
                break;
            }
            let written = match timeout(DEADLINE, apply(&api, service, &wanted)).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    complaint.utter("could not write the status", &cause(&error));
                    false
                }
                Err(elapsed) => {
                    complaint.utter("could not write the status", &elapsed);
                    false
                }
            };
            if written {
                complaint.settle();
            }
            last = Some(Last { uid: object.uid.clone(), part: wanted, written });
            sleep(PAUSE).await;
        }
    }
}

/// The publisher's part of an object's status as it was last written or read.
struct Last {
    /// The UID of the object.
    uid: String,
    part: Part,
    /// True if this publisher wrote `part` to the API server.
    written: bool,
}

impl Last {
    /// Returns the part of the status that the previous publisher left in the object.
    fn publishers(object: &Object) -> Self {
        let part = Part {
            backends: object.backends.clone(),
            published: object.published.clone(),
            probes: object.probes.clone(),
            guards: object.guards.clone(),
            vanguards: object.vanguards,
        };
        Self { uid: object.uid.clone(), part, written: false }
    }
}

async fn apply(api: &Api<OnionBalancedService>, service: &str, part: &Part) -> kube::Result<()> {
    let patch = serde_json::json!({
        "apiVersion": OnionBalancedService::api_version(&()),
        "kind": OnionBalancedService::kind(&()),
        "metadata": { "name": service },
        "status": part,
    });
    // Only the metadata of the response is parsed, because an object of a newer operator may have
    // fields that this version rejects.
    let api: Api<kube::core::PartialObjectMeta<OnionBalancedService>> =
        Api::namespaced(api.clone().into_client(), api.namespace().unwrap_or_default());
    let params = PatchParams::apply(PUBLISHER_MANAGER).force();
    api.patch_status(service, &params, &Patch::Apply(&patch)).await.map(drop)
}

/// Computes the publisher's part of the status from the facts and the previous status.
///
/// A backend keeps its `since` as long as its state is the same, even if the leader changes.
/// `published` keeps the entries of the previous publisher until this one has published, and
/// `probes` keeps the entry of each port until this publisher has probed the port. The `since` of a
/// probe changes only with its result, so that repeated results cause no writes. `guards` keeps the
/// entry of the previous publisher until this one knows the shared guards.
fn part(facts: &Facts, before: &Part) -> Part {
    let since = |view: &BackendView| {
        let known = before.backends.iter().find(|known| known.name == view.name && known.state == view.state);
        known.map_or_else(|| time(view.since), |known| known.since.clone())
    };
    let backends = facts.backends.iter().map(|view| BackendStatus {
        name: view.name.clone(),
        onion_address: view.onion_address.clone(),
        introduction_points: count(view.points),
        state: view.state,
        failing_ports: view.failing.keys().copied().collect(),
        message: message(view),
        since: since(view),
    });
    let published = facts.periods.iter().map(|period| PublishedStatus {
        time_period: period.period.number,
        revision_counter: period.revision_counter,
        introduction_points: count(period.introduction_points),
        hsdirs_accepted: count(period.hsdirs_accepted),
        hsdirs_total: count(period.hsdirs_total),
        last_published: time(period.last_published),
        authorized_clients: period.authorized_clients.map(|clients| count(clients.saturating_sub(facts.own_clients))),
        foreign_publisher: period.foreign.map(time),
    });
    let published = if facts.periods.is_empty() { before.published.clone() } else { published.collect() };
    let probe = |port: &u16| {
        let of_port = |probes: &[ProbeStatus]| probes.iter().find(|probe| probe.port == *port).cloned();
        let (known, new) = (of_port(&before.probes), of_port(&facts.probes));
        match (known, new) {
            (Some(known), Some(new)) if known.result == new.result => Some(ProbeStatus { since: known.since, ..new }),
            (known, new) => new.or(known),
        }
    };
    let probes = facts.probed.iter().filter_map(probe).collect();
    let guards = facts.guards.as_ref().and_then(|view| guards(view).or_else(|| before.guards.clone()));
    let vanguards = facts.vanguards.shared.then(|| VanguardsStatus {
        second_hop: count(facts.vanguards.sizes[0]),
        third_hop: count(facts.vanguards.sizes[1]),
        outdated: count(facts.vanguards.outdated),
    });
    Part { backends: backends.collect(), published, probes, guards, vanguards }
}

/// Returns the status of the shared guards, or None while this publisher does not know them.
fn guards(view: &GuardView) -> Option<GuardsStatus> {
    let problem = view.problem.as_ref().map(|problem| GuardsProblem {
        kind: problem.kind,
        message: problem.message.clone(),
        noticed: time(problem.noticed),
    });
    let is_known = view.figures.shared > 0 || problem.is_some();
    is_known.then(|| GuardsStatus {
        shared: count(view.figures.shared),
        unlisted: count(view.unlisted),
        in_use: count(view.figures.preferred),
        problem,
    })
}

/// Returns the `message` of a backend: remarks on its descriptor, and the reasons why it is waiting
/// or withdrawn.
fn message(view: &BackendView) -> Option<String> {
    const WAITS: &str = "its introduction points wait for their turn: there are more points than the descriptors can \
         hold, and turns change at most once an hour";
    let waits = (view.state == BackendState::Waiting).then_some(WAITS);
    let failing = view.failing.iter().map(|(port, problem)| match problem.as_str() {
        "" => format!("the target of port {port} fails its checks"),
        problem => format!("the target of port {port} fails its checks: {problem}"),
    });
    let messages: Vec<String> =
        view.message.as_deref().into_iter().chain(waits).map(ToOwned::to_owned).chain(failing).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Rounds a time to whole seconds, the precision of the API server.
pub(super) fn time(time: SystemTime) -> Time {
    let time = Timestamp::try_from(time).and_then(|time| time.round(Unit::Second));
    Time(time.unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{GuardsProblemKind, ProbeResult};
    use crate::frontend::guard_view::GuardProblem;
    use crate::frontend::metrics::GuardFigures;
    use crate::onion::TimePeriod;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn facts(state: BackendState, points: usize, since: u64) -> Facts {
        let view = BackendView {
            name: "a".into(),
            onion_address: None,
            points,
            state,
            since: at(since),
            message: None,
            failing: std::collections::BTreeMap::new(),
        };
        Facts { leading: true, backends: vec![view], ..Facts::default() }
    }

    fn period(accepted: usize) -> PeriodStatus {
        PeriodStatus {
            period: TimePeriod { number: 20_500, length_minutes: 1440 },
            revision_counter: 7,
            introduction_points: 6,
            descriptors: 1,
            hsdirs_accepted: accepted,
            hsdirs_rejected: 0,
            hsdirs_total: 8,
            last_published: at(100) + Duration::from_millis(1),
            authorized_clients: None,
            foreign: None,
        }
    }

    #[test]
    fn since_changes_only_with_the_state() {
        let first = part(&facts(BackendState::Starting, 0, 10), &Part::default());
        assert_eq!(first.backends[0].since, time(at(10)));
        let same = part(&facts(BackendState::Starting, 0, 20), &first);
        assert_eq!(same, first);
        let ready = part(&facts(BackendState::Ready, 3, 30), &same);
        assert_eq!(ready.backends[0].since, time(at(30)));
        let fewer = part(&facts(BackendState::Ready, 2, 40), &ready);
        assert_eq!(fewer.backends[0].since, time(at(30)));
        assert_ne!(fewer, ready, "its points changed");
    }

    #[test]
    fn a_new_leader_keeps_entries_that_are_still_true() {
        let before = part(&Facts { periods: vec![period(8)], ..facts(BackendState::Ready, 3, 10) }, &Part::default());
        let object =
            Object { backends: before.backends.clone(), published: before.published.clone(), ..Object::default() };
        assert_eq!(part(&facts(BackendState::Ready, 3, 99), &Last::publishers(&object).part), before);
        let now = Facts { periods: vec![period(3)], ..facts(BackendState::Ready, 3, 99) };
        assert_eq!(part(&now, &Last::publishers(&object).part).published[0].hsdirs_accepted, 3);
    }

    fn probe(port: u16, result: ProbeResult) -> ProbeStatus {
        ProbeStatus { port, result, message: None, since: time(at(5)) }
    }

    #[test]
    fn a_port_keeps_its_result_until_it_is_probed_again() {
        let with = |ports: &[u16], probes: Vec<ProbeStatus>| Facts {
            probed: ports.to_vec(),
            probes,
            ..facts(BackendState::Ready, 3, 10)
        };
        let (good, bad) = (probe(80, ProbeResult::Answered), probe(443, ProbeResult::TargetFailed));
        let before = Part { probes: vec![good.clone(), bad.clone()], ..Part::default() };
        assert_eq!(part(&with(&[80, 443], Vec::new()), &before).probes, [good.clone(), bad.clone()]);
        let again = ProbeStatus { since: time(at(9)), ..good.clone() };
        assert_eq!(part(&with(&[80], vec![again]), &before).probes, std::slice::from_ref(&good), "the same result");
        let now = ProbeStatus { since: time(at(9)), ..probe(80, ProbeResult::RendezvousFailed) };
        assert_eq!(part(&with(&[80, 443], vec![now.clone()]), &before).probes, [now, bad]);
        assert_eq!(part(&with(&[80], Vec::new()), &before).probes, [good], "the service lost a port");
        assert!(part(&with(&[], Vec::new()), &before).probes.is_empty(), "the probe is switched off");
    }

    #[test]
    fn a_new_leader_keeps_the_report_on_the_guards_until_it_knows_them() {
        let view = |shared, preferred, problem| GuardView {
            figures: GuardFigures { shared, preferred, in_use: 1, problem: None },
            unlisted: 1,
            problem,
        };
        let problem = GuardProblem { kind: GuardsProblemKind::Replaced, message: "why".to_owned(), noticed: at(7) };
        let with = |guards| Facts { guards, ..facts(BackendState::Ready, 3, 10) };
        let first = part(&with(Some(view(20, 1, Some(problem)))), &Part::default());
        let noticed = first.guards.as_ref().and_then(|guards| guards.problem.as_ref()).map(|it| it.noticed.clone());
        assert_eq!(noticed, Some(time(at(7))));
        assert_eq!(part(&with(Some(view(0, 0, None))), &first).guards, first.guards);
        let known = part(&with(Some(view(20, 2, None))), &first).guards;
        assert_eq!(known, Some(GuardsStatus { shared: 20, unlisted: 1, in_use: 2, problem: None }));
        assert_eq!(part(&with(None), &first).guards, None, "the pods share no guards");
    }

    #[test]
    fn the_vanguards_are_reported_if_the_pods_share_them() {
        let reported = |shared| {
            let vanguards = VanguardFigures { shared, sizes: [4, 6], replaced: [9, 9], outdated: 1 };
            part(&Facts { vanguards, ..facts(BackendState::Ready, 3, 10) }, &Part::default()).vanguards
        };
        assert_eq!(reported(true), Some(VanguardsStatus { second_hop: 4, third_hop: 6, outdated: 1 }));
        assert_eq!(reported(false), None);
    }

    #[test]
    fn the_probes_own_client_is_not_counted() {
        let of = |clients: Option<usize>, own_clients| {
            let periods = vec![PeriodStatus { authorized_clients: clients, ..period(8) }];
            let facts = Facts { periods, own_clients, ..facts(BackendState::Ready, 3, 10) };
            part(&facts, &Part::default()).published[0].authorized_clients
        };
        assert_eq!([of(None, 0), of(Some(2), 0), of(Some(2), 1), of(Some(0), 1)], [None, Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn the_message_explains_why_a_backend_waits() {
        let message = |state, own: Option<&str>| {
            let mut facts = facts(state, 0, 10);
            facts.backends[0].message = own.map(ToOwned::to_owned);
            part(&facts, &Part::default()).backends[0].message.clone()
        };
        assert_eq!(message(BackendState::Ready, None), None);
        assert_eq!(message(BackendState::Ready, Some("its own")), Some("its own".to_owned()));
        let waits = message(BackendState::Waiting, None).unwrap();
        assert!(waits.starts_with("its introduction points wait for their turn: "), "{waits}");
        assert_eq!(message(BackendState::Waiting, Some("its own")), Some(format!("its own; {waits}")));
    }

    #[test]
    fn the_failing_ports_are_listed_and_explained() {
        let mut facts = facts(BackendState::Unhealthy, 0, 10);
        facts.backends[0].failing = [(80, "cannot connect".to_owned()), (443, String::new())].into();
        let backend = part(&facts, &Part::default()).backends.remove(0);
        assert_eq!(backend.failing_ports, [80, 443]);
        let message = "the target of port 80 fails its checks: cannot connect; the target of port 443 fails its checks";
        assert_eq!(backend.message.as_deref(), Some(message));
    }

    #[test]
    fn matches_the_schema_of_the_custom_resource() {
        let part = part(&Facts { periods: vec![period(8)], ..facts(BackendState::Ready, 3, 10) }, &Part::default());
        assert_eq!(
            serde_json::to_value(part).unwrap(),
            serde_json::json!({
                "backends": [
                    { "name": "a", "introductionPoints": 3, "state": "Ready", "since": "1970-01-01T00:00:10Z" },
                ],
                "published": [{
                    "timePeriod": 20500, "revisionCounter": 7, "introductionPoints": 6, "hsdirsAccepted": 8,
                    "hsdirsTotal": 8, "lastPublished": "1970-01-01T00:01:40Z",
                }],
            })
        );
    }
}
