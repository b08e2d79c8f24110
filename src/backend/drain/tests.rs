//! Tests of the drain rule. They run in paused time, which tokio advances to the next timer when
//! every task is waiting.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;

const TIMES: DrainTimes = DrainTimes { linger: Duration::from_secs(10), timeout: Duration::from_secs(120) };

struct Bench {
    drain: Arc<Drain>,
    streams: watch::Sender<u64>,
    start: Instant,
}

impl Bench {
    fn new(open: u64) -> Self {
        let (streams, open) = watch::channel(open);
        Self { drain: Arc::new(Drain::new(TIMES, open)), streams, start: Instant::now() }
    }

    /// Starts a `/drain` call in a task. The task returns the reason why the call ended, and the
    /// time at which it ended, in seconds since the bench started.
    fn call(&self) -> JoinHandle<(&'static str, u64)> {
        let (drain, start) = (self.drain.clone(), self.start);
        tokio::spawn(async move { (drain.wait().await, start.elapsed().as_secs()) })
    }

    /// Reports the same phase four times a second for the given number of seconds.
    async fn hear(&self, leading: bool, phase: PodPhase, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.drain.heard(leading, phase);
            sleep(Duration::from_millis(250)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_withdrawal_then_lingers_then_waits_for_the_streams() {
    let bench = Bench::new(3);
    let call = bench.call();
    bench.hear(true, PodPhase::Terminating, 4).await;
    bench.hear(true, PodPhase::Withdrawn, 30).await;
    assert!(!call.is_finished());
    bench.streams.send_replace(1);
    bench.hear(true, PodPhase::Withdrawn, 6).await;
    assert!(!call.is_finished());
    bench.streams.send_replace(0);
    assert_eq!(call.await.unwrap(), ("no stream is open", 40));
}

#[tokio::test(start_paused = true)]
async fn lingers_even_when_no_stream_is_open() {
    let bench = Bench::new(0);
    let call = bench.call();
    bench.hear(true, PodPhase::Terminating, 1).await;
    bench.hear(true, PodPhase::Withdrawn, 9).await;
    assert!(!call.is_finished());
    assert_eq!(call.await.unwrap(), ("no stream is open", 11));
}

#[tokio::test(start_paused = true)]
async fn the_linger_time_begins_only_with_the_withdrawal() {
    let bench = Bench::new(0);
    let call = bench.call();
    bench.hear(true, PodPhase::Terminating, 15).await;
    assert!(!call.is_finished(), "the introduction points are still published");
    bench.hear(true, PodPhase::Withdrawn, 1).await;
    assert_eq!(call.await.unwrap(), ("no stream is open", 25));
}

#[tokio::test(start_paused = true)]
async fn open_streams_do_not_outlast_the_drain_timeout() {
    let bench = Bench::new(1);
    let call = bench.call();
    bench.hear(true, PodPhase::Withdrawn, 200).await;
    assert_eq!(call.await.unwrap(), ("the drain timeout has expired", 130));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_withdrawal_leaves_time_to_shut_down() {
    let bench = Bench::new(0);
    let call = bench.call();
    bench.hear(true, PodPhase::Terminating, 200).await;
    assert_eq!(call.await.unwrap(), ("the time limit is reached", 140), "the grace period is 145 s");
}

#[tokio::test(start_paused = true)]
async fn a_liveness_kill_is_not_delayed() {
    let bench = Bench::new(5);
    bench.hear(true, PodPhase::Active, 60).await;
    let call = bench.call();
    bench.hear(true, PodPhase::Active, 3).await;
    assert_eq!(call.await.unwrap(), ("the pod is not terminating", 62));
}

#[tokio::test(start_paused = true)]
async fn an_active_report_sent_before_the_deletion_does_not_end_the_drain() {
    let bench = Bench::new(5);
    let call = bench.call();
    bench.hear(true, PodPhase::Active, 1).await;
    bench.hear(true, PodPhase::Terminating, 3).await;
    assert!(!call.is_finished());
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_can_report_the_phase() {
    let bench = Bench::new(0);
    let call = bench.call();
    for phase in [PodPhase::Active, PodPhase::Withdrawn] {
        bench.hear(false, phase, 30).await;
        assert!(!call.is_finished(), "{phase:?}");
    }
    bench.hear(true, PodPhase::Withdrawn, 10).await;
    assert_eq!(call.await.unwrap(), ("no stream is open", 70));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_that_still_reports_terminating_does_not_restart_the_linger_time() {
    let bench = Bench::new(0);
    let call = bench.call();
    bench.hear(true, PodPhase::Withdrawn, 5).await;
    bench.hear(true, PodPhase::Terminating, 20).await;
    assert_eq!(call.await.unwrap(), ("no stream is open", 10));
}

#[tokio::test(start_paused = true)]
async fn without_a_publisher_the_drain_lingers_for_the_fixed_time() {
    let bench = Bench::new(0);
    assert_eq!(bench.call().await.unwrap(), ("no stream is open", 15));
}

#[tokio::test(start_paused = true)]
async fn the_drain_waits_again_for_a_publisher_that_comes_back() {
    let bench = Bench::new(0);
    let call = bench.call();
    sleep(Duration::from_secs(12)).await;
    bench.hear(true, PodPhase::Terminating, 8).await;
    assert!(!call.is_finished(), "without the publisher the linger time would have ended at 15 s");
    bench.drain.heard(true, PodPhase::Withdrawn);
    assert_eq!(call.await.unwrap(), ("no stream is open", 30));
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_both_containers_end_together() {
    let bench = Bench::new(0);
    let (tor, agent) = (bench.call(), bench.call());
    bench.hear(true, PodPhase::Withdrawn, 8).await;
    assert!(bench.drain.is_running());
    assert_eq!(tor.await.unwrap(), ("no stream is open", 10));
    assert_eq!(agent.await.unwrap(), ("no stream is open", 10));
    assert!(!bench.drain.is_running());
}

#[tokio::test(start_paused = true)]
async fn an_aborted_call_does_not_affect_a_later_one() {
    let bench = Bench::new(0);
    let call = bench.call();
    bench.hear(true, PodPhase::Terminating, 4).await;
    call.abort();
    call.await.unwrap_err();
    assert!(!bench.drain.is_running());
    sleep(Duration::from_secs(100)).await;
    assert_eq!(bench.call().await.unwrap(), ("no stream is open", 119));
}
