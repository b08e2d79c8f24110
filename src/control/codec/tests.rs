use std::io::Write;

use proptest::prelude::*;

use super::*;

fn decode(bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    Decoder::default().feed(bytes, &mut messages).unwrap();
    messages
}

fn decode_error(limits: Limits, bytes: &[u8]) -> DecodeError {
    Decoder::with_limits(limits).feed(bytes, &mut Vec::new()).unwrap_err()
}

fn line(text: &str) -> Line {
    Line { text: text.to_owned(), data: None }
}

/// Encodes a message as tor does: a leading `.` is doubled in each line of the data, and each line
/// ends in CRLF.
fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, line) in message.lines.iter().enumerate() {
        let last = index + 1 == message.lines.len();
        let separator = if line.data.is_some() { '+' } else { ['-', ' '][usize::from(last)] };
        write!(bytes, "{}{separator}{}\r\n", message.code, line.text).unwrap();
        if let Some(data) = &line.data {
            for line in data.split_terminator('\n') {
                write!(bytes, "{}{line}\r\n", if line.starts_with('.') { "." } else { "" }).unwrap();
            }
            bytes.extend_from_slice(b".\r\n");
        }
    }
    bytes
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let data = prop::collection::vec("[^\r\n]{0,20}|\\.{0,3}", 0..5)
        .prop_map(|lines| lines.into_iter().map(|line| line + "\n").collect::<String>());
    let middle = ("[^\r\n]{0,20}", prop::option::of(data)).prop_map(|(text, data)| Line { text, data });
    let code = prop_oneof![Just(250_u16), Just(650), 200_u16..700];
    let message = (code, prop::collection::vec(middle, 0..5), "[^\r\n]{0,20}").prop_map(|(code, mut lines, end)| {
        lines.push(line(&end));
        Message { code, lines }
    });
    prop::collection::vec(message, 0..5)
}

proptest! {
    #[test]
    fn decodes_messages_in_chunks_of_any_size(
        sent in messages(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(encode).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let (mut decoder, mut received) = (Decoder::default(), Vec::new());
        for piece in cuts.windows(2) {
            decoder.feed(&bytes[piece[0]..piece[1]], &mut received).unwrap();
        }
        prop_assert_eq!(received, sent.into_iter().map(without_unkept_data).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_cause_a_panic_or_exceed_the_limits(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"2650+- .\r\n".to_vec())], 0..400),
    ) {
        let limits = Limits { line: 30, message: 200 };
        let (mut decoder, mut received) = (Decoder::with_limits(limits), Vec::new());
        if decoder.feed(&bytes, &mut received).is_ok() {
            prop_assert!(decoder.line.len() <= limits.line);
            prop_assert!(decoder.reply.size <= limits.message && decoder.event.size <= limits.message);
        }
        prop_assert!(received.iter().all(|message| (100..=999).contains(&message.code) && !message.lines.is_empty()));
    }
}

fn without_unkept_data(mut message: Message) -> Message {
    let event = message.is_event();
    for line in &mut message.lines {
        if event && UNKEPT_DATA.contains(&line.text.as_str()) {
            line.data = None;
        }
    }
    message
}

#[test]
fn decodes_replies_of_tor_0_4_9_11() {
    let bytes = b"250-version=0.4.9.11\r\n250 OK\r\n552 Unrecognized key \"nonsense\"\r\n";
    let expected = [
        Message { code: 250, lines: vec![line("version=0.4.9.11"), line("OK")] },
        Message { code: 552, lines: vec![line("Unrecognized key \"nonsense\"")] },
    ];
    assert_eq!(decode(bytes), expected);
}

#[test]
fn data_is_unstuffed_and_its_lines_end_in_lf() {
    let messages = decode(b"250+config-text=\r\nA 1\r\n..x\r\n..\r\n\r\n250 not the end\r\n.\r\n250 OK\r\n");
    let data = "A 1\n.x\n.\n\n250 not the end\n".to_owned();
    let first = Line { text: "config-text=".to_owned(), data: Some(data) };
    assert_eq!(messages, [Message { code: 250, lines: vec![first, line("OK")] }]);
}

/// A longer text that grows in steps costs memory that the allocator keeps.
#[test]
fn long_data_gets_the_space_of_the_longest_message_at_once() {
    let limits = Limits { line: 1000, message: 4 << 20 };
    let capacity = |lines: usize| {
        let (mut decoder, mut messages) = (Decoder::with_limits(limits), Vec::new());
        let data = format!("{}\r\n", "x".repeat(998)).repeat(lines);
        decoder.feed(format!("250+a=\r\n{data}.\r\n250 OK\r\n").as_bytes(), &mut messages).unwrap();
        messages[0].lines[0].data.as_ref().unwrap().capacity()
    };
    assert!(capacity(50) < 200_000);
    assert_eq!([capacity(100), capacity(1000)], [limits.message; 2]);
}

