//! Limits the number of log lines that others can cause.
//!
//! A client, another pod or a broken neighbour can repeat an event as often as it likes. A log line
//! for each occurrence would fill the node's disk and hide other lines.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time in which at most [`LINES`] occurrences are logged.
const INTERVAL: Duration = Duration::from_secs(60);
/// The number of occurrences that are logged in one interval. Ordinary operation causes fewer.
const LINES: u32 = 10;

/// A limit for the log lines about one kind of event: at most ten a minute.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The time at which the present interval began.
    began: Option<Instant>,
    /// The number of lines in the present interval.
    lines: u32,
    /// The number of occurrences without a line since the last line.
    suppressed: u64,
}

/// The permission to log an occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The number of earlier occurrences that were not logged, if there are any. The line should
    /// include this number.
    pub suppressed: Option<u64>,
}

impl LogLimit {
    /// Counts an occurrence. Returns None if the occurrence must not be logged.
    pub fn line(&self) -> Option<Line> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.duration_since(began) >= INTERVAL) {
            (state.began, state.lines) = (Some(now), 0);
        }
        if state.lines >= LINES {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.lines += 1;
        let suppressed = std::mem::take(&mut state.suppressed);
        Some(Line { suppressed: (suppressed > 0).then_some(suppressed) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_logged_ten_times_a_minute_and_counted() {
        let limit = LogLimit::default();
        let flood = |occurrences: u32| (0..occurrences).filter_map(|_| limit.line()).collect::<Vec<_>>();
        assert_eq!(flood(10), [Line { suppressed: None }; 10]);
        assert!(flood(5000).is_empty());
        advance(Duration::from_secs(59)).await;
        assert_eq!(limit.line(), None);
        advance(Duration::from_secs(1)).await;
        let lines = flood(100);
        assert_eq!((lines.len(), lines[0].suppressed, lines[1].suppressed), (10, Some(5001), None));
    }

    #[tokio::test(start_paused = true)]
    async fn rare_events_are_all_logged() {
        let limit = LogLimit::default();
        for _ in 0..100 {
            assert_eq!(limit.line(), Some(Line { suppressed: None }));
            advance(Duration::from_secs(7)).await;
        }
    }
}
