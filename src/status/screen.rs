//! Writes to standard output: plain text, or a terminal screen that is redrawn and can be scrolled.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue, style};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use super::draw::Canvas;
use super::read::Selection;
use super::view::View;

/// Returns the keys that the user presses and the changes of the terminal's size. There are none
/// without a terminal.
pub fn events(is_terminal: bool) -> BoxStream<'static, io::Result<Event>> {
    if is_terminal { EventStream::new().boxed() } else { stream::pending().boxed() }
}

/// The display of `status --watch`. Dropping it returns to the normal screen and prints the last
/// state of the services there.
pub struct Screen {
    is_terminal: bool,
    last: String,
    /// The first line of the text that is shown.
    top: usize,
}

impl Screen {
    /// Opens the display, which uses the alternate screen if standard output is a terminal.
    pub fn open(is_terminal: bool) -> io::Result<Self> {
        if is_terminal {
            terminal::enable_raw_mode()?;
        }
        // From here on, dropping the value restores the terminal.
        let screen = Self { is_terminal, last: String::new(), top: 0 };
        if is_terminal {
            execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        }
        Ok(screen)
    }

    /// Shows the services after an event, if there was one. Without a terminal, prints them only if
    /// anything other than ages has changed since the last call. Breaks if the user wants to leave.
    pub fn show(
        &mut self,
        selection: &Selection,
        views: &[View],
        event: Option<&Event>,
    ) -> io::Result<ControlFlow<()>> {
        if !self.is_terminal {
            let timeless = draw_at(selection, views, &Canvas { now: Timestamp::UNIX_EPOCH, ..Canvas::of_output() });
            if timeless != self.last {
                writeln!(io::stdout(), "{}", draw_at(selection, views, &Canvas::of_output()))?;
                self.last = timeless;
            }
            return Ok(ControlFlow::Continue(()));
        }
        let (columns, rows) = terminal::size()?;
        let page = usize::from(rows).saturating_sub(1).max(1);
        if let Some(Event::Key(key)) = event
            && key.kind != KeyEventKind::Release
        {
            match scrolled(*key, self.top, page) {
                Some(top) => self.top = top,
                None if leaves(*key) => return Ok(ControlFlow::Break(())),
                None => {}
            }
        }
        let canvas = Canvas { lines: None, width: Some(columns), ..Canvas::of_output() };
        let text = draw_at(selection, views, &canvas);
        let lines: Vec<_> = text.lines().map(|line| (line, canvas.height(line).max(1))).collect();
        let heights: Vec<_> = lines.iter().map(|(_, height)| *height).collect();
        self.top = self.top.min(last_top(&heights, page));
        let mut out = io::BufWriter::new(io::stdout().lock());
        queue!(out, cursor::MoveTo(0, 0))?;
        let (mut used, mut shown) = (0, 0);
        for (line, height) in lines.iter().skip(self.top) {
            if used + height > page {
                break;
            }
            queue!(out, style::Print(line), Clear(ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
            (used, shown) = (used + height, shown + 1);
        }
        queue!(out, Clear(ClearType::FromCursorDown), cursor::MoveTo(0, rows.saturating_sub(1)))?;
        let below = lines.len().saturating_sub(self.top + shown);
        queue!(out, style::Print(footer(self.top, below)))?;
        out.flush()?;
        self.last = text;
        Ok(ControlFlow::Continue(()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            // If this fails, the terminal is gone and there is nothing to restore.
            let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
            let _ = terminal::disable_raw_mode();
            let _ = write!(io::stdout(), "{}", self.last);
            let _ = io::stdout().flush();
        }
    }
}

/// Returns true if a key ends the display. In raw mode, Ctrl-C is a key and sends no signal.
fn leaves(key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// Returns the first line to show after a key, or None if the key does not scroll. The line may be
/// after the end of the text.
fn scrolled(key: KeyEvent, top: usize, page: usize) -> Option<usize> {
    Some(match key.code {
        KeyCode::Up | KeyCode::Char('k') => top.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => top.saturating_add(1),
        KeyCode::PageUp | KeyCode::Char('b') => top.saturating_sub(page),
        KeyCode::PageDown | KeyCode::Char(' ') => top.saturating_add(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => usize::MAX,
        _ => return None,
    })
}

/// Returns the greatest first line with which the page is full. `heights` are those of all lines.
fn last_top(heights: &[usize], page: usize) -> usize {
    let mut used = 0;
    let fitting = heights.iter().rev().take_while(|height| {
        used += **height;
        used <= page
    });
    heights.len().saturating_sub(fitting.count().max(1))
}

fn footer(above: usize, below: usize) -> String {
    match (above, below) {
        (0, 0) => "q quits".to_owned(),
        _ => format!("q quits, arrow and page keys scroll: {above} lines above, {below} below"),
    }
}

/// Prints the services once. On a terminal, a list fits the screen unless `whole` is true.
pub fn print(selection: &Selection, views: &[View], whole: bool) -> io::Result<()> {
    let canvas = Canvas::of_output();
    let canvas = if whole { Canvas { width: None, lines: None, ..canvas } } else { canvas };
    write!(io::stdout(), "{}", draw_at(selection, views, &canvas))
}

impl Canvas {
    /// Returns the canvas for standard output. On a terminal, one line is left for the prompt.
    #[allow(clippy::disallowed_methods, reason = "ages are relative to the current time")]
    pub fn of_output() -> Self {
        let size = terminal_size::terminal_size_of(io::stdout());
        Self {
            now: Timestamp::now(),
            width: size.map(|(columns, _)| columns.0),
            lines: size.map(|(_, rows)| usize::from(rows.0).saturating_sub(1)),
        }
    }
}

fn draw_at(selection: &Selection, views: &[View], canvas: &Canvas) -> String {
    let text = match (&selection.name, views) {
        (Some(_), [view]) => canvas.service(view),
        (Some(name), _) => format!("OnionBalancedService {name} was deleted.\n"),
        (None, views) => canvas.list(views, selection.namespace.is_none()),
    };
    for_output(text)
}

/// Removes the colours from a text unless standard output shows them. Colours are off without a
/// terminal, and with `NO_COLOR` or `TERM=dumb`.
pub fn for_output(text: String) -> String {
    match AutoStream::choice(&io::stdout()) {
        ColorChoice::Never => strip_str(&text).to_string(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_scroll_or_leave() {
        let press = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let scroll = |code| scrolled(press(code), 30, 20);
        assert_eq!(scroll(KeyCode::Up), Some(29));
        assert_eq!(scroll(KeyCode::Char('j')), Some(31));
        assert_eq!(scroll(KeyCode::PageUp), Some(10));
        assert_eq!(scroll(KeyCode::Char(' ')), Some(50));
        assert_eq!((scroll(KeyCode::Home), scroll(KeyCode::End)), (Some(0), Some(usize::MAX)));
        assert_eq!(scrolled(press(KeyCode::Up), 0, 20), Some(0));
        assert_eq!(scroll(KeyCode::Char('q')), None);
        assert!([KeyCode::Char('q'), KeyCode::Esc].into_iter().all(|code| leaves(press(code))));
        assert!(!leaves(press(KeyCode::Char('c'))));
        assert!(leaves(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn the_last_page_is_full() {
        assert_eq!(last_top(&[1; 50], 20), 30);
        assert_eq!(last_top(&[1; 20], 20), 0);
        assert_eq!(last_top(&[1, 1, 2, 3], 5), 2, "long lines take several lines of the screen");
        assert_eq!(last_top(&[1, 9], 5), 1, "a line that is longer than the screen is shown");
        assert_eq!(last_top(&[], 5), 0);
    }
}
