//! Checks style rules that rustfmt does not: the width of comments and pages, the location of unit
//! tests, and the headers of mutants.

#![allow(clippy::expect_used, reason = "a test may stop at a file that it cannot read")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    "simulate",
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

/// `make mutants` takes long, so this test keeps the patches in `tests/mutants` usable.
#[test]
fn each_mutant_names_its_fault_and_its_tests_and_applies() {
    let holds_tests = |path: &&PathBuf| ["src", "tests"].iter().any(|folder| path.starts_with(root().join(folder)));
    let code: String = files("rs").iter().filter(holds_tests).map(|path| read(path)).collect();
    let problem = |path: PathBuf| Some(format!("{}: {}", path.display(), mutant_problem(&path, &code).err()?));
    let problems: Vec<String> = files("patch").into_iter().filter_map(problem).collect();
    assert!(problems.is_empty(), "mend these mutants (see CONTRIBUTING.md):\n{}", problems.join("\n"));
}

/// Checks the header of a patch, and that the patch applies to the source tree. `code` is the code
/// that contains all tests.
fn mutant_problem(path: &Path, code: &str) -> Result<(), String> {
    let text = read(path);
    let (header, diff) = text.split_once("\ndiff --git ").ok_or("no line begins with \"diff --git\"")?;
    let mut lines = header.lines();
    let fault = lines.next().and_then(|line| line.strip_prefix("Fault: "));
    fault.filter(|fault| fault.ends_with('.')).ok_or("the first line is not \"Fault: \" and a sentence")?;
    let tests: Option<Vec<&str>> = lines.map(|line| line.strip_prefix("Test: ")).collect();
    let tests = tests.filter(|tests| !tests.is_empty()).ok_or("the other lines are not \"Test: GROUP FILTER\"")?;
    for test in tests {
        let (group, filter) = test.split_once(' ').ok_or_else(|| format!("\"{test}\" has no filter"))?;
        let name = filter.rsplit("::").next().unwrap_or(filter);
        if !["unit", "api", "tor"].contains(&group) || !code.contains(&format!("fn {name}(")) {
            return Err(format!("\"{test}\" names no test"));
        }
    }
    let files: Vec<&str> = diff.lines().filter_map(|line| line.strip_prefix("+++ ")).collect();
    let is_source = |file: &&str| file.split_once('/').is_some_and(|(_, file)| file.starts_with("src/"));
    if files.is_empty() || !files.iter().all(is_source) {
        return Err(format!("it changes {files:?} instead of files in src"));
    }
    // The ceiling keeps git from using a repository around the source tree.
    let output = Command::new("git")
        .args(["apply", "--check"])
        .arg(path)
        .current_dir(root())
        .env("GIT_CEILING_DIRECTORIES", root().parent().unwrap_or(root()))
        .output()
        .expect("this test needs the program git, with which it checks that each mutant applies");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// A tag of a base image can change its meaning at any time; a digest cannot.
#[test]
fn base_images_are_named_by_digest() {
    for name in ["operator", "sample", "tor"] {
        let file = read(&root().join(format!("deploy/images/{name}.Dockerfile")));
        let images: Vec<_> = file.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
        assert_eq!(images.last(), Some(&"scratch"), "{name}: the image must contain no base image");
        for image in &images[..images.len() - 1] {
            let digest = image.split_once("@sha256:").and_then(|(_, digest)| digest.split(' ').next());
            let is_digest =
                digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(is_digest, "{name}: FROM {image} has no digest");
        }
    }
}

/// A workflow can publish releases, so it must run exactly the code that was reviewed.
#[test]
fn workflows_name_actions_and_images_by_digest() {
    let mut count = 0;
    for entry in fs::read_dir(root().join(".github/workflows")).expect("could not list the workflows") {
        let path = entry.expect("could not read the entry").path();
        let text = read(&path);
        assert!(text.contains("\npermissions: {}\n"), "{}: each job must name its permissions", path.display());
        for line in text.lines().map(|line| line.trim_start_matches(['-', ' '])) {
            let (reference, length) = match line.split_once(": ") {
                Some(("uses", action)) if !action.starts_with("./") => (action.split_once('@'), 40),
                Some(("container" | "image", image)) => (image.split_once("@sha256:"), 64),
                _ => continue,
            };
            count += 1;
            let digest = reference.and_then(|(_, digest)| digest.split(' ').next());
            let is_digest =
                digest.is_some_and(|digest| digest.len() == length && digest.bytes().all(|b| b.is_ascii_hexdigit()));
            assert!(is_digest, "{}: {line} has no digest", path.display());
        }
    }
    assert!(count > 5, "found only {count} actions and images");
}

/// proptest prints and saves the line that replays a failure, but only if it knows the source file.
/// The macro `proptest!` sets the file; a `TestRunner` needs it in its configuration. A property
/// test with a fixed seed needs no such line.
#[test]
fn property_tests_tell_how_to_replay_a_failure() {
    let mut faults = Vec::new();
    for path in files("rs").into_iter().filter(|path| !path.ends_with("tests/style.rs")) {
        let text = read(&path);
        let knows_source = text.matches("TestRunner::").count() == text.matches("source_file: Some(file!())").count();
        let prints = !text.contains("failure_persistence") || text.contains("RngSeed::Fixed");
        if !knows_source || !prints {
            faults.push(path.display().to_string());
        }
    }
    assert!(
        faults.is_empty(),
        "set source_file, and keep failure_persistence or fix the seed, in:\n{}",
        faults.join("\n")
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
