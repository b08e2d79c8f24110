//! The agent's probes (`/startupz`, `/livez` and `/readyz`), and `/drain` for the `preStop` hook.
//! Each responds with one line that gives the reason for the result.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;

use super::drain::Drain;
use super::health::Health;
use super::observer::TorState;
use super::pulse::Pulse;
use crate::common::log_limit::{Line, LogLimit};

/// How long an iteration of the observer's loop may take before the loop is considered hung. An
/// iteration normally takes at most a second.
const HANGS_AFTER: Duration = Duration::from_secs(30);

type ProbeAnswer = (StatusCode, String);

/// Returns the router of the probe server.
pub fn router(tor: watch::Receiver<TorState>, pulse: Pulse, drain: Arc<Drain>, health: Arc<Health>) -> Router {
    let calls = DrainCalls { drain, begun: LogLimit::default(), ended: LogLimit::default() };
    let drains = get(wait_for_drain).with_state(Arc::new(calls));
    Router::new()
        .route("/startupz", get(startup))
        .route("/livez", get(live).with_state(pulse))
        .route("/readyz", get(ready).with_state((tor, health)))
        .route("/drain", drains.clone())
        // Kubernetes before 1.21 requests this path if the manifest says `/drain`.
        .route("//drain", drains)
}

/// Reports that the agent has started. The forwarding sockets are bound before this server
/// responds.
async fn startup() -> ProbeAnswer {
    (StatusCode::OK, line("started"))
}

/// Reports whether the agent itself is alive, whatever the state of tor. If tor is waiting for the
/// network, restarting the agent would not help.
async fn live(State(pulse): State<Pulse>) -> ProbeAnswer {
    let quiet = pulse.last_beat().elapsed();
    if quiet < HANGS_AFTER {
        (StatusCode::OK, line("alive"))
    } else {
        let problem = format!("the agent's main loop has been hanging for {} s", quiet.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, line(&problem))
    }
}

async fn ready(State((tor, health)): State<(watch::Receiver<TorState>, Arc<Health>)>) -> ProbeAnswer {
    let (ready, reason) = readiness(&tor.borrow(), health.objection());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, line(&reason))
}

/// Returns true if the backend is ready, and the reason for the result. `objection` is the reason
/// why the publisher has withdrawn the backend, if it has.
fn readiness(tor: &TorState, objection: Option<String>) -> (bool, String) {
    match tor {
        TorState { answering: false, .. } => (false, "tor does not answer on its control socket".to_owned()),
        TorState { bootstrapped, .. } if *bootstrapped < 100 => {
            (false, format!("tor is bootstrapped to {bootstrapped}%"))
        }
        TorState { points, .. } if points.count() == 0 => (false, "tor has no introduction point yet".to_owned()),
        TorState { points, .. } => match objection {
            Some(objection) => (false, objection),
            None => (true, format!("introduction points: {}", points.count())),
        },
    }
}

/// The calls of `/drain`. Everyone who can reach the pod can call it, so the log lines are limited.
struct DrainCalls {
    drain: Arc<Drain>,
    begun: LogLimit,
    ended: LogLimit,
}

async fn wait_for_drain(State(calls): State<Arc<DrainCalls>>) -> ProbeAnswer {
    if let Some(Line { suppressed }) = calls.begun.line() {
        tracing::info!(suppressed, "drain started");
    }
    let reason = calls.drain.wait().await;
    if let Some(Line { suppressed }) = calls.ended.line() {
        tracing::info!(reason, suppressed, "drain finished");
    }
    (StatusCode::OK, line(reason))
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance, pause, sleep};

    use super::*;
    use crate::backend::drain::DrainTimes;
    use crate::backend::points::Points;
    use crate::backend::stall::Mended;

    #[test]
    fn the_agent_is_ready_if_tor_is_bootstrapped_and_has_a_point() {
        let state = |answering, bootstrapped, points| TorState {
            answering,
            bootstrapped,
            points: Points::with_count(points),
            kills: 0,
            mended: Mended::default(),
        };
        assert_eq!(
            readiness(&state(false, 100, 0), None),
            (false, "tor does not answer on its control socket".to_owned())
        );
        assert_eq!(readiness(&state(true, 45, 3), None), (false, "tor is bootstrapped to 45%".to_owned()));
        assert_eq!(readiness(&state(true, 100, 0), None), (false, "tor has no introduction point yet".to_owned()));
        assert_eq!(readiness(&state(true, 100, 1), None), (true, "introduction points: 1".to_owned()));
        let objection = "the target of port 80 fails".to_owned();
        assert_eq!(readiness(&state(true, 100, 1), Some(objection.clone())), (false, objection));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_answers_only_when_the_pod_may_stop() {
        let times = DrainTimes { linger: Duration::from_secs(10), timeout: Duration::from_secs(120) };
        let (streams, open) = watch::channel(1);
        let drain = Arc::new(Drain::new(times, open));
        let began = Instant::now();
        let calls = DrainCalls { drain, begun: LogLimit::default(), ended: LogLimit::default() };
        let call = tokio::spawn(wait_for_drain(State(Arc::new(calls))));
        // Without a publisher, the linger time begins after 5 s.
        sleep(Duration::from_secs(60)).await;
        assert!(!call.is_finished(), "a stream is open");
        streams.send_replace(0);
        assert_eq!(call.await.unwrap(), (StatusCode::OK, "no stream is open\n".to_owned()));
        assert_eq!(began.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test]
    async fn the_agent_is_live_while_its_loop_runs() {
        pause();
        let pulse = Pulse::new();
        advance(Duration::from_secs(29)).await;
        assert_eq!(live(State(pulse.clone())).await.0, StatusCode::OK);
        advance(Duration::from_secs(2)).await;
        assert_eq!(live(State(pulse.clone())).await.0, StatusCode::SERVICE_UNAVAILABLE);
        pulse.beat();
        assert_eq!(live(State(pulse)).await.0, StatusCode::OK);
    }
}
