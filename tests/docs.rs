//! Checks the documentation: links and anchors resolve, the reasons of all conditions are
//! documented, every page that contains commands says which test runs them, every table of figures
//! is followed by its date, command and machine, and reported faults have tests.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic reports the failure of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use onionbalance_operator::crd::Reason;

fn source_tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns all files below a folder whose names have the given ending, sorted. Hidden folders and
/// build output are skipped.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("could not list the folder") {
        let path = entry.expect("could not read the folder's entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the lines of a page that are outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Returns the texts between single backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<_> = prose(text).collect();
    let plain: String = prose.join("\n").split('`').step_by(2).collect();
    let ends = plain.split("](").skip(1);
    ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// Returns the anchors that GitHub generates for a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings =
        prose(text).filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    headings
        .map(|heading| {
            let kept = heading.trim().to_lowercase();
            let kept: String = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect();
            let anchor = kept.replace(' ', "-");
            let before = seen.entry(anchor.clone()).or_default();
            *before += 1;
            if *before == 1 { anchor } else { format!("{anchor}-{}", *before - 1) }
        })
        .collect()
}

#[test]
fn every_link_resolves() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for page in files(source_tree(), ".md") {
        let text = read(&page);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                page.clone()
            } else {
                page.parent().expect("the page has no parent folder").join(path)
            };
            let found = target.exists()
                && (anchor.is_empty() || (target.is_file() && anchors(&read(&target)).contains(anchor)));
            if !found {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "these links do not resolve:\n{}", faults.join("\n"));
    assert!(count > 30, "found only {count} links");
}

#[test]
fn the_overview_lists_every_page() {
    let folder = source_tree().join("docs");
    let listed = links(&read(&folder.join("README.md")));
    let pages = files(&folder, ".md").into_iter().filter(|page| page.parent() == Some(folder.as_path()));
    let names = pages.map(|page| page.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let missing: Vec<_> = names.filter(|name| name != "README.md" && !listed.contains(name)).collect();
    assert!(missing.is_empty(), "list these pages in docs/README.md: {missing:?}");
}

/// A page that contains shell commands must say which test runs them: it names the file of a test
/// or a `make test` command.
#[test]
fn pages_with_commands_name_the_test_that_runs_them() {
    let mut faults = Vec::new();
    for page in files(&source_tree().join("docs"), ".md") {
        let text = read(&page);
        let has_commands = text.lines().any(|line| line.trim_start() == "```sh");
        let is_test = |text: &str| {
            text.starts_with("make test") || (text.contains("tests/") && source_tree().join(text).exists())
        };
        if has_commands && !quoted(&text).any(is_test) {
            faults.push(page);
        }
    }
    assert!(faults.is_empty(), "these pages do not name a test: {faults:?}");
}

/// Returns the conditions and the reasons that each row of a page's tables names. With `cell` 0,
/// the first cell names the condition and the second names the reasons; otherwise, the given cell
/// names both.
fn reasons(page: &str, cell: usize) -> Vec<(Vec<String>, Vec<String>)> {
    let text = read(&source_tree().join("docs").join(page));
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let is_name = |text: &&str| text.starts_with(char::is_uppercase) && text.chars().all(char::is_alphanumeric);
    let names = |text: &str| quoted(text).filter(is_name).map(ToOwned::to_owned).collect::<Vec<_>>();
    rows.filter_map(|row| {
        let cells: Vec<_> = row.split('|').skip(1).collect();
        let both = if cell == 0 { (cells.first()?, cells.get(1)?) } else { return split(cells.get(cell)?, names) };
        Some((names(both.0), names(both.1)))
    })
    .filter(|(conditions, reasons)| !conditions.is_empty() && !reasons.is_empty())
    .collect()
}

fn split(cell: &str, names: impl Fn(&str) -> Vec<String>) -> Option<(Vec<String>, Vec<String>)> {
    let (conditions, reason) = cell.split_once(':')?;
    Some((names(conditions), names(reason)))
}

fn pairs(rows: Vec<(Vec<String>, Vec<String>)>) -> BTreeSet<(String, String)> {
    let pairs = rows.into_iter().flat_map(|(conditions, reasons)| {
        conditions
            .into_iter()
            .flat_map(move |condition| reasons.clone().into_iter().map(move |reason| (condition.clone(), reason)))
    });
    pairs.collect()
}

/// Returns the page whose section "Conditions" lists the reasons for each condition.
fn page_of_conditions() -> &'static str {
    let has_section = |page: &&str| {
        let path = source_tree().join("docs").join(page);
        path.exists() && read(&path).lines().any(|line| line == "## Conditions")
    };
    ["internals.md", "architecture.md"].into_iter().find(has_section).expect("no page has a section \"Conditions\"")
}

