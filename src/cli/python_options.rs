//! Abbreviated options, as Python's `argparse` understands them: `--conf` stands for `--config`.
//!
//! clap can complete abbreviations too. However, clap picks one of several matching options, and
//! would also compare an abbreviation with the options that Python Onionbalance does not have.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::Parser;
use clap::error::ErrorKind;

/// Parses a command line whose long options can be abbreviated. `options` are the names of Python's
/// options without the dashes.
pub(super) fn parse<C: Parser>(words: impl IntoIterator<Item = OsString>, options: &[&str]) -> Result<C, clap::Error> {
    let words = complete(words, options).map_err(|error| C::command().error(ErrorKind::UnknownArgument, error))?;
    C::try_parse_from(words)
}

/// Completes the abbreviated long options in a command line. An option that matches none of
/// `options` is left as it is. Returns an error if an abbreviation matches several of them.
fn complete(words: impl IntoIterator<Item = OsString>, options: &[&str]) -> Result<Vec<OsString>, String> {
    let mut only_values = false;
    let complete = |word: OsString| {
        only_values = only_values || word == "--";
        if only_values { Ok(word) } else { complete_word(&word, options) }
    };
    words.into_iter().map(complete).collect()
}

fn complete_word(word: &OsStr, options: &[&str]) -> Result<OsString, String> {
    let Some(option) = word.as_bytes().strip_prefix(b"--") else { return Ok(word.to_owned()) };
    let end = option.iter().position(|byte| *byte == b'=').unwrap_or(option.len());
    let (name, value) = option.split_at(end);
    let Ok(name) = std::str::from_utf8(name) else { return Ok(word.to_owned()) };
    if options.contains(&name) {
        return Ok(word.to_owned());
    }
    let matching: Vec<&str> = options.iter().copied().filter(|option| option.starts_with(name)).collect();
    match matching.as_slice() {
        [] => Ok(word.to_owned()),
        [only] => {
            let mut complete = OsString::from(format!("--{only}"));
            complete.push(OsStr::from_bytes(value));
            Ok(complete)
        }
        several => Err(format!("--{name} is ambiguous; write --{} in full", several.join(" or --"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [&str; 4] = ["config", "ip", "is-testnet", "verbosity"];

    fn completed(line: &str) -> Result<String, String> {
        let words = complete(line.split(' ').map(OsString::from), &OPTIONS)?;
        Ok(words.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn an_abbreviation_of_one_option_is_completed() {
        for (line, expected) in [
            ("x --conf a --verb=debug --is", "x --config a --verbosity=debug --is-testnet"),
            ("x --c --c=a", "x --config --config=a"),
            ("x --ip 1 --config a=b -c --ip", "x --ip 1 --config a=b -c --ip"),
            ("x --log-format json --configs", "x --log-format json --configs"),
            ("x -- --conf", "x -- --conf"),
        ] {
            assert_eq!(completed(line).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn an_ambiguous_abbreviation_is_an_error() {
        let expected = "--i is ambiguous; write --ip or --is-testnet in full".to_owned();
        assert_eq!(completed("x --i 1"), Err(expected));
    }

    #[test]
    fn a_word_need_not_be_unicode() {
        let word = OsStr::from_bytes(b"--conf=\xff").to_owned();
        let complete = complete([word, OsStr::from_bytes(b"--\xff").to_owned()], &OPTIONS).unwrap();
        assert_eq!(complete, [OsStr::from_bytes(b"--config=\xff"), OsStr::from_bytes(b"--\xff")]);
    }
}
