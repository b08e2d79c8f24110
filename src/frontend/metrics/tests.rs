//! Tests of the metrics page.

use super::*;
use crate::common::exposition::page;
use crate::frontend::probe::Measured;
use crate::onion::TimePeriod;
use crate::onion::kit::CoverageState;

/// Returns sample values, with backends in several states and descriptors of a single time
/// period.
fn figures() -> Figures {
    let backend = |state| BackendView {
        name: "a".into(),
        onion_address: None,
        points: 3,
        state,
        since: SystemTime::UNIX_EPOCH,
        message: (state == BackendState::Lost).then(|| "its proof of work".to_owned()),
        failing: (state == BackendState::Waiting).then(|| (80, "no".to_owned())).into_iter().collect(),
    };
    let period = PeriodStatus {
        period: TimePeriod { number: 20_500, length_minutes: 1440 },
        revision_counter: 1,
        introduction_points: 6,
        descriptors: 1,
        hsdirs_accepted: 7,
        hsdirs_rejected: 0,
        hsdirs_total: 8,
        last_published: SystemTime::UNIX_EPOCH,
        authorized_clients: None,
        foreign: None,
    };
    let mut counts = Counts { rounds: 2, fetches: FetchCounts { found: 5, failed: 2 }, ..Counts::default() };
    for result in [Ok(()), Ok(()), Err(UploadError::Rejected), Err(UploadError::Refused("552 no".to_owned()))] {
        counts.uploaded(&result);
    }
    Figures {
        tor_up: true,
        leading: false,
        backends: [BackendState::Ready, BackendState::Ready, BackendState::Waiting, BackendState::Lost]
            .map(backend)
            .into(),
        periods: vec![period],
        hsdirs_failing: 1,
        longest_failing: Duration::from_millis(1500),
        counter_rises: 4,
        coverage: Some(Coverage {
            until: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)),
            missing: 1,
            days_left: 0,
            state: CoverageState::Missing,
        }),
        counts,
        guards: GuardFigures { shared: 20, preferred: 1, in_use: 1, problem: Some(GuardsProblemKind::Replaced) },
        vanguards: VanguardFigures { shared: true, sizes: [4, 6], replaced: [5, 90], outdated: 2 },
        probes: BTreeMap::new(),
    }
}

