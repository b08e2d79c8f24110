//! `/startupz`, `/livez`, `/readyz`, and `/drain` for preStop. Each answers with a line that says why.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;

use super::drain::Drain;
use super::observer::{Pulse, TorState};

/// The observer's loop turns at least once a second; after so long without a turn it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);

type Answer = (StatusCode, String);

pub fn router(tor: watch::Receiver<TorState>, pulse: Pulse, drain: Arc<Drain>) -> Router {
    let drains = get(wait_for_drain).with_state(drain);
    Router::new()
        .route("/startupz", get(startup))
        .route("/livez", get(live).with_state(pulse))
        .route("/readyz", get(ready).with_state(tor))
        .route("/drain", drains.clone())
        // Kubernetes before 1.21 asks so where the manifest says `/drain`.
        .route("//drain", drains)
}

/// The forwarding sockets and the other servers stood before this one answered.
async fn startup() -> Answer {
    (StatusCode::OK, line("started"))
}

/// Speaks of the agent alone: a tor that waits for the network is none of its faults, and a restart would not help.
async fn live(State(pulse): State<Pulse>) -> Answer {
    let quiet = pulse.last_beat().elapsed();
    if quiet < HANGS_AFTER {
        (StatusCode::OK, line("alive"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, line(&format!("the agent's loop has hung for {} s", quiet.as_secs())))
    }
}

async fn ready(State(tor): State<watch::Receiver<TorState>>) -> Answer {
    let (ready, reason) = readiness(&tor.borrow());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, line(&reason))
}

fn readiness(tor: &TorState) -> (bool, String) {
    match tor {
        TorState { answering: false, .. } => (false, "tor does not answer on its control socket".to_owned()),
        TorState { bootstrapped, .. } if *bootstrapped < 100 => {
            (false, format!("tor is bootstrapped to {bootstrapped}%"))
        }
        TorState { points, .. } if points.count() == 0 => (false, "tor has no introduction point yet".to_owned()),
        TorState { points, .. } => (true, format!("introduction points: {}", points.count())),
    }
}

async fn wait_for_drain(State(drain): State<Arc<Drain>>) -> Answer {
    tracing::info!("draining");
    let reason = drain.wait().await;
    tracing::info!(reason, "drained");
    (StatusCode::OK, line(reason))
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;
    use crate::backend::points::Points;
    use crate::backend::stall::Mended;

    #[test]
    fn ready_means_bootstrapped_with_a_point() {
        let state = |answering, bootstrapped, points| TorState {
            answering,
            bootstrapped,
            points: Points::with_count(points),
            kills: 0,
            mended: Mended::default(),
        };
        assert_eq!(readiness(&state(false, 100, 0)), (false, "tor does not answer on its control socket".to_owned()));
        assert_eq!(readiness(&state(true, 45, 3)), (false, "tor is bootstrapped to 45%".to_owned()));
        assert_eq!(readiness(&state(true, 100, 0)), (false, "tor has no introduction point yet".to_owned()));
        assert_eq!(readiness(&state(true, 100, 1)), (true, "introduction points: 1".to_owned()));
    }

    #[tokio::test]
    async fn live_means_that_the_loop_turns() {
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
