//! Waits for a condition with a deadline. The error reports what was still missing.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// The result of checking a condition once.
pub enum Seen<T> {
    /// The condition holds.
    Yes(T),
    /// The condition does not hold yet. The text goes into the error when time runs out.
    NotYet(String),
}

impl<T> Seen<T> {
    /// Returns a result that says the condition does not hold yet.
    pub fn not_yet(why: impl Into<String>) -> Self {
        Self::NotYet(why.into())
    }
}

/// Checks every 200 ms until the condition holds. An error ends the wait immediately. At the
/// deadline, the wait fails with the last check's text.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    const INTERVAL: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + limit;
    loop {
        match look().await? {
            Seen::Yes(value) => return Ok(value),
            Seen::NotYet(why) if Instant::now() >= deadline => {
                bail!("gave up after {} s waiting until {what}; last seen: {why}", limit.as_secs())
            }
            Seen::NotYet(_) => sleep(INTERVAL).await,
        }
    }
}
