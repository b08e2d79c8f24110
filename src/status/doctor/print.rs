//! Renders the findings as text, without any IO.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::finding::{Finding, Mark, Remedy};

const DIM: Style = Style::new().dimmed();
/// The columns for the mark, and for the space behind it.
const INDENT: usize = 11;
/// The greatest width that is comfortable to read, in columns.
const WIDEST: usize = 100;
/// The smallest width that text is wrapped to, in columns.
const NARROWEST: usize = 40;

/// Renders the findings about a service, and then the verdict. On a terminal with this width in
/// columns, long lines are wrapped. Otherwise, each finding takes exactly one line. The text
/// contains escape sequences for colours.
pub fn text(service: &str, findings: &[Finding], width: Option<u16>) -> String {
    let width = width.map(|width| usize::from(width).clamp(NARROWEST, WIDEST));
    let mut text = String::new();
    for finding in findings {
        let style = style(finding.mark);
        let mark = finding.mark.as_str();
        let _ = write!(text, "{style}{mark}{style:#}{}", " ".repeat(INDENT.saturating_sub(mark.len())));
        match width {
            None => text.push_str(&line(finding)),
            Some(width) => text.push_str(&paragraph(finding, width)),
        }
    }
    let _ = writeln!(text, "{service}: {}", verdict(findings));
    text
}

fn style(mark: Mark) -> Style {
    let colour = match mark {
        Mark::Ok => AnsiColor::Green,
        Mark::Problem => AnsiColor::Red,
        Mark::Warning | Mark::Unchecked => AnsiColor::Yellow,
    };
    colour.on_default().bold()
}

/// Counts the findings that are not good.
pub fn verdict(findings: &[Finding]) -> String {
    let count = |mark| findings.iter().filter(|finding| finding.mark == mark).count();
    let counted = |number: usize, what: &str| match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let unchecked = match count(Mark::Unchecked) {
        0 => String::new(),
        number => format!(", {number} not checked"),
    };
    format!("{}, {}{unchecked}", counted(count(Mark::Problem), "problem"), counted(count(Mark::Warning), "warning"))
}

/// Returns the rest of a finding's only line.
fn line(finding: &Finding) -> String {
    let mut text = format!("{}: {}", finding.area, one_line(&finding.found));
    if let Some(Remedy { words, commands }) = &finding.remedy {
        let parts = words.iter().cloned().chain((!commands.is_empty()).then(|| commands.join("; ")));
        let _ = write!(text, " {DIM}→ {}{DIM:#}", one_line(&parts.collect::<Vec<_>>().join(": ")));
    }
    text.push('\n');
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the rest of a finding whose lines have at most `width` columns where possible. A command
/// can be pasted even if it takes several lines.
fn paragraph(finding: &Finding, width: usize) -> String {
    let mut lines = Lines { width, text: String::new() };
    let words: Vec<_> = finding.found.split_whitespace().map(ToOwned::to_owned).collect();
    let area = format!("{}:", finding.area);
    lines.wrap("", INDENT, std::iter::once(area).chain(words), "");
    if let Some(Remedy { words, commands }) = &finding.remedy {
        let _ = write!(lines.text, "{DIM}");
        let colon = if commands.is_empty() { "" } else { ":" };
        if let Some(words) = words {
            let words = format!("{words}{colon}");
            let words: Vec<_> = words.split_whitespace().map(ToOwned::to_owned).collect();
            lines.wrap(&format!("{}→ ", " ".repeat(INDENT)), INDENT + 2, words, "");
        }
        for (index, command) in commands.iter().enumerate() {
            let arrow = if words.is_none() && index == 0 { "→ " } else { "  " };
            lines.wrap(&format!("{}{arrow}", " ".repeat(INDENT)), INDENT + 4, shell_words(command), " \\");
        }
        let _ = write!(lines.text, "{DIM:#}");
    }
    lines.text
}

struct Lines {
    width: usize,
    text: String,
}

impl Lines {
    /// Appends `first` and the words. If `first` is empty, the line already has a mark of `INDENT`
    /// columns. Further lines are indented by `indent` columns. A line that continues ends with
    /// `joint`.
    fn wrap(&mut self, first: &str, indent: usize, words: impl IntoIterator<Item = String>, joint: &str) {
        self.text.push_str(first);
        let mut used = if first.is_empty() { INDENT } else { first.chars().count() };
        let mut is_start = true;
        for word in words {
            let length = word.chars().count();
            // The joint must fit too.
            if !is_start && used + 1 + length + joint.len() > self.width {
                let _ = write!(self.text, "{joint}\n{}", " ".repeat(indent));
                (used, is_start) = (indent, true);
            }
            if !is_start {
                self.text.push(' ');
                used += 1;
            }
            self.text.push_str(&word);
            (used, is_start) = (used + length, false);
        }
        self.text.push('\n');
    }
}

/// Divides a command at the spaces that are not in single quotes.
fn shell_words(command: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for part in command.split(' ') {
        match words.last_mut() {
            Some(last) if is_quoted => last.extend([" ", part]),
            _ => words.push(part.to_owned()),
        }
        is_quoted ^= part.matches('\'').count() % 2 == 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::draw::tests::plain;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("CRD", "The CRD has exactly the fields that this program knows."),
            Finding::problem("target", "Port 80: none of 2 addresses behind Service web-with-a-long-name is ready.")
                .remedy(
                    "check the app's pods, and the selector of the Service: kubectl describe service \
                 web-with-a-long-name -n shop-with-a-long-name; kubectl get pods -n shop-with-a-long-name",
                ),
            Finding::warning("object", "Published is False (Suspended): spec.suspend is true.")
                .remedy("kubectl patch obs web -n shop --type merge -p '{\"spec\": {\"suspend\": false}}'"),
        ]
    }

    #[test]
    fn a_terminal_of_80_columns_shows_commands_that_can_be_pasted() {
        let text = plain(&text("shop/web", &findings(), Some(80)));
        let expected = "\
ok         CRD: The CRD has exactly the fields that this program knows.
problem    target: Port 80: none of 2 addresses behind Service
           web-with-a-long-name is ready.
           → check the app's pods, and the selector of the Service:
             kubectl describe service web-with-a-long-name -n \\
               shop-with-a-long-name
             kubectl get pods -n shop-with-a-long-name
warning    object: Published is False (Suspended): spec.suspend is true.
           → kubectl patch obs web -n shop --type merge -p \\
               '{\"spec\": {\"suspend\": false}}'
shop/web: 1 problem, 1 warning";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_finding_takes_one_line_without_a_terminal() {
        let text = plain(&text("shop/web", &findings(), None));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("problem    target: Port 80: none"), "{text}");
        assert!(
            lines[1].ends_with(
                "→ check the app's pods, and the selector of the Service: kubectl describe service \
             web-with-a-long-name -n shop-with-a-long-name; kubectl get pods -n shop-with-a-long-name"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_verdict_counts_what_is_not_good() {
        assert_eq!(verdict(&findings()[..1]), "no problems, no warnings");
        let unchecked = Finding::new(Mark::Unchecked, "key", "You may not get secrets.");
        assert_eq!(verdict(&[unchecked, findings().remove(1)]), "1 problem, no warnings, 1 not checked");
    }

    #[test]
    fn findings_fit_every_terminal_except_for_long_words() {
        for width in 40..110 {
            let text = plain(&text("shop/web", &findings(), Some(width)));
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= usize::from(width).max(46), "{longest} of {width} columns:\n{text}");
        }
    }
}