/// Returns the pairs of condition and reason in the table of the section "Conditions".
fn documented() -> BTreeSet<(String, String)> {
    let kinds = [
        "Accepted",
        "MasterKeyReady",
        "SigningKeysReady",
        "ClientsReady",
        "BackendsReady",
        "Published",
        "Reachable",
        "GuardsShared",
        "Ready",
    ];
    let rows = reasons(page_of_conditions(), 0).into_iter().filter(|(names, _)| kinds.contains(&names[0].as_str()));
    pairs(rows.map(|(names, reasons)| (names[..1].to_vec(), reasons)).collect())
}

#[test]
fn the_operations_guide_explains_every_reason() {
    let (known, explained) = (documented(), pairs(reasons("operations.md", 1)));
    assert!(known.len() > 30, "{known:?}");
    let missing: Vec<_> = known.difference(&explained).collect();
    let unknown: Vec<_> = explained.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not explained: {missing:?}; unknown: {unknown:?}");
}

/// The reason `Pending`, the schema's default, is described in the section's text and not in the
/// table.
#[test]
fn the_table_of_conditions_lists_exactly_the_reasons_in_the_source() {
    let source: BTreeSet<_> = Reason::ALL
        .iter()
        .filter(|reason| **reason != Reason::Pending)
        .flat_map(|reason| reason.conditions().iter().map(|kind| (kind.as_str().to_owned(), reason.to_string())))
        .collect();
    let documented = documented();
    let missing: Vec<_> = source.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&source).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:?}; unknown: {unknown:?}");
}

