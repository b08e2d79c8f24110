//! Standard output: plain, or a terminal that is drawn anew.

use std::io::{self, Write};

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;

use super::draw::Canvas;
use super::read::Selection;
use super::view::View;

/// Another screen, without a cursor; and back.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left; then what is left of a line, and of the screen, is cleared.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Where the services are shown again and again. A terminal is as it was when this is dropped, with the last drawing on it.
pub struct Screen {
    is_terminal: bool,
    last: String,
}

impl Screen {
    /// Takes the terminal, if it is one.
    pub fn open(is_terminal: bool) -> io::Result<Self> {
        if is_terminal {
            io::stdout().write_all(OPEN.as_bytes())?;
        }
        Ok(Self { is_terminal, last: String::new() })
    }

    /// Draws. Where there is no terminal, only what differs from the last drawing by more than ages is written, below it.
    pub fn show(&mut self, selection: &Selection, views: &[View]) -> io::Result<()> {
        let text = draw(selection, views);
        if self.is_terminal {
            let rows = size().map_or(usize::MAX, |(_, rows)| usize::from(rows));
            let mut out = io::BufWriter::new(io::stdout().lock());
            write!(out, "{HOME}")?;
            for line in text.lines().take(rows.saturating_sub(1)) {
                write!(out, "{line}{CLEAR_LINE}\r\n")?;
            }
            write!(out, "Ctrl-C ends{CLEAR_LINE}{CLEAR_BELOW}")?;
            out.flush()?;
            self.last = text;
            return Ok(());
        }
        let timeless = draw_at(selection, views, Timestamp::UNIX_EPOCH);
        if timeless != self.last {
            writeln!(io::stdout(), "{text}")?;
            self.last = timeless;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            // Nothing is left to do for a terminal that is gone.
            let _ = write!(io::stdout(), "{CLOSE}{}", self.last);
            let _ = io::stdout().flush();
        }
    }
}

/// Writes it once.
pub fn print(selection: &Selection, views: &[View]) -> io::Result<()> {
    write!(io::stdout(), "{}", draw(selection, views))
}

#[allow(clippy::disallowed_methods, reason = "ages are told from the clock")]
fn draw(selection: &Selection, views: &[View]) -> String {
    draw_at(selection, views, Timestamp::now())
}

fn draw_at(selection: &Selection, views: &[View], now: Timestamp) -> String {
    let canvas = Canvas { now, width: size().map(|(columns, _)| columns) };
    let text = match (&selection.name, views) {
        (Some(_), [view]) => canvas.service(view),
        (Some(name), _) => format!("{name} is gone.\n"),
        (None, views) => canvas.list(views),
    };
    // No terminal, NO_COLOR, TERM=dumb.
    match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => strip_str(&text).to_string(),
        _ => text,
    }
}

/// Columns and rows, where standard output is a terminal.
fn size() -> Option<(u16, u16)> {
    terminal_size::terminal_size_of(io::stdout()).map(|(columns, rows)| (columns.0, rows.0))
}
