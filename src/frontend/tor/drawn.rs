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
    // Only a task that keeps the shared guards has a receiver.
    let Some(drawn) = drawn.filter(|drawn| !drawn.is_closed()) else { return pending().await };
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, duplex};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_guards_are_passed_on_as_soon_as_tor_has_some() {
        let (ours, theirs) = duplex(1024);
        let (client, _events) = Client::over(ours, Duration::from_secs(20));
        let (drawn, mut watched) = watch::channel(None);
        tokio::spawn(async move { watch(&client, Some(&drawn)).await });
        let (reader, mut writer) = tokio::io::split(theirs);
        let mut questions = BufReader::new(reader).lines();

        assert_eq!(questions.next_line().await.unwrap().unwrap(), "GETINFO entry-guards");
        writer.write_all(b"250-entry-guards=\r\n250 OK\r\n").await.unwrap();
        questions.next_line().await.unwrap();
        assert_eq!(*watched.borrow(), None);
        let answer = format!("250+entry-guards=\r\n${} never-connected\r\n.\r\n250 OK\r\n", "AB".repeat(20));
        writer.write_all(answer.as_bytes()).await.unwrap();
        let found = watched.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!(found.trim_end(), format!("${} never-connected", "AB".repeat(20)));
    }

    #[tokio::test(start_paused = true)]
    async fn tor_is_not_asked_if_nobody_keeps_the_guards() {
        let (ours, mut theirs) = duplex(1024);
        let (client, _events) = Client::over(ours, Duration::from_secs(20));
        let drawn = watch::Sender::new(None);
        let asked = async {
            tokio::select! {
                never = watch(&client, Some(&drawn)) => match never {},
                read = theirs.read_u8() => read,
            }
        };
        assert!(timeout(4 * PAUSE, asked).await.is_err());
    }
}
