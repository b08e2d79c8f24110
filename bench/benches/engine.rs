//! Benchmarks of the merge engine's expensive steps.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use onionbalance_bench::descriptor::{SampleService, Signatures};
use onionbalance_bench::network::{RELAYS, Texts};

const HOUR: u64 = 3600;

fn descriptor(criterion: &mut Criterion) {
    let mut service = SampleService::with_twenty_points();
    let age = Duration::from_secs(12 * HOUR);
    let mut group = criterion.benchmark_group("descriptor");
    let text = service.build(age).unwrap_or_default();
    let signatures = Signatures::of(text);
    group.bench_function("build 20 points", |bencher| bencher.iter(|| service.build(age)));
    group.bench_function("signatures only", |bencher| bencher.iter(|| signatures.sign()));
    group.finish();

    let mut group = criterion.benchmark_group("revision counter");
    for (name, seconds) in [("15 min", HOUR / 4), ("12 h", 12 * HOUR), ("24 h", 24 * HOUR), ("48 h", 48 * HOUR)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| service.revision_counter(Duration::from_secs(seconds)));
        });
    }
    group.finish();
}

fn network(criterion: &mut Criterion) {
    let address = SampleService::with_twenty_points().address();
    let Ok(texts) = Texts::generate(RELAYS) else { return };
    let mut group = criterion.benchmark_group("network");
    group.sample_size(20);
    group.bench_function("parse 9,000 relays and find the HSDirs", |bencher| bencher.iter(|| texts.place(&address)));
    group.finish();
}

criterion_group!(benches, descriptor, network);
criterion_main!(benches);
