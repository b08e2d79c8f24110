//! A finding: what was examined, what was found there, and what to do about it.

use serde_json::{Value, json};

use super::facts::Unread;

/// The result of one examination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// There is nothing to do.
    Ok,
    /// The service works, or may still start to work without help, but somebody should look.
    Warning,
    /// The service does not work as it should.
    Problem,
    /// The facts could not be read.
    Unchecked,
}

impl Mark {
    /// Returns the mark as it is printed and as programs read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Unchecked => "unchecked",
        }
    }
}

/// What was found in one part of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The result.
    pub mark: Mark,
    /// The part of the service that was examined, in a few words.
    pub area: &'static str,
    /// What was found there: one sentence, or several.
    pub found: String,
    /// What to do about it, if there is anything to do.
    pub remedy: Option<Remedy>,
}

impl Finding {
    /// Creates a finding without a remedy.
    pub fn new(mark: Mark, area: &'static str, found: impl Into<String>) -> Self {
        Self { mark, area, found: found.into(), remedy: None }
    }

    /// Creates the finding that all is well.
    pub fn ok(area: &'static str, found: impl Into<String>) -> Self {
        Self::new(Mark::Ok, area, found)
    }

    /// Creates the finding about something that somebody should look at.
    pub fn warning(area: &'static str, found: impl Into<String>) -> Self {
        Self::new(Mark::Warning, area, found)
    }

    /// Creates the finding about something that does not work.
    pub fn problem(area: &'static str, found: impl Into<String>) -> Self {
        Self::new(Mark::Problem, area, found)
    }

    /// Creates the finding that the facts about a part could not be read.
    pub fn unread(area: &'static str, unread: &Unread) -> Self {
        let finding = Self::new(Mark::Unchecked, area, unread.to_string());
        match unread.check() {
            Some(command) => finding.remedy(&format!("ask for this permission, and check it: {command}")),
            None => finding,
        }
    }

    /// Adds a remedy, in the form of the advice of `status`.
    pub fn remedy(self, advice: &str) -> Self {
        Self { remedy: Some(Remedy::of(advice)), ..self }
    }

    /// Adds a remedy if there is one.
    pub fn maybe(self, advice: Option<&str>) -> Self {
        match advice {
            Some(advice) => self.remedy(advice),
            None => self,
        }
    }

    /// Returns the finding as JSON for programs.
    pub fn to_json(&self) -> Value {
        let remedy = self.remedy.as_ref();
        json!({
            "mark": self.mark.as_str(), "area": self.area, "found": self.found,
            "remedy": remedy.and_then(|remedy| remedy.words.clone()),
            "commands": remedy.map(|remedy| remedy.commands.clone()).unwrap_or_default(),
        })
    }
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// The explanation for people.
    pub words: Option<String>,
    /// Commands that can be pasted into a shell.
    pub commands: Vec<String>,
}

impl Remedy {
    /// Divides advice into words and commands. Advice has the form `words: command; command`, where
    /// each command begins with `kubectl`.
    pub fn of(advice: &str) -> Self {
        let (words, commands) = if advice.starts_with("kubectl ") {
            ("", advice)
        } else if let Some((words, _)) = advice.split_once(": kubectl ") {
            (words, &advice[words.len() + 2..])
        } else {
            (advice, "")
        };
        let mut found: Vec<String> = Vec::new();
        for part in commands.split("; ").filter(|part| !part.is_empty()) {
            match found.last_mut() {
                // A semicolon within a command.
                Some(last) if !part.starts_with("kubectl ") => last.extend(["; ", part]),
                _ => found.push(part.to_owned()),
            }
        }
        Self { words: (!words.is_empty()).then(|| words.to_owned()), commands: found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::Reason;
    use crate::status::advice;

    #[test]
    fn advice_is_divided_into_words_and_commands() {
        let of = |advice: &str| {
            let Remedy { words, commands } = Remedy::of(advice);
            (words.unwrap_or_default(), commands)
        };
        assert_eq!(of("wait"), ("wait".to_owned(), vec![]));
        assert_eq!(of("kubectl a; kubectl b"), (String::new(), vec!["kubectl a".to_owned(), "kubectl b".to_owned()]));
        assert_eq!(of("look: at: kubectl a"), ("look: at".to_owned(), vec!["kubectl a".to_owned()]));
        assert_eq!(of("a; b: kubectl a '; c'"), ("a; b".to_owned(), vec!["kubectl a '; c'".to_owned()]));
    }

    #[test]
    fn the_advice_of_status_leaves_no_command_among_the_words() {
        for reason in Reason::ALL {
            let Some(advice) = advice::action(reason.as_str(), "shop", "web") else { continue };
            let Remedy { words, commands } = Remedy::of(&advice);
            let words = words.unwrap_or_default();
            assert!(!words.contains("kubectl "), "{reason}: {words}");
            assert!(commands.iter().all(|command| command.starts_with("kubectl ")), "{reason}: {commands:?}");
        }
    }
}
