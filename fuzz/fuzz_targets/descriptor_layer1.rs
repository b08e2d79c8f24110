//! Fuzzes layer 1 of a descriptor, which a backend controls.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use onionbalance_fuzz::FuzzService;

static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::new);

fuzz_target!(|plaintext: &[u8]| {
    let _ = SERVICE.check(&SERVICE.with_layer1(plaintext));
    if let Ok(text) = str::from_utf8(plaintext) {
        let _ = SERVICE.check(&SERVICE.with_layer1(SERVICE.expand(text).as_bytes()));
    }
});
