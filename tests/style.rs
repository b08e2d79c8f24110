//! Checks style rules that rustfmt does not: the width of comments and pages, and the location of
//! unit tests.

#![allow(clippy::expect_used, reason = "a test may stop at a file that it cannot read")]

use std::fs;
use std::path::{Path, PathBuf};

/// The maximum width of a comment line in Rust code, in columns.
const COMMENT: usize = 100;
/// The maximum width of a line of Markdown, in columns. Tables and code blocks may be wider.
const MARKDOWN: usize = 120;
/// The folders and files that are written by hand, as opposed to build output and caches.
const WRITTEN: &[&str] = &[
    "src",
    "tests",
    "e2e",
    "bench",
    "testnet",
    "fuzz",
    "docs",
    "charts",
    "deploy",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];

#[test]
fn comments_fit_100_columns() {
    let mut wide = Vec::new();
    for path in files("rs") {
        for (number, line) in read(&path).lines().enumerate() {
            if line.trim_start().starts_with("//") && line.chars().count() > COMMENT {
                wide.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "wrap these comments at {COMMENT} columns:\n{}", wide.join("\n"));
}

#[test]
fn pages_fit_120_columns() {
    let mut wide = Vec::new();
    // The reference is generated; its paragraphs are descriptions from the schema.
    for path in files("md").into_iter().filter(|path| !path.ends_with("docs/reference.md")) {
        wide.extend(wide_lines(&read(&path)).into_iter().map(|number| format!("{}:{number}", path.display())));
    }
    assert!(wide.is_empty(), "wrap these lines at {MARKDOWN} columns:\n{}", wide.join("\n"));
}

#[test]
fn tables_and_code_may_be_wide() {
    let long = "word ".repeat(30);
    let page = format!("{long}\n| {long} |\n\n```sh\n{long}\n```\n{long}\n");
    assert_eq!(wide_lines(&page), [1, 7]);
    assert_eq!(wide_lines(&format!("- {}\n", "x".repeat(130))), [] as [usize; 0]);
}

#[test]
fn unit_tests_are_in_modules_called_tests() {
    let mut misplaced = Vec::new();
    for path in files("rs").into_iter().filter(|path| path.starts_with(root().join("src"))) {
        let text = read(&path);
        let is_test = |line: &str| ["#[test]", "#[tokio::test]"].contains(&line.trim());
        let in_tests = path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part == "tests" || part == "tests.rs"
        });
        let mut before = text.lines().take_while(|line| !line.ends_with("mod tests {"));
        if !in_tests && before.any(is_test) {
            misplaced.push(path.display().to_string());
        }
    }
    assert!(
        misplaced.is_empty(),
        "move these unit tests into `mod tests` or `<module>/tests.rs`:\n{}",
        misplaced.join("\n")
    );
}

/// Returns the line numbers of a page's lines that are too wide. Lines without a space and lines
/// that consist of a single link are skipped, because they cannot be wrapped.
fn wide_lines(page: &str) -> Vec<usize> {
    let (mut found, mut in_code) = (Vec::new(), false);
    for (number, line) in page.lines().enumerate() {
        let text = line.trim_start();
        if text.starts_with("```") {
            in_code = !in_code;
        }
        let breaks = text.trim_start_matches(['-', '*', '>', ' ']).contains(' ');
        if !in_code && !text.starts_with('|') && breaks && line.chars().count() > MARKDOWN {
            found.push(number + 1);
        }
    }
    found
}

/// Returns the files with the given extension, sorted.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = WRITTEN.iter().map(|name| root().join(name)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path)
                .expect("could not list the folder")
                .map(|entry| entry.expect("could not read the entry").path());
            open.extend(entries.filter(|path| !path.ends_with("target")));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    assert!(found.len() > 10, "only {} files with the extension {extension} found", found.len());
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("could not read the file")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
