//! Sends single commands to tor's control socket without using any of the product's code.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A connection to tor's control socket.
#[derive(Debug)]
pub struct Control {
    lines: Lines<BufReader<OwnedReadHalf>>,
    commands: OwnedWriteHalf,
}

impl Control {
    /// Connects to a control socket and authenticates with the cookie in the given file.
    pub async fn open(socket: &Path, cookie: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).await.with_context(|| format!("could not connect to {}", socket.display()))?;
        let (replies, commands) = stream.into_split();
        let mut control = Self { lines: BufReader::new(replies).lines(), commands };
        let mut authenticate = "AUTHENTICATE ".to_owned();
        for byte in std::fs::read(cookie)? {
            write!(authenticate, "{byte:02x}")?;
        }
        ensure!(control.command(&authenticate).await?, "tor rejected its own cookie");
        Ok(control)
    }

    /// Sends a command and returns true if tor accepts it. The text of the reply is discarded.
    pub async fn command(&mut self, command: &str) -> Result<bool> {
        Ok(self.ask(command).await?.is_some())
    }

    /// Sends a command and returns the lines of tor's reply without their status codes, including
    /// data lines. Returns `None` if tor rejects the command.
    pub async fn ask(&mut self, command: &str) -> Result<Option<Vec<String>>> {
        self.commands.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut reply = Vec::new();
        loop {
            let line = self.line().await?;
            let (code, rest) = line.split_at_checked(3).context("tor's reply does not begin with a status code")?;
            let (separator, text) =
                rest.split_at_checked(1).context("tor's reply has no separator after its status code")?;
            reply.push(text.to_owned());
            if separator == "+" {
                loop {
                    match self.line().await? {
                        end if end == "." => break,
                        data => reply.push(data),
                    }
                }
            } else if separator == " " {
                return Ok((code == "250").then_some(reply));
            }
        }
    }

    /// Waits for an event whose line begins with these words (control-spec, section 4.1). A
    /// connection that waits for events must not send commands after `SETEVENTS`.
    pub async fn event(&mut self, words: &str) -> Result<()> {
        while !self.next_event().await?.starts_with(words) {}
        Ok(())
    }

    /// Waits for the next event and returns its first line without the status code.
    pub async fn next_event(&mut self) -> Result<String> {
        loop {
            if let Some(event) = self.line().await?.strip_prefix("650 ") {
                return Ok(event.to_owned());
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        self.lines.next_line().await?.context("tor closed the control connection")
    }
}
