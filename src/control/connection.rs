//! The task that owns the stream of a control connection. It writes commands, delivers replies to
//! their callers, and forwards events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use super::codec::{Decoder, Message};
use super::{ControlError, Event};

/// The maximum number of events that wait to be read. Even a large set of services stays below it
/// when all of the services' HSDirs cause events at the same time.
pub(super) const EVENT_CAPACITY: usize = 1024;
const READ_SIZE: usize = 16 << 10;

/// A command and the channel for its reply.
pub(super) struct QueuedCommand {
    /// The complete command, including line endings. The bytes of AUTHENTICATE contain a secret.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) answer: ReplySender,
}

type ReplySender = oneshot::Sender<Result<Message, ControlError>>;

/// The state of a connection's task.
pub(super) struct Connection<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    decoder: Decoder,
    commands: mpsc::Receiver<QueuedCommand>,
    events: mpsc::Sender<Event>,
    command_timeout: Duration,
    /// The command that is being written, and the number of its bytes that have been written.
    sending: Option<(Zeroizing<Vec<u8>>, usize)>,
    /// The callers that wait for a reply, oldest first, each with its deadline.
    waiting: VecDeque<(ReplySender, Instant)>,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    pub(super) fn new(
        stream: S,
        commands: mpsc::Receiver<QueuedCommand>,
        events: mpsc::Sender<Event>,
        command_timeout: Duration,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            decoder: Decoder::default(),
            commands,
            events,
            command_timeout,
            sending: None,
            waiting: VecDeque::new(),
        }
    }

    /// Serves the connection until it ends, then reports the reason to `closed` and to every
    /// waiting caller.
    pub(super) async fn run(mut self, closed: watch::Sender<Option<ControlError>>) {
        let Err(why) = self.serve().await;
        tracing::debug!(%why, "control connection closed");
        let Self { reader, writer, mut commands, waiting, .. } = self;
        drop((reader, writer));
        closed.send_replace(Some(why.clone()));
        commands.close();
        for (answer, _) in waiting {
            _ = answer.send(Err(why.clone()));
        }
        while let Some(command) = commands.recv().await {
            _ = command.answer.send(Err(why.clone()));
        }
    }

    async fn serve(&mut self) -> Result<Infallible, ControlError> {
        let mut buffer = vec![0; READ_SIZE];
        let mut messages = Vec::new();
        loop {
            let deadline = self.waiting.front().map(|(_, deadline)| *deadline);
            let unsent = self.sending.as_ref().and_then(|(bytes, sent)| bytes.get(*sent..));
            // Reading comes first, so that a reply that has already arrived takes precedence over a
            // deadline that passed while this task was not running.
            tokio::select! {
                biased;
                read = self.reader.read(&mut buffer) => {
                    let length = read.map_err(|error| ControlError::io("could not read from tor", error))?;
                    self.receive(buffer.get(..length).unwrap_or_default(), &mut messages)?;
                }
                written = write(&mut self.writer, unsent) => {
                    self.written(written.map_err(|error| ControlError::io("could not write to tor", error))?)?;
                }
                // Commands are dequeued one at a time, so that memory use stays bounded if tor does
                // not read.
                command = self.commands.recv(), if unsent.is_none() => {
                    let QueuedCommand { bytes, answer } = command.ok_or(ControlError::Closed)?;
                    self.sending = Some((bytes, 0));
                    self.waiting.push_back((answer, Instant::now() + self.command_timeout));
                }
                () = wait_until(deadline) => return Err(ControlError::Timeout(self.command_timeout)),
            }
        }
    }

    fn receive(&mut self, bytes: &[u8], messages: &mut Vec<Message>) -> Result<(), ControlError> {
        if bytes.is_empty() {
            return Err(ControlError::Closed);
        }
        let fed = self.decoder.feed(bytes, messages);
        for message in messages.drain(..) {
            if message.is_event() {
                match self.events.try_send(Event::from_message(&message)) {
                    // A dropped receiver means that events are not wanted.
                    Ok(()) | Err(TrySendError::Closed(_)) => {}
                    Err(TrySendError::Full(_)) => return Err(ControlError::EventOverflow(EVENT_CAPACITY)),
                }
            } else {
                let (answer, _) = self
                    .waiting
                    .pop_front()
                    .ok_or_else(|| ControlError::Protocol("a reply does not belong to any command".to_owned()))?;
                // A caller that stopped waiting needs no reply, but its place in the queue keeps
                // the replies in order.
                _ = answer.send(Ok(message));
            }
        }
        Ok(fed?)
    }

    fn written(&mut self, length: usize) -> Result<(), ControlError> {
        if length == 0 {
            return Err(ControlError::Closed);
        }
        if let Some((bytes, sent)) = &mut self.sending {
            *sent += length;
            if *sent >= bytes.len() {
                self.sending = None;
            }
        }
        Ok(())
    }
}

/// Writes some of `bytes`, or waits forever if there are none.
async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: Option<&[u8]>) -> std::io::Result<usize> {
    match bytes {
        Some(bytes) => writer.write(bytes).await,
        None => future::pending().await,
    }
}

/// Waits until `deadline`, or forever if there is none.
async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}
