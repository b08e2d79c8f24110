//! The texts inside lines: arguments, quoted strings, keyword lists (control-spec, section 2.1), dot-stuffed data.

/// A word, or a keyword and its value.
pub type Word<'a> = (&'a str, Option<Vec<u8>>);

/// Whether `text` can stand as one argument of a command: not empty, printable ASCII, no space. So it can neither end the
/// line nor begin another argument.
pub fn is_argument(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether `text` can stand in a quoted string of a command: it holds no line end, and no NUL.
pub fn is_quotable(text: &str) -> bool {
    !text.contains(['\r', '\n', '\0'])
}

/// Appends `text`, which [`is_quotable`], as a quoted string of a command. To tor's reader of commands a backslash stands
/// before the character that is meant, and nothing else is an escape (`\n` would be an `n`): so only quotes and backslashes
/// get one.
pub fn push_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Appends `data` as a command's data block: lines end in CRLF, a leading `.` is doubled, a lone `.` ends it. Whatever
/// `data` holds stays inside the block.
pub fn push_data(data: &str, out: &mut Vec<u8>) {
    for line in data.lines() {
        if line.starts_with('.') {
            out.push(b'.');
        }
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
}

/// Splits a text like `A B=c D="e \"f\""` at its spaces, outside quotes, into words and the values of keywords. A value
/// comes unquoted, as bytes. None where a quoted string is malformed.
pub fn keywords(text: &str) -> Option<Vec<Word<'_>>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value = match after.strip_prefix('=') {
            None => {
                rest = after;
                None
            }
            Some(value) if value.starts_with('"') => {
                let (bytes, after) = unquote(value)?;
                rest = after;
                Some(bytes)
            }
            Some(value) => {
                let (value, after) = value.split_at(value.find(' ').unwrap_or(value.len()));
                rest = after;
                Some(value.as_bytes().to_vec())
            }
        };
        if !(rest.is_empty() || rest.starts_with(' ')) {
            return None;
        }
        found.push((word, value));
        rest = rest.trim_start_matches(' ');
    }
    Some(found)
}

/// Reads the quoted string at the start of `text`: its bytes, and what follows the closing quote. Escapes are those of C:
/// `\n`, `\r`, `\t`, one to three octal digits, and a backslash before any other character stands for that character.
pub fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut bytes = Vec::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let run = rest.find(['"', '\\'])?;
        let (plain, special) = rest.split_at(run);
        bytes.extend_from_slice(plain.as_bytes());
        if let Some(after) = special.strip_prefix('"') {
            return Some((bytes, after));
        }
        rest = unescape(special.strip_prefix('\\')?, &mut bytes)?;
    }
}

/// Reads what follows a backslash.
fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let octal = text.bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    if octal > 0 {
        let (digits, rest) = text.split_at(octal);
        bytes.push(u8::from_str_radix(digits, 8).ok()?);
        return Some(rest);
    }
    let mut characters = text.chars();
    match characters.next()? {
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    Some(characters.as_str())
}

#[cfg(test)]
mod tests;
