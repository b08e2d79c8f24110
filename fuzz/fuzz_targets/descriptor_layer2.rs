//! Fuzzes layer 2 of a descriptor, which a backend controls. If content is accepted, writing and
//! reading it again must preserve it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use onionbalance_fuzz::{FuzzService, now};
use onionbalance_operator::onion::descriptor::{DescriptorError, DescriptorKeys, MAX_INTRODUCTION_POINTS};
use onionbalance_operator::onion::{BlindedKeypair, MasterKey, ServiceContent, TimePeriod, UncheckedDescriptor};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

static SERVICE: LazyLock<FuzzService> = LazyLock::new(FuzzService::new);
static MERGER: LazyLock<(MasterKey, BlindedKeypair, DescriptorKeys)> = LazyLock::new(|| {
    let mut rng = StdRng::from_seed([1; 32]);
    let key = MasterKey::generate(&mut rng);
    let blinded = key.blind(TimePeriod { number: 20_000, length_minutes: 1440 });
    (key, blinded, DescriptorKeys::generate(&mut rng))
});

fuzz_target!(|text: &str| {
    let text = SERVICE.expand(text);
    if let Ok(descriptor) = SERVICE.check(&SERVICE.with_layer2(text.as_bytes())) {
        write_and_read_again(descriptor.content);
    }
});

fn write_and_read_again(content: ServiceContent) {
    assert!(content.introduction_points.len() <= MAX_INTRODUCTION_POINTS);
    let (key, blinded, keys) = &*MERGER;
    let legacy = content.introduction_points.iter().any(|point| point.legacy);
    let mut rng = StdRng::from_seed([2; 32]);
    match keys.build(blinded, &key.address(), &content, 1, now(), &mut rng) {
        Ok(text) => {
            let again = UncheckedDescriptor::parse(&text).unwrap();
            let again = again.check(&key.address(), &blinded.public(), now()).unwrap().content;
            assert_eq!(again, ServiceContent { pow_params: false, ..content });
        }
        Err(DescriptorError::LegacyPoint) if legacy => {}
        Err(DescriptorError::TooLong) => {}
        Err(error) => panic!("accepted content cannot be written: {error}"),
    }
}
