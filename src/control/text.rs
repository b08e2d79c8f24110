//! Parses and formats the parts of a line: arguments, quoted strings, keyword lists (control-spec,
//! section 2.1) and dot-stuffed data.

/// A word, or a keyword and its value.
pub type Word<'a> = (&'a str, Option<Vec<u8>>);

/// Returns true if `text` can be one argument of a command: it is not empty and consists of
/// printable ASCII characters without spaces. An argument can thus neither end the line nor begin
/// another argument.
pub fn is_argument(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns true if `bytes` can be part of a quoted string of a command, which must not contain a
/// line break or a NUL. The string need not be UTF-8.
pub fn is_quotable(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0'))
}

/// Appends `bytes` as a quoted string of a command. They must satisfy [`is_quotable`]. Only quotes
/// and backslashes are escaped, because tor's command parser takes the character after a backslash
/// literally (`\n` would be an `n`).
pub fn push_quoted(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Appends `data` as the data block of a command. Lines end in CRLF, a leading `.` is doubled, and
/// a lone `.` ends the block, so `data` can never break out of the block.
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

/// Splits a text such as `A B=c D="e \"f\""` at the spaces outside quotes into words and keywords
/// with values. Values are returned unquoted, as bytes. Returns None if a quoted string is
/// malformed.
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

/// Reads the quoted string at the start of `text` and returns its bytes and the text after the
/// closing quote. The escapes are those of C: `\n`, `\r`, `\t`, one to three octal digits, and a
/// backslash before any other character, which yields that character.
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

/// Reads the rest of an escape sequence after its backslash.
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
