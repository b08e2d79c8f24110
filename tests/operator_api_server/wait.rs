//! A helper that waits for a condition by polling.

use std::time::Duration;

/// Calls `poll` every 50 ms until it succeeds, and returns the resulting value. Panics with the
/// last error after the time limit.
pub async fn until<T>(what: &str, limit: Duration, poll: impl AsyncFn() -> Result<T, String>) -> T {
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    loop {
        let seen = match poll().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        tokio::select! {
            () = &mut deadline => panic!("timed out after {limit:?}: {what}; last seen: {seen}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}
