//! Fuzzes the control protocol. The decoded messages must not depend on how the bytes are split
//! into reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::control::codec::{DecodeError, Decoder, Limits, Message};
use onionbalance_operator::control::text::{keywords, push_data, unquote};
use onionbalance_operator::control::{Event, bootstrap_percent};

const LIMITS: Limits = Limits { line: 1024, message: 4096 };

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = decode(std::iter::once(bytes));
    let cut = decode(bytes.chunks(usize::from(piece) + 1));
    assert_eq!(whole, cut);
    for message in whole.0 {
        let _ = Event::from_message(&message);
        for line in &message.lines {
            let _ = (keywords(&line.text), unquote(&line.text), bootstrap_percent(&line.text));
            if let Some(data) = &line.data {
                round_trip(data);
            }
        }
    }
});

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, Result<(), DecodeError>) {
    let mut decoder = Decoder::with_limits(LIMITS);
    let mut messages = Vec::new();
    let mut pieces = pieces;
    let result = pieces.try_for_each(|piece| decoder.feed(piece, &mut messages));
    (messages, result)
}

/// Checks that encoding and decoding a data block preserves its lines.
fn round_trip(data: &str) {
    let mut bytes = b"250+x=\r\n".to_vec();
    push_data(data, &mut bytes);
    bytes.extend(b"250 OK\r\n");
    let mut messages = Vec::new();
    Decoder::default().feed(&bytes, &mut messages).unwrap();
    let expected: String = data.lines().flat_map(|line| [line, "\n"]).collect();
    assert_eq!(messages[0].lines[0].data.as_deref(), Some(expected.as_str()));
}
