//! Fuzzes the answers of tor's SOCKS port. A reply must end at one certain byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::control::socks::parse_reply;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(_)) = parse_reply(bytes) {
        for length in 0..bytes.len() {
            assert!(matches!(parse_reply(&bytes[..length]), Ok(None)));
        }
        let longer = [bytes, &[0]].concat();
        assert!(parse_reply(&longer).is_err());
    }
});
