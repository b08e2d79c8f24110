//! Waiting for what is to come.

use std::time::Duration;

/// Looks again and again until it is so; panics with what was seen last when it takes too long.
pub async fn until<T>(what: &str, limit: Duration, look: impl AsyncFn() -> Result<T, String>) -> T {
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    loop {
        let seen = match look().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        tokio::select! {
            () = &mut deadline => panic!("not within {limit:?}: {what}; last seen: {seen}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}
