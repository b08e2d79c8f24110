//! The control protocol's lines, replies and events, decoded as they arrive (control-spec, sections 2.1, 2.3 and 4).
//!
//! ```text
//! 250-version=0.4.9.11         mid line
//! 250+config-text=             data line: the lines up to a lone `.` belong to it, a leading `.` is doubled
//! 250 OK                       end line: the message is complete
//! ```
//!
//! A code of 6yz marks an asynchronous event; anything else is part of the reply to the oldest unanswered command.

use std::mem;

/// Events whose data nobody wants to keep: a list of all relays, megabytes on the public network.
const UNKEPT_DATA: [&str; 2] = ["NEWCONSENSUS", "NS"];

/// A complete reply or event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The status of its end line.
    pub code: u16,
    /// Its lines in order, the end line last; never empty.
    pub lines: Vec<Line>,
}

/// One line of a message, without its status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// What follows the status and its separator. Bytes that are not UTF-8 come as U+FFFD.
    pub text: String,
    /// A data line's data: dot-unstuffed, each line ending in `\n`. None also where the data are not kept.
    pub data: Option<String>,
}

/// How much a decoder holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One line, its end included.
    pub line: usize,
    /// One message, data included.
    pub message: usize,
}

impl Default for Limits {
    /// Room for all microdescriptors of the public network (about 10 MB), and for the longest family line.
    fn default() -> Self {
        Self { line: 256 << 10, message: 64 << 20 }
    }
}

/// Why the bytes are not the control protocol. The decoder is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not `NNN`, a separator, and text.
    #[error("a line does not begin with a status and a separator")]
    Malformed,
    /// Beyond [`Limits::line`].
    #[error("a line is longer than {0} bytes")]
    LineTooLong(usize),
    /// Beyond [`Limits::message`].
    #[error("a message is longer than {0} bytes")]
    MessageTooLong(usize),
}

/// Turns bytes, however they are cut, into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    /// The line that has begun.
    line: Vec<u8>,
    /// The data block that has begun, and whose it is.
    data: Option<(Kind, Data)>,
    reply: Partial,
    event: Partial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reply,
    Event,
}

#[derive(Debug)]
enum Data {
    Keep(String),
    Skip,
}

/// The lines of a message that is not complete, and what they weigh.
#[derive(Debug, Default)]
struct Partial {
    lines: Vec<Line>,
    size: usize,
}

impl Decoder {
    /// A decoder with its own limits.
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next bytes; the messages that they complete are appended to `messages`, also those before an error.
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

    fn take_data_line(&mut self, kind: Kind, data: Data, line: &[u8]) -> Result<(), DecodeError> {
        if line == b"." {
            if let (Data::Keep(text), Some(owner)) = (data, self.partial(kind).lines.last_mut()) {
                owner.data = Some(text);
            }
            return Ok(());
        }
        let data = match data {
            Data::Keep(mut text) => {
                self.weigh(kind, line.len() + 1)?;
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
            return Err(DecodeError::Malformed);
        };
        if !tens.is_ascii_digit() || !ones.is_ascii_digit() {
            return Err(DecodeError::Malformed);
        }
        let kind = if *hundreds == b'6' { Kind::Event } else { Kind::Reply };
        let text = String::from_utf8_lossy(text).into_owned();
        self.weigh(kind, text.len() + size_of::<Line>())?;
        match separator {
            b'-' | b' ' => {}
            b'+' => {
                let unkept = kind == Kind::Event && UNKEPT_DATA.contains(&text.split(' ').next().unwrap_or_default());
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

    fn partial(&mut self, kind: Kind) -> &mut Partial {
        match kind {
            Kind::Reply => &mut self.reply,
            Kind::Event => &mut self.event,
        }
    }

    fn weigh(&mut self, kind: Kind, more: usize) -> Result<(), DecodeError> {
        let limit = self.limits.message;
        let partial = self.partial(kind);
        partial.size = partial.size.saturating_add(more);
        if partial.size > limit { Err(DecodeError::MessageTooLong(limit)) } else { Ok(()) }
    }
}

impl Message {
    /// Whether it is an asynchronous event rather than a reply.
    pub fn is_event(&self) -> bool {
        self.code / 100 == 6
    }
}

/// Lines end in CRLF. A lone LF is taken too: tor writes one where a data value begins with a line end.
fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
