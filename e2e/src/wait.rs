//! Waits for a condition with a deadline. If the wait fails, the error reports what was still
//! missing.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// The result of checking a condition once.
pub enum Seen<T> {
    /// The condition holds.
    Yes(T),
    /// The condition does not hold yet. If the wait times out, this text becomes part of the error.
    NotYet(String),
}

impl<T> Seen<T> {
    /// Returns [`Seen::NotYet`] with the given reason.
    pub fn not_yet(why: impl Into<String>) -> Self {
        Self::NotYet(why.into())
    }
}

/// Checks a condition every 200 ms until it holds. An error ends the wait immediately. At the
/// deadline, the wait fails with the text of the last check.
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
