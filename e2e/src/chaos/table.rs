//! The table in `docs/reliability.md`, which is generated from the limits and from a [`Record`].

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::effort::Effort;
use super::fault::{Fault, all_limits};
use super::faults::all;
use super::figure::{Figure, Results};
use super::limit::Limit;
use super::record::Record;
use crate::state::source_tree;

/// The lines of the page between which the table is.
const MARKERS: [&str; 2] = ["<!-- The table of `e2e chaos --table` begins. -->", "<!-- The table ends. -->"];
/// The figures that have columns of their own.
const COLUMNS: [&str; 4] = ["requests", "failed", "cut", "slow"];
/// The figures without a limit that the table shows if they were measured.
const INFORMATIVE: [&str; 6] =
    ["fewest_points", "guards_connected", "unlimited_failed", "fresh_slow", "cached_slow", "load"];

/// Replaces the table in `docs/reliability.md`. Without a record, the table has only the limits.
/// Returns the path of the page.
pub fn write(record: Option<&Path>) -> Result<PathBuf> {
    let record = record.map(read).transpose()?;
    let path = page();
    let text = fs::read_to_string(&path)?;
    fs::write(&path, replaced(&text, &render(record.as_ref()))?)?;
    Ok(path)
}

fn read(path: &Path) -> Result<Record> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    Record::parse(&text).with_context(|| format!("{} is not a file of figures", path.display()))
}

fn page() -> PathBuf {
    source_tree().join("docs/reliability.md")
}

