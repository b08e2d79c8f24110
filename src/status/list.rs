//! Renders several services: a summary, a table with one line for each service, and the problems.

use std::fmt::Write as _;

use anstream::adapter::strip_str;
use comfy_table::{Table, presets};

use super::draw::{Canvas, headline, hsdirs, newest, points, problems};
use super::view::View;
use crate::crd::Reason;

const NAMESPACE: &str = "NAMESPACE";
const NAME: &str = "NAME";
const ADDRESS: &str = "ADDRESS";
/// The columns that a narrow terminal does without, the least important one first.
const DISPENSABLE: [&str; 4] = [ADDRESS, "PUBLISHED", "HSDIRS", "POINTS"];
/// The states that somebody has chosen. They are no problems of a list.
const CHOSEN: [Reason; 2] = [Reason::Suspended, Reason::ScaledToZero];
/// The number of characters of a shortened address before the ellipsis.
const SHORT_ADDRESS: usize = 8;
/// The number of characters of a name that are shown in any case.
const SHORTEST_NAME: usize = 8;
/// The space between two columns.
const GAP: usize = 2;
/// The lines of a list that are no services: the summary, the header, and the number of services
/// that are left out.
const OTHER_LINES: usize = 3;

impl Canvas {
    /// Renders several services. Those with problems come first. If the number of lines is limited,
    /// services at the end are left out, and the text says how many. Details of problems are left
    /// out, too; the summary counts the problems.
    pub fn list(&self, views: &[View], with_namespaces: bool) -> String {
        if views.is_empty() {
            return "No OnionBalancedServices found.\n".to_owned();
        }
        let problems_of = |view: &View| if is_chosen(view) { Vec::new() } else { view.problems() };
        let mut sorted: Vec<_> = views.iter().map(|view| (view, problems_of(view))).collect();
        sorted.sort_by_key(|(view, problems)| (view.is_ready() || is_chosen(view), problems.is_empty()));
        let with_problems = sorted.iter().filter(|(_, problems)| !problems.is_empty()).count();
        let mut text = summary(views.len(), with_problems);
        let room = self.lines.map_or(usize::MAX, |lines| lines.saturating_sub(OTHER_LINES).max(1));
        let shown: Vec<_> = sorted.iter().take(room).map(|(view, _)| *view).collect();
        let _ = writeln!(text, "{}", self.services(&shown, with_namespaces));
        if shown.len() < views.len() {
            let _ = writeln!(text, "… {} more; -o wide shows all of them", views.len() - shown.len());
        }
        for (view, found) in sorted.iter().filter(|(_, problems)| !problems.is_empty()) {
            let more = format!("\n{}{}", headline(view), problems(found));
            if self.lines.is_some_and(|lines| self.height(&text) + self.height(&more) > lines) {
                break;
            }
            text.push_str(&more);
        }
        text
    }

    /// Renders the table of services. It fits the terminal unless the names alone are too long.
    fn services(&self, views: &[&View], with_namespaces: bool) -> String {
        let mut columns = self.columns(views);
        columns.retain(|column| with_namespaces || column.name != NAMESPACE);
        if let Some(width) = self.width {
            fit(&mut columns, width.into());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(columns.iter().map(|column| column.name));
        for row in 0..views.len() {
            table.add_row(columns.iter().filter_map(|column| column.cells.get(row)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    }

    fn columns(&self, views: &[&View]) -> Vec<Column> {
        let names = [NAMESPACE, NAME, "STATE", "READY", "POINTS", "HSDIRS", "PUBLISHED", ADDRESS];
        let mut columns: Vec<_> = names.map(|name| Column { name, cells: Vec::new() }).into();
        for view in views {
            let status = view.status().cloned().unwrap_or_default();
            let (accepted, total) = hsdirs(&status);
            let absent = || "-".to_owned();
            let cells = [
                view.namespace.clone(),
                view.name.clone(),
                view.state().to_owned(),
                status.ready.clone().unwrap_or_else(absent),
                points(&status).map_or_else(absent, |points| points.to_string()),
                if total == 0 { absent() } else { format!("{accepted}/{total}") },
                newest(&status).map_or_else(|| "never".to_owned(), |at| format!("{} ago", self.age(at))),
                status.onion_address.clone().unwrap_or_else(absent),
            ];
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.cells.push(cell));
        }
        columns
    }

    /// Returns the number of lines that a text takes on the terminal, which wraps long ones.
    pub fn height(&self, text: &str) -> usize {
        let width = self.width.map_or(usize::MAX, |width| usize::from(width.max(1)));
        text.lines().map(|line| strip_str(line).to_string().chars().count().div_ceil(width).max(1)).sum()
    }
}

fn is_chosen(view: &View) -> bool {
    CHOSEN.iter().any(|reason| reason.as_str() == view.state())
}

fn summary(services: usize, with_problems: usize) -> String {
    let services = if services == 1 { "1 service".to_owned() } else { format!("{services} services") };
    match with_problems {
        0 => format!("{services}, without problems\n"),
        _ => format!("{services}, {with_problems} with problems; for the remedies: status NAME\n"),
    }
}

struct Column {
    name: &'static str,
    cells: Vec<String>,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|cell| cell.chars().count()).chain([self.name.len()]).max().unwrap_or_default()
    }

    fn shorten(&mut self, length: usize) {
        for cell in self.cells.iter_mut().filter(|cell| cell.chars().count() > length) {
            *cell = cell.chars().take(length.saturating_sub(1)).chain(['…']).collect();
        }
    }
}

/// Makes the columns fit into the width: shortens the addresses, leaves columns out, and shortens
/// the names, in this order and as far as needed.
fn fit(columns: &mut Vec<Column>, width: usize) {
    let total = |columns: &[Column]| columns.iter().map(|column| column.width() + GAP).sum::<usize>();
    let width = width.saturating_add(GAP);
    if total(columns) > width {
        for column in columns.iter_mut().filter(|column| column.name == ADDRESS) {
            for cell in column.cells.iter_mut().filter(|cell| cell.len() > SHORT_ADDRESS) {
                *cell = cell.chars().take(SHORT_ADDRESS).chain("….onion".chars()).collect();
            }
        }
    }
    for name in DISPENSABLE {
        if total(columns) > width {
            columns.retain(|column| column.name != name);
        }
    }
    while total(columns) > width {
        let names = columns.iter_mut().filter(|column| column.name == NAME || column.name == NAMESPACE);
        let Some(longest) = names.max_by_key(|column| column.width()) else { return };
        if longest.width() <= SHORTEST_NAME.max(NAMESPACE.len()) {
            return;
        }
        longest.shorten(longest.width() - 1);
    }
}

#[cfg(test)]
mod tests;
