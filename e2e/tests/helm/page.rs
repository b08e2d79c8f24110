//! Reads the commands of a documentation page together with the output that the page shows for
//! them.

use anyhow::{Result, bail, ensure};
use onionbalance_e2e::page::Page;

/// A block of commands, and the output that the page shows for them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DocumentedStep {
    pub commands: String,
    pub shown: String,
}

/// Returns the `sh` blocks of a page in order, each with the `text` block that follows it.
pub fn steps(page: &Page) -> Result<Vec<DocumentedStep>> {
    let mut steps: Vec<DocumentedStep> = Vec::new();
    for (language, text) in page.blocks() {
        match (language, steps.last_mut()) {
            ("sh", _) => steps.push(DocumentedStep { commands: text.to_owned(), shown: String::new() }),
            ("text", Some(step)) if step.shown.is_empty() => text.clone_into(&mut step.shown),
            _ => bail!("a block is neither commands (sh) nor their output (text): {language}\n{text}"),
        }
    }
    Ok(steps)
}

/// Checks that the output contains all shown lines in the same order and with the same words. "…"
/// within a shown word stands for any characters. A shown line that consists only of "…" is
/// ignored.
pub fn compare(shown: &str, output: &str) -> Result<()> {
    let mut lines = output.lines();
    for expected in shown.lines().filter(|line| !["", "…"].contains(&line.trim())) {
        ensure!(lines.any(|line| is_like(expected, line)), "the commands did not print this line: {expected}");
    }
    Ok(())
}

fn is_like(expected: &str, line: &str) -> bool {
    let (expected, words): (Vec<_>, Vec<_>) =
        (expected.split_whitespace().collect(), line.split_whitespace().collect());
    expected.len() == words.len() && expected.iter().zip(&words).all(|(expected, word)| is_word_like(expected, word))
}

fn is_word_like(expected: &str, word: &str) -> bool {
    match expected.split_once('…') {
        Some((start, end)) => word.len() >= start.len() + end.len() && word.starts_with(start) && word.ends_with(end),
        None => expected == word,
    }
}

#[test]
fn commands_are_read_from_a_page_and_their_output_is_compared() {
    let page = "# A\n```sh\na \\\n  b\n```\nor\n```text\nNAME  AGE\nweb…  …\n```\n```sh\nc\n```\n";
    let read = steps(&Page::of("page", page)).unwrap();
    let step = |commands: &str, shown: &str| DocumentedStep { commands: commands.to_owned(), shown: shown.to_owned() };
    assert_eq!(read, [step("a \\\n  b\n", "NAME  AGE\nweb…  …\n"), step("c\n", "")]);
    steps(&Page::of("page", "```yaml\na: b\n```\n")).unwrap_err();
    assert!(compare(&read[0].shown, "hello\nNAME   AGE\nweb-1 5s\n").is_ok());
    for other in ["NAME AGE", "web-1 5s\nNAME AGE", "NAME AGE\nwe 5s", "NAME AGE\nweb-1 5s ago"] {
        compare(&read[0].shown, other).unwrap_err();
    }
}