/// Returns the page with another table between the markers.
fn replaced(page: &str, table: &str) -> Result<String> {
    let [begin, end] = MARKERS;
    let (before, rest) = page.split_once(begin).with_context(|| format!("the page has no line {begin:?}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("the page has no line {end:?}"))?;
    Ok(format!("{before}{begin}\n{table}{end}{after}"))
}

/// Returns the table, with one row for each fault.
fn render(record: Option<&Record>) -> String {
    let mut text = String::new();
    for run in record.iter().flat_map(|record| &record.runs) {
        let origin = format!("Measured on {} with `{}`: {}.", run.date, run.command, run.machine);
        let _ = write!(text, "\n{}\n", wrapped(&origin));
    }
    let plain = if record.is_some() { " plain service: `failed`, `cut`, `slow` |" } else { "" };
    let _ = writeln!(text, "\n| fault | `requests` | `failed` | `cut` | `slow` |{plain} other figures |");
    let _ = writeln!(text, "|---|---|---|---|---|{}---|", if record.is_some() { "---|" } else { "" });
    for fault in all() {
        text += &row(fault.as_ref(), record);
    }
    text + "\n"
}

/// Wraps a paragraph like the rest of the page.
fn wrapped(paragraph: &str) -> String {
    const COLUMNS: usize = 120;
    let (mut text, mut width) = (String::new(), 0);
    for word in paragraph.split(' ') {
        let length = word.chars().count();
        if width > 0 {
            let fits = width + 1 + length <= COLUMNS;
            text.push(if fits { ' ' } else { '\n' });
            width = if fits { width + 1 } else { 0 };
        }
        text += word;
        width += length;
    }
    text
}

fn row(fault: &dyn Fault, record: Option<&Record>) -> String {
    let limits = all_limits(fault, Effort::FULL.requests);
    let results = record.and_then(|record| record.of(fault.name()));
    let mut row = format!("| `{}`: {} |", fault.name(), fault.about());
    for column in COLUMNS {
        let limit = limits.iter().find(|limit| limit.what == column);
        let _ = write!(row, " {} |", cell(column, limit, record.is_some(), results));
    }
    if record.is_some() {
        let count = |what| shown(results.and_then(|results| results.get(what)));
        let _ = write!(row, " {}, {}, {} |", count("plain_failed"), count("plain_cut"), count("plain_slow"));
    }
    let others = limits.iter().filter(|limit| !COLUMNS.contains(&limit.what));
    let mut others: Vec<_> = others
        .map(|limit| format!("`{}` {}", limit.what, cell(limit.what, Some(limit), record.is_some(), results)))
        .collect();
    if let Some(results) = results {
        let informative = INFORMATIVE.iter().filter(|what| limits.iter().all(|limit| limit.what != **what));
        let informative = informative.filter_map(|what| results.get(what));
        others.extend(informative.map(|figure| format!("`{}` {}", figure.what, shown(Some(figure)))));
    }
    let _ = writeln!(row, " {} |", others.join("; "));
    row
}

/// Returns a figure and its limit, and the figure of the plain onion service unless a column shows
/// it. If nothing was measured at all, returns only the limit.
fn cell(what: &str, limit: Option<&Limit>, measured: bool, results: Option<&Results>) -> String {
    let unit = if what.ends_with("_s") { " s" } else { "" };
    let bound = limit.map(|limit| format!("{}{unit}", limit.bound)).unwrap_or_default();
    if !measured {
        return bound;
    }
    let missed = limit.is_some_and(|limit| results.is_some_and(|results| !limit.holds(results)));
    let verdict = if missed { ", **missed**" } else { "" };
    let plain = results.and_then(|results| results.get(&format!("plain_{what}")));
    let plain = plain.filter(|_| !COLUMNS.contains(&what)).map(|plain| format!("; plain {}", shown(Some(plain))));
    format!("{} ({bound}{verdict}{})", shown(results.and_then(|results| results.get(what))), plain.unwrap_or_default())
}

fn shown(figure: Option<&Figure>) -> String {
    figure.map_or_else(
        || "not measured".to_owned(),
        |figure| {
            let unit = if figure.unit == "s" { " s" } else { "" };
            format!("{}{unit}", figure.shown())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of one fault, one of which misses its limit.
    const RECORD: &str = "date 2026-12-01\ncommand make chaos\nmachine two cores\n\
         figure backend_tor_kill_requests 300 requests\nfigure backend_tor_kill_failed 1 requests\n\
         figure backend_tor_kill_cut 0 requests\nfigure backend_tor_kill_slow 4 requests\n\
         figure backend_tor_kill_plain_failed 2 requests\nfigure backend_tor_kill_plain_cut 0 requests\n\
         figure backend_tor_kill_plain_slow 3 requests\nfigure backend_tor_kill_gone_s 3.2 s\nfigure backend_tor_kill_plain_gone_s 4 s\n\
         figure backend_tor_kill_hsdirs 8 HSDirs\nfigure backend_tor_kill_other_hsdirs 7 HSDirs\nfigure backend_tor_kill_fresh_slow 1 requests\n\
         figure backend_tor_kill_false_alarms 0 alarms\nfigure backend_tor_kill_cached_slow 3 requests\nfigure backend_tor_kill_load 2.5\n";

    #[test]
    fn the_page_has_the_limits_of_the_code_and_the_figures_of_one_complete_run() {
        let figures = source_tree().join("docs/figures/chaos.txt");
        let record = figures.exists().then(|| read(&figures).unwrap());
        if let Some(record) = &record {
            let missing: Vec<_> =
                all().iter().map(|fault| fault.name()).filter(|name| record.of(name).is_none()).collect();
            assert!(missing.is_empty(), "{} has no figures of {missing:?}", figures.display());
        }
        let text = fs::read_to_string(page()).unwrap();
        let wanted = replaced(&text, &render(record.as_ref())).unwrap();
        assert!(text == wanted, "the table of docs/reliability.md is out of date; run `make generate`");
    }

    #[test]
    fn a_row_shows_each_figure_with_its_limit() {
        let table = render(Some(&Record::parse(RECORD).unwrap()));
        assert!(table.starts_with("\nMeasured on 2026-12-01 with `make chaos`: two cores.\n\n| fault |"), "{table}");
        let row = table.lines().find(|line| line.starts_with("| `backend_tor_kill`")).unwrap();
        let cells: Vec<_> = row.split('|').skip(2).map(str::trim).collect();
        assert_eq!(
            cells,
            [
                "300 (at least 300)",
                "1 (at most 0.5%)",
                "0 (at most 0)",
                "4 (at most 1%, **missed**)",
                "2, 0, 3",
                "`false_alarms` 0 (at most 0); `hsdirs` 8 (at least 8); `other_hsdirs` 7 (at least 8, **missed**); `gone_s` 3.2 s (at most 10 s; plain 4 s); `fresh_slow` 1; `cached_slow` 3; `load` 2.5",
                ""
            ]
        );
        let other = table.lines().find(|line| line.starts_with("| `scale_down`")).unwrap();
        assert!(other.contains("| not measured (at most 0) |"), "{other}");
    }

    #[test]
    fn long_descriptions_of_the_machine_are_wrapped() {
        let words = "word ".repeat(30);
        let text = wrapped(words.trim());
        let widths: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(widths, [119, 29]);
        assert_eq!(text.replace('\n', " "), words.trim());
    }

    #[test]
    fn without_a_record_the_table_has_the_limits_only() {
        let table = render(None);
        let row = table.lines().find(|line| line.starts_with("| `backend_tor_kill`")).unwrap();
        assert!(row.ends_with(
            "| at least 300 | at most 0.5% | at most 0 | at most 1% | `false_alarms` at most 0; `hsdirs` at least 8; `other_hsdirs` at least 8; `gone_s` at most 10 s |"
        ));
    }

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let [begin, end] = MARKERS;
        let page = format!("before\n{begin}\nold\n{end}\nafter\n");
        assert_eq!(replaced(&page, "new\n").unwrap(), format!("before\n{begin}\nnew\n{end}\nafter\n"));
        assert!(replaced("before\n", "new\n").is_err());
    }
}