/// The page with these values.
const PAGE: &str = concat!(
    "\
# HELP onionbalance_publisher_build_info Always 1, with the version of the program
# TYPE onionbalance_publisher_build_info gauge
onionbalance_publisher_build_info{version=\"",
    env!("CARGO_PKG_VERSION"),
    "\"} 1
# HELP onionbalance_publisher_tor_up 1 if the publisher has a control connection to a bootstrapped tor
# TYPE onionbalance_publisher_tor_up gauge
onionbalance_publisher_tor_up 1
# HELP onionbalance_publisher_leading 1 if this publisher is the leader, which alone publishes
# TYPE onionbalance_publisher_leading gauge
onionbalance_publisher_leading 0
# HELP onionbalance_publisher_backends Backends by state
# TYPE onionbalance_publisher_backends gauge
onionbalance_publisher_backends{state=\"Starting\"} 0
onionbalance_publisher_backends{state=\"Ready\"} 2
onionbalance_publisher_backends{state=\"Waiting\"} 1
onionbalance_publisher_backends{state=\"Excluded\"} 0
onionbalance_publisher_backends{state=\"Unhealthy\"} 0
onionbalance_publisher_backends{state=\"Draining\"} 0
onionbalance_publisher_backends{state=\"Lost\"} 1
# HELP onionbalance_publisher_backends_curtailed Backends with something in their descriptor that cannot be published
# TYPE onionbalance_publisher_backends_curtailed gauge
onionbalance_publisher_backends_curtailed 1
# HELP onionbalance_publisher_backends_failing Backends that report a failing target
# TYPE onionbalance_publisher_backends_failing gauge
onionbalance_publisher_backends_failing 1
# HELP onionbalance_publisher_revision Revision counter of the newest descriptors
# TYPE onionbalance_publisher_revision gauge
onionbalance_publisher_revision{period=\"20500\"} 1
# HELP onionbalance_publisher_introduction_points Introduction points in the newest descriptors
# TYPE onionbalance_publisher_introduction_points gauge
onionbalance_publisher_introduction_points{period=\"20500\"} 6
# HELP onionbalance_publisher_distinct_descriptors Distinct descriptors that the HSDirs should hold now
# TYPE onionbalance_publisher_distinct_descriptors gauge
onionbalance_publisher_distinct_descriptors{period=\"20500\"} 1
# HELP onionbalance_publisher_hsdirs_accepted HSDirs that accepted the newest descriptor
# TYPE onionbalance_publisher_hsdirs_accepted gauge
onionbalance_publisher_hsdirs_accepted{period=\"20500\"} 7
# HELP onionbalance_publisher_hsdirs Responsible HSDirs
# TYPE onionbalance_publisher_hsdirs gauge
onionbalance_publisher_hsdirs{period=\"20500\"} 8
# HELP onionbalance_publisher_hsdirs_failing HSDirs that lack the newest descriptor because their uploads fail
# TYPE onionbalance_publisher_hsdirs_failing gauge
onionbalance_publisher_hsdirs_failing 1
# HELP onionbalance_publisher_hsdirs_failing_seconds Time for which the uploads to one of these HSDirs have failed, at most
# TYPE onionbalance_publisher_hsdirs_failing_seconds gauge
onionbalance_publisher_hsdirs_failing_seconds 1
# HELP onionbalance_publisher_revision_rises_total Descriptors with a greater revision counter because HSDirs rejected the last ones
# TYPE onionbalance_publisher_revision_rises_total counter
onionbalance_publisher_revision_rises_total 4
# HELP onionbalance_publisher_foreign_publisher 1 if another publisher with the same master key was noticed in the last hours
# TYPE onionbalance_publisher_foreign_publisher gauge
onionbalance_publisher_foreign_publisher 0
# HELP onionbalance_publisher_signing_keys_end_seconds Unix time at which the signing kits end, or 0 if they have ended
# TYPE onionbalance_publisher_signing_keys_end_seconds gauge
onionbalance_publisher_signing_keys_end_seconds 1800000000
# HELP onionbalance_publisher_signing_keys_missing Time periods to publish now that no signing kit covers
# TYPE onionbalance_publisher_signing_keys_missing gauge
onionbalance_publisher_signing_keys_missing 1
# HELP onionbalance_publisher_descriptors_total Descriptors built, counting the distinct descriptors of one time period as one
# TYPE onionbalance_publisher_descriptors_total counter
onionbalance_publisher_descriptors_total 2
# HELP onionbalance_publisher_uploads_total Uploads to individual HSDirs, by result
# TYPE onionbalance_publisher_uploads_total counter
onionbalance_publisher_uploads_total{result=\"accepted\"} 2
onionbalance_publisher_uploads_total{result=\"rejected\"} 1
onionbalance_publisher_uploads_total{result=\"failed\"} 1
# HELP onionbalance_publisher_external_fetches_total Requests to individual HSDirs for descriptors of external backends, by result
# TYPE onionbalance_publisher_external_fetches_total counter
onionbalance_publisher_external_fetches_total{result=\"found\"} 5
onionbalance_publisher_external_fetches_total{result=\"failed\"} 2
# HELP onionbalance_publisher_guards Entry guards that all tors of the service share
# TYPE onionbalance_publisher_guards gauge
onionbalance_publisher_guards 20
# HELP onionbalance_publisher_guards_preferred Distinct entry guards that the tors of the service try first
# TYPE onionbalance_publisher_guards_preferred gauge
onionbalance_publisher_guards_preferred 1
# HELP onionbalance_publisher_guards_allowed Distinct entry guards that the tors of the service may try first
# TYPE onionbalance_publisher_guards_allowed gauge
onionbalance_publisher_guards_allowed 1
# HELP onionbalance_publisher_guards_problem 1 if the guards' Secret had this problem in the last hour
# TYPE onionbalance_publisher_guards_problem gauge
onionbalance_publisher_guards_problem{kind=\"Replaced\"} 1
onionbalance_publisher_guards_problem{kind=\"NotKept\"} 0
# HELP onionbalance_publisher_vanguards Relays in each layer of vanguards that all tors of the service share
# TYPE onionbalance_publisher_vanguards gauge
onionbalance_publisher_vanguards{layer=\"2\"} 4
onionbalance_publisher_vanguards{layer=\"3\"} 6
# HELP onionbalance_publisher_vanguards_chosen_total Relays chosen as shared vanguards, by layer
# TYPE onionbalance_publisher_vanguards_chosen_total counter
onionbalance_publisher_vanguards_chosen_total{layer=\"2\"} 5
onionbalance_publisher_vanguards_chosen_total{layer=\"3\"} 90
# HELP onionbalance_publisher_vanguards_outdated Backends whose tor does not use the present shared vanguards
# TYPE onionbalance_publisher_vanguards_outdated gauge
onionbalance_publisher_vanguards_outdated 2
"
);

#[test]
fn the_page_has_the_documented_metrics() {
    let text = render(&figures());
    let documented = ["onionbalance_publisher", "onion_service"].map(page::documented).concat();
    assert_eq!(page::families(&text), documented, "see docs/metrics.md");
    let (text, _) = text.split_once("# HELP onion_service_reachable").unwrap();
    assert_eq!(text, PAGE);
}

#[test]
fn probes_have_the_names_that_onionprobe_uses() {
    let report = |result, measured| PortReport { result, message: None, ended: SystemTime::UNIX_EPOCH, measured };
    let good = Measured {
        attempts: 1,
        fetches: 2,
        descriptor: Some(Duration::from_millis(1500)),
        connection: Some(Duration::from_secs(2)),
        http_status: Some(204),
    };
    let failed = Measured { attempts: 2, fetches: 12, ..Measured::default() };
    let reports = BTreeMap::from([
        (80, report(ProbeResult::Answered, good)),
        (81, report(ProbeResult::DescriptorFailed, failed)),
        (82, report(ProbeResult::NotMade, Measured::default())),
    ]);
    let text = probes(&reports);
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "onion_service_reachable{port=\"80\"} 1",
        "onion_service_reachable{port=\"81\"} 0",
        "onion_service_connection_attempts{port=\"80\"} 1",
        "onion_service_connection_attempts{port=\"81\"} 2",
        "onion_service_connection_attempts{port=\"82\"} 0",
        "onion_service_status_code{port=\"80\"} 204",
        "onion_service_descriptor_reachable{port=\"80\"} 1",
        "onion_service_descriptor_reachable{port=\"81\"} 0",
        "onion_service_descriptor_fetch_attempts{port=\"80\"} 2",
        "onion_service_descriptor_fetch_attempts{port=\"81\"} 12",
        "onion_service_descriptor_fetch_attempts{port=\"82\"} 0",
        "onion_service_latency_seconds{port=\"80\"} 2",
        "onion_service_descriptor_latency_seconds{port=\"80\"} 1.5",
    ];
    assert_eq!(samples, expected);
}
