//! Finds the likely cause of damage to tor's `hs_ed25519_secret_key` file. Programs that treat the
//! file as text damage it in typical ways.

use super::key_form::SECRET_KEY_TAG;

/// The length of tor's file.
const LENGTH: usize = 96;
/// The printable part of tor's tag, which three NUL bytes follow.
const TAG_TEXT: &[u8] = b"== ed25519v1-secret: type0 ==";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The characters that Windows-1252 has in place of the control characters 80 to 9F of Latin-1.
const WINDOWS_1252: &str = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";
/// U+FFFD in UTF-8, which programs write in place of bytes that are not text.
const REPLACEMENT: &[u8] = b"\xef\xbf\xbd";

/// The likely cause of damage to a key file.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum KeyDamage {
    /// A byte order mark precedes the key.
    #[error(
        "a text editor has put a byte order mark (EF BB BF) before the key; remove it with tail -c +4 FILE >NEW_FILE"
    )]
    ByteOrderMark,
    /// The file is UTF-16 text.
    #[error(
        "the file is UTF-16 text, as some programs on Windows write it; convert it with \
         iconv -f UTF-16 -t UTF-8 FILE >NEW_FILE"
    )]
    Utf16,
    /// The three NUL bytes of tor's tag are spaces.
    #[error(
        "the NUL bytes in the key file have become spaces, as when binary data is copied as text; copy the original \
         file again"
    )]
    Spaces,
    /// Line breaks follow the key.
    #[error("the key file has a line break after its 96 bytes; remove it with head -c 96 FILE >NEW_FILE")]
    LineBreakAtEnd,
    /// Line feeds were replaced with CR LF.
    #[error(
        "a transfer in text mode has replaced each line feed of the key file with CR LF; copy the original file again \
         in binary mode"
    )]
    LineEnds,
    /// Bytes were decoded as Latin-1 and encoded as UTF-8.
    #[error(
        "the bytes of the key file were converted from Latin-1 text to UTF-8; undo this with \
         iconv -f UTF-8 -t LATIN1 FILE >NEW_FILE"
    )]
    Utf8,
    /// Bytes were decoded as Windows-1252 and encoded as UTF-8.
    #[error(
        "the bytes of the key file were converted from Windows-1252 text to UTF-8; undo this with \
         iconv -f UTF-8 -t CP1252 FILE >NEW_FILE"
    )]
    Windows1252,
    /// Bytes were replaced, and are lost.
    #[error(
        "bytes of the key were replaced with U+FFFD when the file was treated as text, so this copy of the key is \
         lost; copy the original file again in binary mode"
    )]
    Replaced,
    /// The end of the file is missing.
    #[error("the key file has only {0} of its 96 bytes; its end is missing, so copy the original file again")]
    Truncated(usize),
    /// The key is all zeros.
    #[error("the key file contains zeros instead of a key, as after a full disk or a crash; restore it from a backup")]
    Zeros,
}

impl KeyDamage {
    /// Returns the likely cause of the damage to a key file that cannot be used, or None if the
    /// content shows no sign of a cause.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if is_utf16(bytes) {
            return Some(Self::Utf16);
        }
        if bytes.strip_prefix(BYTE_ORDER_MARK).is_some_and(|rest| rest.starts_with(TAG_TEXT)) {
            return Some(Self::ByteOrderMark);
        }
        let rest = bytes.strip_prefix(TAG_TEXT)?;
        if bytes.windows(REPLACEMENT.len()).any(|part| part == REPLACEMENT) {
            return Some(Self::Replaced);
        }
        let ends_after_key = |rest: &[u8]| rest.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        match bytes.len() {
            ..LENGTH => Some(Self::Truncated(bytes.len())),
            LENGTH if rest.starts_with(b"   ") => Some(Self::Spaces),
            LENGTH if bytes.strip_prefix(SECRET_KEY_TAG).is_some_and(|key| key.iter().all(|byte| *byte == 0)) => {
                Some(Self::Zeros)
            }
            LENGTH => None,
            _ if bytes.get(LENGTH..).is_some_and(ends_after_key) => Some(Self::LineBreakAtEnd),
            _ if was_text_of(bytes, |c| u32::from(c) <= 0xff) => Some(Self::Utf8),
            _ if was_text_of(bytes, is_windows_1252) => Some(Self::Windows1252),
            length if length - line_ends(bytes) == LENGTH => Some(Self::LineEnds),
            _ => None,
        }
    }
}

