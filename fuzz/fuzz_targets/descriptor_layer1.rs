//! Layer 1 as a backend could write it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use onionbalance_fuzz::Service;

static SERVICE: LazyLock<Service> = LazyLock::new(Service::new);

fuzz_target!(|plaintext: &[u8]| {
    let _ = SERVICE.check(&SERVICE.with_layer1(plaintext));
    if let Ok(text) = str::from_utf8(plaintext) {
        let _ = SERVICE.check(&SERVICE.with_layer1(SERVICE.expand(text).as_bytes()));
    }
});
