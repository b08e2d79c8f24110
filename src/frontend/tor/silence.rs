//! Measures for how long tor has not answered.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::control::{Client, ControlError};

/// The pause between an answer of tor and the next question.
const PAUSE: Duration = Duration::from_secs(1);
/// The time without an answer that counts as a short silence.
const SHORT: Duration = Duration::from_secs(3);

/// The time for which tor has left a command unanswered, in steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::frontend) enum Silence {
    /// Tor answers, or there is no tor.
    #[default]
    None,
    /// Tor has not answered for 3 s. It may be busy.
    Short,
    /// Tor has not answered before the connection's deadline, after 20 s.
    Long,
}

/// Asks tor a question every second, and reports whether tor answers. The connection's owner
/// reports a long silence, because the connection ends then.
pub(super) async fn monitor(client: &Client, silence: &watch::Sender<Silence>) -> Infallible {
    loop {
        sleep(PAUSE).await;
        let mut question = pin!(client.get_info("version"));
        let answer = if let Ok(answer) = timeout(SHORT, &mut question).await {
            answer
        } else {
            silence.send_replace(Silence::Short);
            question.await
        };
        match answer {
            Ok(_) | Err(ControlError::Refused { .. }) => _ = silence.send_replace(Silence::None),
            // The connection has ended, which its owner notices too.
            Err(_) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tor_is_silent_three_seconds_after_an_unanswered_question_until_it_answers() {
        let (ours, theirs) = duplex(1024);
        let (client, _events) = Client::over(ours, Duration::from_secs(20));
        let (silence, mut watched) = watch::channel(Silence::None);
        tokio::spawn(async move { monitor(&client, &silence).await });
        let (reader, mut writer) = tokio::io::split(theirs);
        let mut questions = BufReader::new(reader).lines();
        let began = Instant::now();

        for _ in 0..3 {
            questions.next_line().await.unwrap();
            writer.write_all(b"250-version=0.4.8\r\n250 OK\r\n").await.unwrap();
        }
        questions.next_line().await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(4), "a question every second");
        assert_eq!(*watched.borrow(), Silence::None);
        watched.wait_for(|silence| *silence == Silence::Short).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(7));

        writer.write_all(b"250-version=0.4.8\r\n250 OK\r\n").await.unwrap();
        watched.wait_for(|silence| *silence == Silence::None).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(7));
    }
}
