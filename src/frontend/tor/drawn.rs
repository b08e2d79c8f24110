//! Reads the entry guards that a starting tor has chosen. Tor writes them into its state file only
//! 30 s later, and other tors wait for them.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::control::{Client, ControlError};

/// The pause between two questions. A tor that is starting chooses its guards within a second or
/// two.
const PAUSE: Duration = Duration::from_millis(250);

/// Asks tor for its guards until it has some, and passes on tor's answer. Then waits forever, as
/// also if nobody needs the guards.
pub(super) async fn watch(client: &Client, drawn: Option<&watch::Sender<Option<String>>>) -> Infallible {
    let Some(drawn) = drawn else { return pending().await };
    loop {
        match client.get_info("entry-guards").await {
            Ok(guards) if !guards.trim().is_empty() => {
                drawn.send_replace(Some(guards));
                return pending().await;
            }
            Ok(_) | Err(ControlError::Refused { .. }) => sleep(PAUSE).await,
            // The connection has ended, which its owner notices too.
            Err(_) => return pending().await,
        }
    }
}
