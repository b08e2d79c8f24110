//! Writes to standard output: plain text, or a terminal screen that is redrawn.

use std::io::{self, Write};

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;

use super::draw::Canvas;
use super::read::Selection;
use super::view::View;

/// The escape sequence that switches to the alternate screen and hides the cursor.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
/// The escape sequence that shows the cursor and returns to the normal screen.
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
/// The escape sequence that moves the cursor to the upper left corner.
const HOME: &str = "\x1b[H";
/// The escape sequence that clears the rest of the line.
const CLEAR_LINE: &str = "\x1b[K";
/// The escape sequence that clears the screen below the cursor.
const CLEAR_BELOW: &str = "\x1b[J";

/// The display of `status --watch`. Dropping it returns to the normal screen and prints the last
/// state of the services there.
pub struct Screen {
    is_terminal: bool,
    last: String,
}

impl Screen {
    /// Opens the display, which uses the alternate screen if standard output is a terminal.
    pub fn open(is_terminal: bool) -> io::Result<Self> {
        if is_terminal {
            io::stdout().write_all(OPEN.as_bytes())?;
        }
        Ok(Self { is_terminal, last: String::new() })
    }

    /// Shows the services. Without a terminal, prints them only if anything other than ages has
    /// changed since the last call.
    pub fn show(&mut self, selection: &Selection, views: &[View]) -> io::Result<()> {
        let text = draw(selection, views);
        if self.is_terminal {
            let rows = size().map_or(usize::MAX, |(_, rows)| usize::from(rows));
            let mut out = io::BufWriter::new(io::stdout().lock());
            write!(out, "{HOME}")?;
            for line in text.lines().take(rows.saturating_sub(1)) {
                write!(out, "{line}{CLEAR_LINE}\r\n")?;
            }
            write!(out, "Press Ctrl-C to exit{CLEAR_LINE}{CLEAR_BELOW}")?;
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
            // If this fails, the terminal is gone and there is nothing to restore.
            let _ = write!(io::stdout(), "{CLOSE}{}", self.last);
            let _ = io::stdout().flush();
        }
    }
}

/// Prints the services once.
pub fn print(selection: &Selection, views: &[View]) -> io::Result<()> {
    write!(io::stdout(), "{}", draw(selection, views))
}

#[allow(clippy::disallowed_methods, reason = "ages are relative to the current time")]
fn draw(selection: &Selection, views: &[View]) -> String {
    draw_at(selection, views, Timestamp::now())
}

fn draw_at(selection: &Selection, views: &[View], now: Timestamp) -> String {
    let canvas = Canvas { now, width: size().map(|(columns, _)| columns) };
    let text = match (&selection.name, views) {
        (Some(_), [view]) => canvas.service(view),
        (Some(name), _) => format!("OnionBalancedService {name} was deleted.\n"),
        (None, views) => canvas.list(views),
    };
    // Colours are off without a terminal, and with NO_COLOR or TERM=dumb.
    match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => strip_str(&text).to_string(),
        _ => text,
    }
}

/// Returns the number of columns and the number of rows if standard output is a terminal.
fn size() -> Option<(u16, u16)> {
    terminal_size::terminal_size_of(io::stdout()).map(|(columns, rows)| (columns.0, rows.0))
}