/// Returns true if the bytes are ASCII text in UTF-16 with a byte order mark. A key can also begin
/// with the bytes of such a mark.
fn is_utf16(bytes: &[u8]) -> bool {
    let (text, first) = match bytes {
        [0xff, 0xfe, text @ ..] => (text, 1),
        [0xfe, 0xff, text @ ..] => (text, 0),
        _ => return false,
    };
    let mut upper_bytes = text.iter().skip(first).step_by(2).take(LENGTH / 2);
    text.len() >= 4 && upper_bytes.all(|byte| *byte == 0)
}

/// Returns true if the bytes are the UTF-8 encoding of [`LENGTH`] characters of this character set.
fn was_text_of(bytes: &[u8], contains: impl Fn(char) -> bool) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == LENGTH && text.chars().all(contains))
}

fn is_windows_1252(c: char) -> bool {
    c.is_ascii() || matches!(c, '\u{a0}'..='\u{ff}') || WINDOWS_1252.contains(c)
}

/// Returns the number of CR LF pairs.
fn line_ends(bytes: &[u8]) -> usize {
    bytes.windows(2).filter(|pair| **pair == *b"\r\n").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key file whose key contains a line feed, and bytes that are not UTF-8.
    fn file() -> Vec<u8> {
        let mut file = SECRET_KEY_TAG.to_vec();
        file.extend((0..64_u8).map(|number| number.wrapping_mul(0x2f) | 0x80));
        if let Some(byte) = file.get_mut(50) {
            *byte = b'\n';
        }
        file
    }

    /// Returns the file after a part of it has been replaced.
    fn with(part: std::ops::Range<usize>, replacement: &[u8]) -> Vec<u8> {
        let mut bytes = file();
        drop(bytes.splice(part, replacement.iter().copied()));
        bytes
    }

    /// Decodes a key as Windows-1252, in which the bytes 85 and 9F are "…" and "Ÿ", and encodes
    /// the text as UTF-8.
    fn windows_1252() -> Vec<u8> {
        let mut bytes = with(32..96, &[0xe9; 64]);
        drop(bytes.splice(40..42, [0x85, 0x9f]));
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        text.replace('\u{85}', "…").replace('\u{9f}', "Ÿ").into_bytes()
    }

    fn utf8(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes()
    }

    #[test]
    fn finds_the_likely_cause() {
        let utf16 = |text: &str| [vec![0xff, 0xfe], text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
        for (bytes, expected) in [
            (with(0..0, BYTE_ORDER_MARK), KeyDamage::ByteOrderMark),
            (utf16("-----BEGIN PRIVATE KEY-----"), KeyDamage::Utf16),
            ([&[0xfe, 0xff][..], b"\0-\0-\0-"].concat(), KeyDamage::Utf16),
            (with(29..32, b"   "), KeyDamage::Spaces),
            (with(96..96, b"\n"), KeyDamage::LineBreakAtEnd),
            (with(96..96, b"\r\n\r\n"), KeyDamage::LineBreakAtEnd),
            (with(50..51, b"\r\n"), KeyDamage::LineEnds),
            (utf8(&file()), KeyDamage::Utf8),
            (windows_1252(), KeyDamage::Windows1252),
            (String::from_utf8_lossy(&file()).into_owned().into_bytes(), KeyDamage::Replaced),
            (with(95..96, b""), KeyDamage::Truncated(95)),
            (with(29..96, b""), KeyDamage::Truncated(29)),
            (with(32..96, &[0; 64]), KeyDamage::Zeros),
        ] {
            assert_eq!(KeyDamage::of(&bytes), Some(expected), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn sees_no_damage_where_there_is_no_sign_of_any() {
        // Keys of 32 and 96 bytes can begin with a byte order mark.
        let [seed, other] = [[0xff, 0xfe], [0xfe, 0xff]].map(|mark| [&mark[..], &[0x9c; 30]].concat());
        let files = [file(), with(40..41, b"x"), with(96..96, b"more"), vec![0xff; 96], with(0..2, b"\xff\xfe")];
        let short = [b"".to_vec(), b"key".to_vec(), b"\xff\xfe".to_vec(), b"\xff\xfe-\0".to_vec()];
        for bytes in files.into_iter().chain(short).chain([seed, other]) {
            assert_eq!(KeyDamage::of(&bytes), None, "{} bytes", bytes.len());
        }
    }
}
