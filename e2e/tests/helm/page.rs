//! A page's commands, and what it says of their output.

use anyhow::{Result, bail, ensure};
use onionbalance_e2e::page::Page;

/// A block of commands, and the output that the page shows below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub commands: String,
    pub shown: String,
}

/// The `sh` blocks of a page, in order, each with the `text` block that follows it.
pub fn steps(page: &Page) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (language, text) in page.blocks() {
        match (language, steps.last_mut()) {
            ("sh", _) => steps.push(Step { commands: text.to_owned(), shown: String::new() }),
            ("text", Some(step)) if step.shown.is_empty() => text.clone_into(&mut step.shown),
            _ => bail!("a block that is neither commands (sh) nor what they print (text): {language}\n{text}"),
        }
    }
    Ok(steps)
}

/// Whether an output is as it is shown: the shown lines are there in their order, word for word; in them, "…" stands for anything.
pub fn compare(shown: &str, output: &str) -> Result<()> {
    let mut lines = output.lines();
    for expected in shown.lines().filter(|line| !["", "…"].contains(&line.trim())) {
        ensure!(lines.any(|line| is_like(expected, line)), "not printed: {expected}");
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
fn a_page_is_read_and_its_outputs_are_compared() {
    let page = "# A\n```sh\na \\\n  b\n```\nor\n```text\nNAME  AGE\nweb…  …\n```\n```sh\nc\n```\n";
    let read = steps(&Page::of("page", page)).unwrap();
    let step = |commands: &str, shown: &str| Step { commands: commands.to_owned(), shown: shown.to_owned() };
    assert_eq!(read, [step("a \\\n  b\n", "NAME  AGE\nweb…  …\n"), step("c\n", "")]);
    steps(&Page::of("page", "```yaml\na: b\n```\n")).unwrap_err();
    assert!(compare(&read[0].shown, "hello\nNAME   AGE\nweb-1 5s\n").is_ok());
    for other in ["NAME AGE", "web-1 5s\nNAME AGE", "NAME AGE\nwe 5s", "NAME AGE\nweb-1 5s ago"] {
        compare(&read[0].shown, other).unwrap_err();
    }
}