/// Returns the cells of the rows of the table in the section "Reported faults" of `testing.md`.
fn reported_faults() -> Vec<Vec<String>> {
    let text = read(&source_tree().join("docs/testing.md"));
    let (_, section) =
        text.split_once("\n## Reported faults\n").expect("testing.md has no section \"Reported faults\"");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Returns the names of the test functions that a source file contains.
fn test_functions(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices("fn ") {
        let before = code[..start].trim_end().trim_end_matches("async").trim_end();
        let name: String = code[start + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let attribute = before.rsplit('\n').next().unwrap_or_default().trim();
        if attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test") {
            found.insert(name);
        }
    }
    found
}

#[test]
fn every_reported_fault_has_a_source_and_tests_that_exist() {
    let files = ["src", "tests", "e2e/src", "e2e/tests"].map(|folder| files(&source_tree().join(folder), ".rs"));
    let known: BTreeSet<String> = files.iter().flatten().flat_map(|file| test_functions(&read(file))).collect();
    let rows = reported_faults();
    assert!(rows.len() >= 18, "found only {} faults", rows.len());
    for row in rows {
        let [fault, sources, expected, tests] = row.as_slice() else { panic!("{row:?} does not have four cells") };
        assert!(!expected.is_empty(), "{fault}: says nothing about the expected behaviour");
        assert!(sources.starts_with('[') && sources.contains("](https://"), "{fault}: {sources:?} is no link");
        let names: Vec<_> = quoted(tests).collect();
        assert!(!names.is_empty(), "{fault}: names no test");
        let missing: Vec<_> = names.into_iter().filter(|name| !known.contains(*name)).collect();
        assert!(missing.is_empty(), "{fault}: these tests do not exist: {missing:?}");
    }
}

#[test]
fn test_functions_are_recognised() {
    let code =
        "#[test]\nfn a() {}\nfn b() {}\n    #[tokio::test(start_paused = true)]\n    async fn c_1() {}\n// fn d\n";
    assert_eq!(test_functions(code), ["a", "c_1"].map(ToOwned::to_owned).into());
}

/// Neither a publisher nor an HSDir can see that an instance lacks an option, so the pages must
/// explain the symptom.
#[test]
fn an_instance_that_ignores_the_common_address_is_explained() {
    for page in ["migrate-from-python.md", "external-backends.md"] {
        let text = read(&source_tree().join("docs").join(page));
        let mut symptoms = text.lines().filter(|line| line.starts_with("| some connections fail or are slow"));
        let row = symptoms.next().unwrap_or_else(|| panic!("{page} does not list the symptom"));
        for remedy in ["`HiddenServiceOnionBalanceInstance 1`", "`MasterOnionAddress`", "`ob_config`", "restart tor"] {
            assert!(row.contains(remedy), "{page}: the remedy {remedy} is missing: {row}");
        }
    }
}

/// Returns the durations that a source file contains as literals, in the form of the table in
/// `testing.md`.
fn durations(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (start, unit) in [("Duration::from_secs(", "s"), ("Duration::from_millis(", "ms")] {
        let numbers = code.split(start).skip(1).filter_map(|rest| rest.split(')').next());
        let literals = numbers.filter(|number| number.starts_with(|c: char| c.is_ascii_digit()));
        found.extend(literals.map(|number| format!("{number} {unit}")));
    }
    found
}

/// Returns the durations that the table in `testing.md` explains for each file.
fn explained_durations(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.filter(|(file, _)| Path::new(file).extension().is_some_and(|kind| kind == "rs") && !file.contains(' '))
        .map(|(file, rest)| {
            let times = rest.split('|').next().unwrap_or_default();
            (file.to_owned(), times.trim().split(", ").map(ToOwned::to_owned).collect())
        })
        .collect()
}

#[test]
fn every_time_in_a_test_is_explained() {
    let mut found = BTreeMap::new();
    for folder in ["tests", "e2e/src", "e2e/tests"] {
        for file in files(&source_tree().join(folder), ".rs") {
            let name = file.strip_prefix(source_tree()).expect("the file is in the tree").display().to_string();
            // The faults of `make chaos` have limits of their own. The comparisons with arti and
            // stem, and this file, do not wait for anything.
            let times = durations(&read(&file));
            let others = ["e2e/src/chaos/", "tests/oracle/", "tests/docs.rs"];
            if !times.is_empty() && !others.iter().any(|other| name.starts_with(other)) {
                found.insert(name, times);
            }
        }
    }
    let explained = explained_durations(&read(&source_tree().join("docs/testing.md")));
    assert!(found.len() > 30, "{found:?}");
    let names: BTreeSet<&String> = found.keys().chain(explained.keys()).collect();
    let both = names.into_iter().map(|name| (name, found.get(name), explained.get(name)));
    let differ: Vec<_> = both.filter(|(_, found, explained)| found != explained).collect();
    assert!(differ.is_empty(), "explain these times in docs/testing.md (file, code, page): {differ:#?}");
}

#[test]
fn durations_are_recognised() {
    let code = "timeout(Duration::from_secs(5), f); Duration::from_millis(50); Duration::from_secs(limit)";
    assert_eq!(durations(code), ["5 s", "50 ms"].map(ToOwned::to_owned).into());
    let page =
        "| file | times | use |\n|---|---|---|\n| `a/b.rs` | 50 ms, 5 s | window: 7 s |\n| `a.rs` and `b.rs` | x |\n";
    let expected = BTreeMap::from([("a/b.rs".to_owned(), durations(code))]);
    assert_eq!(explained_durations(page), expected);
}

/// Returns the paragraph after each table of a page, or an empty text at the end of the page.
fn paragraphs_after_tables(page: &str) -> Vec<String> {
    let paragraphs: Vec<_> = page.split("\n\n").collect();
    let tables = paragraphs.iter().enumerate().filter(|(_, paragraph)| paragraph.starts_with('|'));
    tables.map(|(place, _)| paragraphs.get(place + 1).unwrap_or(&"").replace('\n', " ")).collect()
}

/// Returns true if a paragraph begins with the date, the command and the machine of a measurement,
/// or says that there was none.
fn names_date_command_and_machine(paragraph: &str) -> bool {
    if paragraph.starts_with("Not measured yet: ") {
        return true;
    }
    let Some(origin) = paragraph.strip_prefix("Measured on ") else { return false };
    let date: String = origin.chars().take(10).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let command = quoted(origin).any(|text| text.starts_with("make ") || text.starts_with("onionbalance-bench "));
    let machine = ["cores of", " × ", "](#the-machine)"].iter().any(|machine| origin.contains(machine));
    date == "0000-00-00" && command && machine
}

#[test]
fn every_table_of_figures_names_its_date_command_and_machine() {
    let pages = [
        ("performance.md", "# Performance"),
        ("reliability.md", "\n## Results\n"),
        ("sizing.md", "\n## What a service needs\n"),
    ];
    for (page, first) in pages {
        let text = read(&source_tree().join("docs").join(page));
        let (_, figures) = text.split_once(first).unwrap_or_else(|| panic!("{page} has no {first:?}"));
        let found = paragraphs_after_tables(figures);
        assert!(found.len() > 1, "{page}: {found:?}");
        let unnamed: Vec<_> = found.iter().filter(|paragraph| !names_date_command_and_machine(paragraph)).collect();
        assert!(unnamed.is_empty(), "{page}: these texts after tables lack a date, command or machine: {unnamed:?}");
    }
}

#[test]
fn the_origin_of_figures_is_recognised() {
    let page = "Text.\n\n| a |\n|---|\n| 1 |\n\nMeasured on\n2026-11-26.\n\n| b |\n";
    assert_eq!(paragraphs_after_tables(page), ["Measured on 2026-11-26.", ""]);
    let complete = "Measured on 2026-11-26 with `make bench` on two cores of a processor.";
    assert!(names_date_command_and_machine(complete));
    assert!(names_date_command_and_machine("Measured on 2026-11-26 with `make bench`: Debian, 2 × AMD EPYC."));
    for missing in ["Measured on ", "2026-11-26", "`make bench`", "cores of"] {
        assert!(!names_date_command_and_machine(&complete.replace(missing, "")), "{missing}");
    }
}

#[test]
fn links_and_anchors_are_recognised() {
    let page = "# One `two`\n[a](b.md#c) `[x](no)`\n```sh\n# [y](no)\n```\n## Three, four?\n## Three four\n";
    assert_eq!(links(page), ["b.md#c"]);
    assert_eq!(anchors(page), ["one-two", "three-four", "three-four-1"].map(ToOwned::to_owned).into());
}
