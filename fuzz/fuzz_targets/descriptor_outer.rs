//! The outer layer as anybody on the network could write it, with and without a signature that fits.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use onionbalance_fuzz::{Service, now};
use onionbalance_operator::onion::UncheckedDescriptor;

static SERVICE: LazyLock<Service> = LazyLock::new(Service::new);

fuzz_target!(|text: &str| {
    let text = SERVICE.expand(text);
    for text in [&text, &SERVICE.signed(&text)] {
        if let Ok(descriptor) = UncheckedDescriptor::parse(text) {
            let blinded = descriptor.blinded_key();
            let _ = descriptor.check(&SERVICE.address, &blinded, now());
        }
    }
});
