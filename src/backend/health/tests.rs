use tokio::net::TcpListener;
use tokio::time::{advance, sleep};

use super::*;
use crate::link::TargetCheck;

impl Health {
    /// Creates the health of port 80, whose target has passed a check.
    pub fn for_tests() -> Self {
        let health = Self::new(&[port("web:80")], &Traffic::default(), Arc::default());
        health.targets[0].record(Ok(()), Instant::now(), Some(0));
        health
    }
}

fn port(target: &str) -> ForwardedPort {
    ForwardedPort {
        name: None,
        port: 80,
        target: target.to_owned(),
        proxy_header: false,
        idle_timeout_seconds: None,
        check: TargetCheck::default(),
    }
}

/// Creates the health of a single target, which is not checked until `run` is called.
fn health(target: &str) -> Arc<Health> {
    Arc::new(Health::new(&[port(target)], &Traffic::default(), Arc::default()))
}

fn request(publisher: &str, leading: bool, round: u64, unhealthy: bool) -> SyncRequest {
    SyncRequest {
        publisher: publisher.to_owned(),
        sequence: 1,
        leading,
        phase: PodPhase::Active,
        known_revision: None,
        known_guards: None,
        shared_guards: None,
        vanguards: None,
        round,
        unhealthy,
    }
}

/// Records as many failures as it takes to make the target fail.
async fn fail(health: &Health) {
    for _ in 0..6 {
        health.targets[0].record(Err("no".to_owned()), Instant::now(), Some(0));
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(health.targets[0].state(), TargetState::Failing);
}

/// Returns the address of a port on which nobody listens.
async fn closed() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_port_without_a_check_is_not_reported() {
    let unchecked = ForwardedPort { check: TargetCheck { enabled: false, ..TargetCheck::default() }, ..port("web:80") };
    let health = Health::new(&[unchecked], &Traffic::default(), Arc::default());
    assert_eq!(health.report(&request("p", true, 1, true)), []);
}

#[tokio::test(start_paused = true)]
async fn the_backend_is_unready_only_while_the_leader_says_so_and_a_target_fails() {
    let health = health("web:80");
    health.heard(&request("p", true, 0, true));
    assert_eq!(health.objection(), None, "no target fails");
    fail(&health).await;
    health.heard(&request("p", true, 0, false));
    assert_eq!(health.objection(), None, "all backends fail");
    health.heard(&request("p", false, 0, true));
    assert_eq!(health.objection(), None, "the publisher does not lead");
    health.heard(&request("p", true, 0, true));
    let reason = "the target of port 80, web:80, fails here but not at other backends: no";
    assert_eq!(health.objection().as_deref(), Some(reason));
    health.heard(&request("q", false, 0, false));
    assert!(health.objection().is_some(), "a standby has no say");
    advance(JUDGEMENT_LASTS + Duration::from_secs(1)).await;
    assert_eq!(health.objection(), None, "the publisher has gone");
    health.heard(&request("p", true, 0, true));
    for _ in 0..2 {
        health.targets[0].record(Ok(()), Instant::now(), Some(0));
    }
    assert_eq!(health.objection(), None, "the target has recovered");
}

#[tokio::test(start_paused = true)]
async fn tor_is_ended_once_if_the_backend_stays_withdrawn_and_no_target_passes() {
    let health = health("web:80");
    fail(&health).await;
    assert!(!health.should_end_tor(), "the backend is not withdrawn");
    for second in 0..20 {
        health.heard(&request("p", true, 0, true));
        assert_eq!(health.should_end_tor(), second == LEAVES_AFTER.as_secs(), "{second}");
        advance(Duration::from_secs(1)).await;
    }
    let both = [port("web:80"), ForwardedPort { port: 443, ..port("web:443") }];
    let health = Health::new(&both, &Traffic::default(), Arc::default());
    fail(&health).await;
    for _ in 0..20 {
        health.heard(&request("p", true, 0, true));
        assert!(!health.should_end_tor(), "the other target does not fail");
        advance(Duration::from_secs(1)).await;
    }
}

/// The drain of a terminating pod waits for the streams that are still open.
#[tokio::test(start_paused = true)]
async fn tor_is_not_ended_while_the_pod_terminates() {
    let health = health("web:80");
    fail(&health).await;
    health.heard(&request("p", true, 0, true));
    for phase in [PodPhase::Terminating, PodPhase::Withdrawn] {
        for _ in 0..20 {
            advance(Duration::from_secs(1)).await;
            health.heard(&SyncRequest { phase, ..request("p", true, 0, true) });
            assert!(!health.should_end_tor(), "{phase:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_fresh_only_if_the_check_began_after_the_round() {
    let health = health("web:80");
    let fresh = |request: &SyncRequest| health.report(request)[0].fresh;
    health.targets[0].record(Ok(()), Instant::now(), Some(0));
    let first = request("p", true, 7, false);
    health.heard(&first);
    assert_eq!(fresh(&first), None, "the check began before the round");
    health.targets[0].record(Err("no".to_owned()), Instant::now(), Some(1));
    assert_eq!(fresh(&first), Some(false));
    health.heard(&first);
    assert_eq!(fresh(&first), Some(false), "the round is the same");
    let second = request("p", true, 8, false);
    health.heard(&second);
    assert_eq!(fresh(&second), None);
    let other = request("q", true, 8, false);
    health.heard(&other);
    health.targets[0].record(Ok(()), Instant::now(), Some(2));
    assert_eq!(fresh(&other), None, "the check began in a round of another publisher");
    assert_eq!(fresh(&request("r", false, 8, false)), None, "a standby has no round");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_refuses_connections_fails_within_a_period_and_a_few_seconds() {
    let health = health(&closed().await);
    tokio::spawn(health.clone().run());
    sleep(Duration::from_secs(16)).await;
    assert_eq!(health.targets[0].state(), TargetState::Failing);
    let problem = health.report(&request("p", true, 0, false)).remove(0).problem.unwrap();
    assert!(problem.starts_with("cannot connect: "), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_stream_and_a_new_round_cause_a_check_but_not_more_than_one_a_second() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let health = health(&listener.local_addr().unwrap().to_string());
    tokio::spawn(health.clone().run());
    let checks = || health.targets[0].counts().0;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(checks(), 1);
    health.targets[0].doubt.notify_one();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(checks(), 2);
    for round in 1..50 {
        health.heard(&request("p", true, round, false));
        health.targets[0].doubt.notify_one();
        sleep(Duration::from_millis(100)).await;
    }
    assert!((6..=8).contains(&checks()), "{}", checks());
}
