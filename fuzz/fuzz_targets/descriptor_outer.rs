//! Fuzzes the outer layer of a descriptor, both with and without a valid signature. Anybody on the
//! network can write an outer layer.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use onionbalance_fuzz::{FuzzService, now};
use onionbalance_operator::onion::UncheckedDescriptor;

static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::new);

fuzz_target!(|text: &str| {
    let text = SERVICE.expand(text);
    for text in [&text, &SERVICE.signed(&text)] {
        if let Ok(descriptor) = UncheckedDescriptor::parse(text) {
            let blinded = descriptor.blinded_key();
            let _ = descriptor.check(&SERVICE.address, &blinded, now());
        }
    }
});
