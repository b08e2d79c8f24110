//! Waiting for a condition, with a deadline and a word on what is still missing.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// What a look at a condition showed.
pub enum Seen<T> {
    /// It holds.
    Yes(T),
    /// It does not hold yet; the text goes into the error when time runs out.
    NotYet(String),
}

impl<T> Seen<T> {
    /// Does not hold yet.
    pub fn not_yet(why: impl Into<String>) -> Self {
        Self::NotYet(why.into())
    }
}

/// Looks every 200 ms until the condition holds. An error ends the wait at once; so does the deadline, with the last look's text.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Seen<T>>) -> Result<T> {
    const INTERVAL: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + limit;
    loop {
        match look().await? {
            Seen::Yes(value) => return Ok(value),
            Seen::NotYet(why) if Instant::now() >= deadline => {
                bail!("{what}: not within {} s; last seen: {why}", limit.as_secs())
            }
            Seen::NotYet(_) => sleep(INTERVAL).await,
        }
    }
}
