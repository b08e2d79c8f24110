use proptest::prelude::*;

use super::super::codec::Decoder;
use super::*;

fn quote(bytes: &[u8]) -> String {
    let escape = |byte: &u8| match *byte {
        b'\n' => "\\n".to_owned(),
        special @ (b'"' | b'\\') => format!("\\{}", char::from(special)),
        plain @ 0x20..=0x7E => char::from(plain).to_string(),
        other => format!("\\{other:03o}"),
    };
    format!("\"{}\"", bytes.iter().map(escape).collect::<String>())
}

proptest! {
    #[test]
    fn a_quoted_reply_is_unquoted(bytes in prop::collection::vec(any::<u8>(), 0..40), rest in ".{0,10}") {
        let text = quote(&bytes) + &rest;
        prop_assert_eq!(unquote(&text), Some((bytes, rest.as_str())));
    }

    #[test]
    fn tor_can_read_every_quoted_string(text in "([ \"\\\\nrt0-7']|[^\r\n\0]){0,40}") {
        let mut bytes = Vec::new();
        push_quoted(text.as_bytes(), &mut bytes);
        prop_assert!(bytes.len() <= 2 * text.len() + 2);
        // Like tor's command parser, this loop treats any byte after a backslash literally and ends
        // at the first unescaped quote.
        let mut read = Vec::new();
        let mut inner = bytes[1..].iter();
        while let Some(byte) = inner.next().filter(|byte| **byte != b'"') {
            read.push(if *byte == b'\\' { *inner.next().unwrap() } else { *byte });
        }
        prop_assert_eq!(inner.len(), 0, "nothing follows the closing quote");
        prop_assert_eq!(read, text.as_bytes());
        // Our parser of replies knows more escape sequences, but must return the same text.
        let quoted = String::from_utf8(bytes).unwrap();
        prop_assert_eq!(unquote(&quoted), Some((text.into_bytes(), "")));
    }

    #[test]
    fn parsing_never_panics(text in "[ =\"\\\\0-9a-zé]{0,30}|.{0,30}") {
        _ = unquote(&text);
        _ = keywords(&text);
    }

    #[test]
    fn data_never_breaks_out_of_the_block(data in "([.\r\n]|.){0,40}") {
        let mut bytes = b"250+x=\r\n".to_vec();
        push_data(&data, &mut bytes);
        bytes.extend_from_slice(b"250 OK\r\n");
        let mut messages = Vec::new();
        Decoder::default().feed(&bytes, &mut messages).unwrap();
        let expected: String = data.lines().flat_map(|line| [line, "\n"]).collect();
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!(messages[0].lines[0].data.as_ref(), Some(&expected));
    }
}

#[test]
fn arguments_are_one_printable_word() {
    assert!(is_argument("status/bootstrap-phase"));
    for bad in ["", "a b", "a\r\nb", "a\n", "\r", "a\0", "é", "a\tb", "\u{7f}"] {
        assert!(!is_argument(bad), "{bad:?}");
    }
}

#[test]
fn parses_the_auth_line_of_tor_0_4_9_11() {
    let words = keywords("METHODS=COOKIE,SAFECOOKIE COOKIEFILE=\"/run/a \\\"b\\\" \\303\\251/cookie\"").unwrap();
    let path = "/run/a \"b\" é/cookie".as_bytes().to_vec();
    assert_eq!(words, [("METHODS", Some(b"COOKIE,SAFECOOKIE".to_vec())), ("COOKIEFILE", Some(path))]);
}

#[test]
fn parses_words_without_a_value() {
    assert_eq!(keywords(" A  B= ").unwrap(), [("A", None), ("B", Some(Vec::new()))]);
    assert_eq!(keywords("").unwrap(), []);
}

#[test]
fn rejects_malformed_quotes() {
    for bad in ["A=\"b", "A=\"b\\", "A=\"b\"c", "A=\"\\777\""] {
        assert_eq!(keywords(bad), None, "{bad}");
    }
}

#[test]
fn a_text_that_would_end_the_line_is_not_quotable() {
    assert!(is_quotable(b"") && is_quotable("a \"b\" \\ é\t".as_bytes()) && is_quotable(b"\xff"));
    for bad in ["a\rb", "\n", "a\0"] {
        assert!(!is_quotable(bad.as_bytes()), "{bad:?}");
    }
}
