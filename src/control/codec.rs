//! An incremental decoder for the lines, replies and events of the control protocol (control-spec,
//! sections 2.1, 2.3 and 4).
//!
//! ```text
//! 250-version=0.4.9.11         mid line
//! 250+config-text=             data line; its data ends at a lone `.` line, and a leading
//!                              `.` is doubled
//! 250 OK                       end line, which completes the message
//! ```
//!
//! A status code of 6yz marks an asynchronous event. Every other message is the reply to the
//! oldest unanswered command.

use std::mem;

/// The events whose data is discarded, because it lists all relays and takes several megabytes on
/// the public network.
const UNKEPT_DATA: [&str; 2] = ["NEWCONSENSUS", "NS"];

/// The length in bytes from which data gets space for the longest message at once. The kernel
/// provides memory only for the part that is written, and gets all of it back when the data is
/// dropped. Data of several megabytes that grows in steps leaves much of its memory with the
/// allocator.
const LARGE: usize = 64 << 10;

/// A complete reply or event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The status code of the end line.
    pub code: u16,
    /// The lines in order, with the end line last. The list is never empty.
    pub lines: Vec<Line>,
}

/// One line of a message, without its status code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The text after the status code and its separator. Bytes that are not UTF-8 are replaced with
    /// U+FFFD.
    pub text: String,
    /// The data of a data line, dot-unstuffed and with each line ending in `\n`. It is None if the
    /// line has no data or the data is discarded.
    pub data: Option<String>,
}

/// The limits on the number of bytes that a decoder buffers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The maximum length of one line, including its line ending.
    pub line: usize,
    /// The maximum length of one message, including its data.
    pub message: usize,
}

impl Default for Limits {
    /// Returns limits that leave room for all microdescriptors of the public network (about 10 MB)
    /// and for the longest family line.
    fn default() -> Self {
        Self { line: 256 << 10, message: 64 << 20 }
    }
}

/// An error that explains why the bytes do not follow the control protocol. The decoder cannot be
/// used after an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A line does not consist of a status code, a separator and a text.
    #[error("a line does not begin with a status code and a separator; check that this is tor's control port")]
    Malformed,
    /// The line is the answer of tor's SOCKS port to anything that is not SOCKS.
    #[error("this is a SOCKS port; use the ControlPort or ControlSocket of torrc instead")]
    SocksPort,
    /// The line is the answer of a web server.
    #[error("a web server answers here; use the ControlPort or ControlSocket of torrc instead")]
    WebServer,
    /// A line exceeds [`Limits::line`].
    #[error("a line is longer than {0} bytes")]
    LineTooLong(usize),
    /// A message exceeds [`Limits::message`].
    #[error("a message is longer than {0} bytes")]
    MessageTooLong(usize),
}

/// An incremental decoder that turns chunks of bytes, of any size, into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    /// The data block that is being read, and the kind of message that it belongs to.
    data: Option<(MessageKind, Data)>,
    reply: Partial,
    event: Partial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageKind {
    Reply,
    Event,
}

#[derive(Debug)]
enum Data {
    Keep(String),
    Skip,
}

/// The lines of an incomplete message, and their total length.
#[derive(Debug, Default)]
struct Partial {
    lines: Vec<Line>,
    size: usize,
}

impl Decoder {
    /// Creates a decoder with limits other than the default ones.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Decodes the next bytes and appends every message that is now complete to `messages`. If an
    /// error occurs, the messages that precede the error are still appended.
    pub fn feed(&mut self, bytes: &[u8], messages: &mut Vec<Message>) -> Result<(), DecodeError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len().saturating_add(piece.len()) > self.limits.line {
                return Err(DecodeError::LineTooLong(self.limits.line));
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let mut line = mem::take(&mut self.line);
                messages.extend(self.take_line(without_line_end(&line))?);
                line.clear();
                self.line = line;
            }
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Message>, DecodeError> {
        match self.data.take() {
            Some((kind, data)) => self.take_data_line(kind, data, line).map(|()| None),
            None => self.take_reply_line(line),
        }
    }

    fn take_data_line(&mut self, kind: MessageKind, data: Data, line: &[u8]) -> Result<(), DecodeError> {
        if line == b"." {
            if let (Data::Keep(text), Some(owner)) = (data, self.partial(kind).lines.last_mut()) {
                owner.data = Some(text);
            }
            return Ok(());
        }
        let data = match data {
            Data::Keep(mut text) => {
                self.weigh(kind, line.len() + 1)?;
                if text.len() > LARGE {
                    // If there is no such space, the data grows in steps.
                    let _ = text.try_reserve_exact(self.limits.message.saturating_sub(text.len()));
                }
                text.push_str(&String::from_utf8_lossy(line.strip_prefix(b".").unwrap_or(line)));
                text.push('\n');
                Data::Keep(text)
            }
            Data::Skip => Data::Skip,
        };
        self.data = Some((kind, data));
        Ok(())
    }

    fn take_reply_line(&mut self, line: &[u8]) -> Result<Option<Message>, DecodeError> {
        let Some(([hundreds @ b'1'..=b'9', tens, ones, separator], text)) = line.split_first_chunk() else {
            return Err(malformed(line));
        };
        if !tens.is_ascii_digit() || !ones.is_ascii_digit() {
            return Err(malformed(line));
        }
        let kind = if *hundreds == b'6' { MessageKind::Event } else { MessageKind::Reply };
        let text = String::from_utf8_lossy(text).into_owned();
        self.weigh(kind, text.len() + size_of::<Line>())?;
        match separator {
            b'-' | b' ' => {}
            b'+' => {
                let unkept =
                    kind == MessageKind::Event && UNKEPT_DATA.contains(&text.split(' ').next().unwrap_or_default());
                self.data = Some((kind, if unkept { Data::Skip } else { Data::Keep(String::new()) }));
            }
            _ => return Err(DecodeError::Malformed),
        }
        let partial = self.partial(kind);
        partial.lines.push(Line { text, data: None });
        if *separator != b' ' {
            return Ok(None);
        }
        let code = [hundreds, tens, ones].into_iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        Ok(Some(Message { code, lines: mem::take(partial).lines }))
    }

    fn partial(&mut self, kind: MessageKind) -> &mut Partial {
        match kind {
            MessageKind::Reply => &mut self.reply,
            MessageKind::Event => &mut self.event,
        }
    }

    fn weigh(&mut self, kind: MessageKind, more: usize) -> Result<(), DecodeError> {
        let limit = self.limits.message;
        let partial = self.partial(kind);
        partial.size = partial.size.saturating_add(more);
        if partial.size > limit { Err(DecodeError::MessageTooLong(limit)) } else { Ok(()) }
    }
}

impl Message {
    /// Returns true if the message is an asynchronous event rather than a reply.
    pub fn is_event(&self) -> bool {
        self.code / 100 == 6
    }
}

/// Returns the error for a line that is not from a control port, and names the service that sends
/// such lines.
fn malformed(line: &[u8]) -> DecodeError {
    let text = String::from_utf8_lossy(line).to_ascii_lowercase();
    // Tor's SOCKS port takes PROTOCOLINFO for the beginning of the HTTP request PUT or POST.
    if text.starts_with("http/") && (text.contains("not an http proxy") || text.contains("socks")) {
        DecodeError::SocksPort
    } else if ["http/", "<!doctype", "<html"].iter().any(|start| text.starts_with(start)) {
        DecodeError::WebServer
    } else {
        DecodeError::Malformed
    }
}

/// Removes the CRLF at the end of a line. A lone LF is accepted too, because tor writes one if a
/// data value begins with a newline.
fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