#[test]
fn empty_data_differs_from_missing_data() {
    assert_eq!(decode(b"250+x=\r\n.\r\n250 OK\r\n")[0].lines[0].data.as_deref(), Some(""));
}

#[test]
fn a_lone_lf_ends_a_line() {
    assert_eq!(decode(b"250+x=\r\n\na\r\n.\r\n250 OK\r\n")[0].lines[0].data.as_deref(), Some("\na\n"));
}

#[test]
fn an_event_within_a_reply_is_a_separate_message() {
    let messages = decode(b"250-a=1\r\n650-CONF_CHANGED\r\n250-b=2\r\n650 OK\r\n250 OK\r\n");
    let expected = [
        Message { code: 650, lines: vec![line("CONF_CHANGED"), line("OK")] },
        Message { code: 250, lines: vec![line("a=1"), line("b=2"), line("OK")] },
    ];
    assert_eq!(messages, expected);
}

#[test]
fn decodes_an_event_with_data() {
    let messages = decode(b"650+HS_DESC_CONTENT x y z\r\nhs-descriptor 3\r\n.\r\n650 OK\r\n");
    assert_eq!(messages[0].lines[0].text, "HS_DESC_CONTENT x y z");
    assert_eq!(messages[0].lines[0].data.as_deref(), Some("hs-descriptor 3\n"));
}

#[test]
fn the_body_of_newconsensus_is_discarded() {
    let limits = Limits { line: 100, message: 300 };
    let (mut decoder, mut received) = (Decoder::with_limits(limits), Vec::new());
    decoder.feed(b"650+NEWCONSENSUS\r\n", &mut received).unwrap();
    for _ in 0..1000 {
        decoder.feed(b"r relay3 SUDU3OxK/RvlYTVYlINHHmxO2/A\r\n250 OK\r\n650 OK\r\n", &mut received).unwrap();
    }
    assert!(received.is_empty());
    decoder.feed(b".\r\n650 OK\r\n", &mut received).unwrap();
    assert_eq!(received, [Message { code: 650, lines: vec![line("NEWCONSENSUS"), line("OK")] }]);
}

#[test]
fn a_reply_named_like_an_event_keeps_its_data() {
    assert_eq!(decode(b"250+NS\r\na\r\n.\r\n250 OK\r\n")[0].lines[0].data.as_deref(), Some("a\n"));
}

#[test]
fn bytes_that_are_not_utf_8_are_replaced() {
    assert_eq!(decode(b"250 a\xFFb\r\n")[0].lines[0].text, "a\u{FFFD}b");
}

#[test]
fn rejects_malformed_reply_lines() {
    for bytes in [&b"\r\n"[..], b"250\r\n", b"25O OK\r\n", b"250=OK\r\n", b"050 OK\r\n", b"SSH-2.0-x\r\n"] {
        assert_eq!(decode_error(Limits::default(), bytes), DecodeError::Malformed, "{bytes:?}");
    }
}

#[test]
fn names_the_service_that_listens_in_place_of_tors_control_port() {
    for (bytes, expected) in [
        (&b"HTTP/1.0 501 Tor is not an HTTP Proxy\r\nContent-Type: text/html\r\n"[..], DecodeError::SocksPort),
        (b"HTTP/1.0 501 This is a SOCKS Proxy, Not An HTTP Proxy\r\n", DecodeError::SocksPort),
        (b"HTTP/1.1 400 Bad Request\r\n", DecodeError::WebServer),
        (b"<!DOCTYPE HTML>\n<html>\n", DecodeError::WebServer),
        (b"<html>\n", DecodeError::WebServer),
    ] {
        assert_eq!(decode_error(Limits::default(), bytes), expected, "{bytes:?}");
    }
}

#[test]
fn limits_apply_even_if_no_line_ends() {
    let limits = Limits { line: 10, message: 200 };
    assert_eq!(decode_error(limits, &[b'2'; 11]), DecodeError::LineTooLong(10));
    assert_eq!(decode_error(limits, &b"250-a\r\n".repeat(50)), DecodeError::MessageTooLong(200));
    assert_eq!(
        decode_error(limits, &[&b"250+a\r\n"[..], &b"aaaa\r\n".repeat(50)].concat()),
        DecodeError::MessageTooLong(200)
    );
    let (mut decoder, mut received) = (Decoder::with_limits(limits), Vec::new());
    decoder.feed(&b"250 a\r\n650 b\r\n".repeat(50), &mut received).unwrap();
    assert_eq!(received.len(), 100);
}

#[test]
fn messages_before_an_error_are_returned() {
    let mut received = Vec::new();
    Decoder::default().feed(b"250 OK\r\nrubbish\r\n", &mut received).unwrap_err();
    assert_eq!(received.len(), 1);
}
