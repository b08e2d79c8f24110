//! A parser for Tor's document meta-format (dir-spec, section 1.2): keyword lines with arguments,
//! each optionally followed by a PEM-like object.

use data_encoding::{BASE64, BASE64_NOPAD};

/// An iterator over the items of a document, in order. It ends after the first error.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    text: &'a str,
    position: usize,
}

/// A keyword line with its optional object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// The keyword, which is the first word of the line.
    pub keyword: &'a str,
    /// The unmodified rest of the line, after the keyword and the space that follows it.
    pub rest: &'a str,
    /// The object that follows the line, if any.
    pub object: Option<DocumentObject<'a>>,
    /// The byte offset of the keyword in the text.
    pub start: usize,
    /// The byte offset of the item's end in the text, after its last newline.
    pub end: usize,
}

/// A PEM-like object: a `-----BEGIN tag-----` line, base64 lines, and an `-----END tag-----` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentObject<'a> {
    /// The tag that names the object's type, for example "ED25519 CERT".
    pub tag: &'a str,
    /// The base64 text, including its newlines.
    pub body: &'a str,
}

/// An error that explains why a text does not follow Tor's document format. Each error carries a
/// byte offset.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum DocumentError {
    /// A line does not begin with a keyword.
    #[error("no keyword at byte {0}")]
    Keyword(usize),
    /// The `BEGIN` line of an object is malformed, or its `END` line is missing.
    #[error("malformed object at byte {0}")]
    Object(usize),
}

impl<'a> Items<'a> {
    /// Creates an iterator over the items of `text`. The last line does not need a newline.
    pub fn new(text: &'a str) -> Self {
        Self { text, position: 0 }
    }

    /// Returns the line at the current position without its newline, or None at the end of the
    /// text.
    fn peek_line(&self) -> Option<&'a str> {
        let rest = self.text.get(self.position..).filter(|rest| !rest.is_empty())?;
        Some(rest.split_once('\n').map_or(rest, |(line, _)| line))
    }

    fn skip_line(&mut self, line: &str) {
        self.position = (self.position + line.len() + 1).min(self.text.len());
    }

    fn read_item(&mut self, line: &'a str) -> Result<Item<'a>, DocumentError> {
        let start = self.position;
        let (keyword, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        if keyword.is_empty() || keyword.starts_with("-----") {
            return Err(DocumentError::Keyword(start));
        }
        self.skip_line(line);
        let object = match self.peek_line() {
            Some(line) if line.starts_with("-----") => Some(self.read_object(line)?),
            _ => None,
        };
        Ok(Item { keyword, rest, object, start, end: self.position })
    }

    fn read_object(&mut self, begin: &'a str) -> Result<DocumentObject<'a>, DocumentError> {
        let error = DocumentError::Object(self.position);
        let tag = begin.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")).ok_or(error)?;
        self.skip_line(begin);
        let body_start = self.position;
        loop {
            let line = self.peek_line().ok_or(error)?;
            let body_end = self.position;
            self.skip_line(line);
            if line.starts_with("-----") {
                let end_tag = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----"));
                let body = self.text.get(body_start..body_end).ok_or(error)?;
                return if end_tag == Some(tag) { Ok(DocumentObject { tag, body }) } else { Err(error) };
            }
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, DocumentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.peek_line()?;
        let item = self.read_item(line);
        if item.is_err() {
            self.position = self.text.len();
        }
        Some(item)
    }
}

impl<'a> Item<'a> {
    /// Returns the arguments, which are the words after the keyword.
    pub fn arguments(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.rest.split([' ', '\t']).filter(|word| !word.is_empty())
    }

    /// Returns the decoded bytes of the object. Returns None if there is no object with this tag or
    /// its base64 is invalid.
    pub fn object_bytes(&self, tag: &str) -> Option<Vec<u8>> {
        let object = self.object.filter(|object| object.tag == tag)?;
        let joined: Vec<u8> = object.body.bytes().filter(|byte| *byte != b'\n').collect();
        BASE64.decode(&joined).ok()
    }
}

/// Decodes base64, padded or not, to exactly `N` bytes. Returns None if the text is invalid or
/// encodes a different number of bytes.
pub fn base64_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    base64_bytes(text)?.try_into().ok()
}

/// Decodes a single line of base64, padded or not.
pub fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes()).ok()
}

