//! Streams that are open when backends are removed, and that last longer than the drain of a
//! backend without streams.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::figure::Figure;
use super::limit::{HELD_CUT, HELD_STREAMS};
use super::request::{Answer, PATIENCE, begin, finish};
use super::stage::Stage;

/// The number of streams that are opened.
const STREAMS: usize = 40;
/// The duration of each stream in seconds. A backend lets clients with cached descriptors open new
/// streams for 30 s after the withdrawal of its points, and looks at its open streams after that.
const SECONDS: u64 = 60;

/// The streams that were open when the fault occurred.
#[derive(Debug)]
pub struct HeldStreams(JoinSet<Result<()>>);

impl HeldStreams {
    /// Opens the streams to our service, each on a circuit of its own, and returns once their
    /// responses have begun. A stream that does not begin is not counted. `fault` separates the
    /// circuits from those of other faults.
    pub async fn open(stage: &Stage, fault: &str) -> Self {
        let opened = join_all((0..STREAMS).map(async |number| {
            let (socks, isolation) = (stage.clients.cached(number), format!("{fault}, held stream {number}"));
            timeout(PATIENCE, begin(socks, &stage.onions.ours, &isolation, SECONDS)).await.ok()?.ok()
        }));
        let begun: Vec<Answer> = opened.await.into_iter().flatten().collect();
        Self(begun.into_iter().map(to_its_end).collect())
    }

    /// Waits until all streams have ended, and returns their number and how many were cut off.
    pub async fn end(self) -> [Figure; 2] {
        let ends = self.0.join_all().await;
        let cut: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
        for error in &cut {
            eprintln!("    a held stream was cut: {error:#}");
        }
        [Figure::count(HELD_STREAMS, ends.len(), "streams"), Figure::count(HELD_CUT, cut.len(), "streams")]
    }
}

async fn to_its_end(answer: Answer) -> Result<()> {
    let rest = timeout(Duration::from_secs(2 * SECONDS), finish(answer)).await;
    rest.context("the rest of the response did not arrive in time")?
}
