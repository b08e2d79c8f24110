//! Validation of `extraTorrc` and `--tor-extra-config`, the lines that a user and the administrator
//! may add to a generated torrc.

#[cfg(test)]
mod tests;

use crate::crd::torrc::{NOT_ALLOWED, Place, RESTRICTIONS, allowed, covers, refusals};

/// Checks every line. Returns a message for each rejected line.
pub(super) fn check(text: &str, place: Place) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| Some(format!("line {}: {}", index + 1, refusal(line, place)?)))
        .collect()
}

/// Returns the reason for rejecting a line, or `None` if the line is allowed. Only tor's own white
/// space separates names from values: a name with other white space in it is unknown.
fn refusal(line: &str, place: Place) -> Option<String> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Some("contains a control character; remove it".to_owned());
    }
    // A trailing backslash would swallow the next line, which may be one of the operator's. The
    // operator trims white space of any kind, so such white space may follow the backslash here.
    if line.trim_end().ends_with('\\') {
        return Some("ends with \"\\\"; write the option on one line".to_owned());
    }
    let line = line.trim_matches([' ', '\t']);
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (key, rest) = line.split_at(line.find([' ', '\t', '#']).unwrap_or(line.len()));
    // A line that begins with "+" adds to earlier lines; one that begins with "/" removes them.
    let option = key.strip_prefix(['+', '/']).unwrap_or(key);
    if option.starts_with('%') {
        return Some(format!("\"{key}\" is not allowed; copy the lines of the included file into this field"));
    }
    if !allowed(place).any(|allowed| covers(allowed, option)) {
        let refusal = refusals(place).find(|refusal| refusal.concerns(option));
        return Some(format!("\"{option}\" {}", refusal.map_or(NOT_ALLOWED, |refusal| refusal.because)));
    }
    let value = rest.split('#').next().unwrap_or_default().split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let is_about = |options: &[&str]| options.iter().any(|restricted| restricted.eq_ignore_ascii_case(option));
    let restriction = RESTRICTIONS.iter().find(|restriction| is_about(restriction.options))?;
    (!restriction.accepts.accept(&value)).then(|| format!("\"{option}\" {}", restriction.because))
}