/// Appends an object as tor writes it, with 64 base64 characters per line and a newline after the
/// `END` line.
pub(super) fn push_object(out: &mut String, tag: &str, bytes: &[u8]) {
    out.push_str("-----BEGIN ");
    out.push_str(tag);
    out.push_str("-----\n");
    for line in bytes.chunks(48) {
        BASE64.encode_append(line, out);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(tag);
    out.push_str("-----\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Item<'_>>, DocumentError> {
        Items::new(text).collect()
    }

    #[test]
    fn parses_lines_and_objects() {
        let text = "first a  b\tc\nsecond\n-----BEGIN A THING-----\nAQID\nBAUG\n-----END A THING-----\nlast x";
        let items = read(text).unwrap();
        assert_eq!(items.iter().map(|item| item.keyword).collect::<Vec<_>>(), ["first", "second", "last"]);
        assert_eq!(items[0].arguments().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(items[0].rest, "a  b\tc");
        assert_eq!(items[1].arguments().count(), 0);
        assert_eq!(items[1].object_bytes("A THING"), Some(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(items[1].object_bytes("THING"), None);
        assert_eq!(&text[items[1].start..items[1].end], &text[13..text.len() - 6]);
        assert_eq!((items[2].end, items[2].object), (text.len(), None));
        assert_eq!(read(""), Ok(vec![]));
    }

    #[test]
    fn rejects_malformed_documents() {
        assert_eq!(read("a\n\nb\n"), Err(DocumentError::Keyword(2)));
        assert_eq!(read(" a\n"), Err(DocumentError::Keyword(0)));
        assert_eq!(read("-----BEGIN X-----\n-----END X-----\n"), Err(DocumentError::Keyword(0)));
        for text in [
            "a\n-----BEGIN X-----\nAQID\n",
            "a\n-----BEGIN X-----\nAQID\n-----END Y-----\n",
            "a\n-----BEGIN X-----\nAQID\n-----BEGIN X-----\n-----END X-----\n",
            "a\n-----BEGIN X\n-----END X-----\n",
            "a\n-----END X-----\n",
        ] {
            assert_eq!(read(text), Err(DocumentError::Object(2)), "{text}");
        }
    }

    #[test]
    fn iteration_ends_after_an_error() {
        let mut items = Items::new("a\n\nb\n");
        assert!(items.next().unwrap().is_ok());
        assert!(items.next().unwrap().is_err());
        assert_eq!(items.next(), None);
    }

    #[test]
    fn decodes_base64_with_and_without_padding() {
        assert_eq!(base64_array("AQI="), Some([1, 2]));
        assert_eq!(base64_array("AQI"), Some([1, 2]));
        assert_eq!(base64_array::<3>("AQI"), None);
        assert_eq!(base64_bytes("A*I"), None);
    }

    proptest! {
        #[test]
        fn objects_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut text = "keyword\n".to_owned();
            push_object(&mut text, "MESSAGE", &bytes);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            let items = read(&text).unwrap();
            prop_assert_eq!(items.len(), 1);
            prop_assert_eq!(items[0].object_bytes("MESSAGE"), Some(bytes));
            prop_assert_eq!(items[0].end, text.len());
        }

        #[test]
        fn parsing_never_panics(text in "(a|é|\n| |-----|BEGIN |END |X){0,40}") {
            for item in Items::new(&text) {
                let Ok(item) = item else { break };
                prop_assert!(text.get(item.start..item.end).is_some());
                let _ = item.object_bytes("X");
            }
        }
    }
}
