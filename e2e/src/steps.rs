//! Prints progress: the current step, and the time that each step took.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

/// Prints one line to standard error.
pub fn say(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m==>\x1b[0m {text}");
    } else {
        eprintln!("==> {text}");
    }
}

/// Announces a step, runs it, and prints how many seconds it took.
pub async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    say(&format!("{name} …"));
    let start = Instant::now();
    let value = work.await.with_context(|| format!("{name} failed"))?;
    say(&format!("{name}: {:.1} s", start.elapsed().as_secs_f64()));
    Ok(value)
}
