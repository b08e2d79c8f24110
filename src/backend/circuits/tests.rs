use futures::FutureExt as _;
use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::link::StreamRate;

fn limits(open_streams: u32) -> CircuitLimits {
    CircuitLimits { open_streams, new_streams: None, bytes_per_second: None }
}

fn circuits(limits: &CircuitLimits) -> Arc<Circuits> {
    Circuits::new(16_384, Some(limits))
}

/// Returns the circuit that the next waiting request closes.
fn request(circuits: &Circuits) -> Option<u32> {
    circuits.next_request().now_or_never().map(|request| request.circuit)
}

#[tokio::test(start_paused = true)]
async fn a_circuit_may_use_an_eighth_of_all_streams() {
    let circuits = Circuits::new(80, None);
    let mut open: Vec<_> = std::iter::from_fn(|| circuits.take(42).ok()).collect();
    assert_eq!(open.len(), 10);
    let other = circuits.take(43);
    assert!(other.is_ok(), "another circuit has a quota of its own");
    assert_eq!(circuits.open(), 2);
    open.pop();
    assert!(circuits.take(42).is_ok());
    drop((open, other));
    assert_eq!(circuits.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_limits_apply_to_each_circuit_alone() {
    let rate = StreamRate { per_second: 1, burst: 3 };
    let circuits = circuits(&CircuitLimits { new_streams: Some(rate), ..limits(5) });
    let take = |count: usize| (0..count).filter_map(|_| circuits.take(1).ok()).collect::<Vec<_>>();
    let first = take(4);
    assert_eq!(first.len(), 3);
    assert_eq!(circuits.take(1).unwrap_err(), Breach::NewStreams);
    advance(Duration::from_secs(60)).await;
    let second = take(4);
    assert_eq!(second.len(), 2);
    assert_eq!(circuits.take(1).unwrap_err(), Breach::OpenStreams);
    assert!(circuits.take(2).is_ok());
    drop((first, second));
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!((count(&circuits.counters.rate_breaches), count(&circuits.counters.open_breaches)), (2, 3));
}

/// A client must not be able to evade the limit by ending each stream at once.
#[tokio::test(start_paused = true)]
async fn the_rate_of_new_streams_outlives_the_streams() {
    let rate = StreamRate { per_second: 10, burst: 20 };
    let circuits = circuits(&CircuitLimits { new_streams: Some(rate), ..limits(256) });
    let opened = (0..100).filter(|_| circuits.take(1).is_ok()).count();
    assert_eq!(opened, 20);
    advance(Duration::from_millis(500)).await;
    assert_eq!((0..100).filter(|_| circuits.take(1).is_ok()).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn only_repeated_breaches_close_a_circuit_and_no_other() {
    let circuits = circuits(&limits(1));
    let _open = [1, 2].map(|number| circuits.take(number).unwrap());
    for _ in 0..20 {
        assert!(circuits.take(1).is_err());
        assert_eq!(request(&circuits), None);
    }
    assert!(circuits.take(2).is_err());
    assert!(circuits.take(1).is_err());
    assert_eq!(request(&circuits), Some(1));
    assert_eq!(request(&circuits), None, "one request is enough");
    // One breach a second is forgiven.
    for _ in 0..100 {
        advance(Duration::from_secs(1)).await;
        assert!(circuits.take(2).is_err());
    }
    assert_eq!(request(&circuits), None);
}

#[tokio::test(start_paused = true)]
async fn without_limits_no_circuit_is_closed() {
    let circuits = Circuits::new(8, None);
    let _open = circuits.take(1).unwrap();
    for _ in 0..1000 {
        assert_eq!(circuits.take(1).unwrap_err(), Breach::OpenStreams);
    }
    assert_eq!(request(&circuits), None);
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_circuit_share_its_bytes() {
    let circuits = circuits(&CircuitLimits { bytes_per_second: Some(1000), ..limits(8) });
    let [first, second, other] = [1, 1, 2].map(|number| circuits.take(number).unwrap());
    assert_eq!(first.moved(1000), Duration::ZERO);
    assert_eq!(second.moved(500), Duration::from_millis(500));
    assert_eq!(first.moved(500), Duration::from_secs(1));
    assert_eq!(other.moved(1000), Duration::ZERO);
    assert_eq!(circuits.counters.pauses.load(Ordering::Relaxed), 2);
    assert_eq!(request(&circuits), None, "a fast download is no abuse");
    // A new stream does not renew the bytes of its circuit.
    drop((first, second));
    assert_eq!(circuits.take(1).unwrap().moved(100), Duration::from_millis(1100));
}

#[tokio::test(start_paused = true)]
async fn the_app_closes_circuits_that_have_had_a_stream_lately() {
    let circuits = circuits(&limits(8));
    assert_eq!(circuits.close(7).await, Closure::Unknown);
    drop(circuits.take(7).unwrap());
    advance(Duration::from_secs(599)).await;
    for (closed, outcome) in [(true, Closure::Closed), (false, Closure::Unknown)] {
        let tor = async {
            let request = circuits.next_request().await;
            assert_eq!((request.circuit, request.cause), (7, Cause::Request));
            circuits.answered(request, closed);
        };
        assert_eq!(tokio::join!(circuits.close(7), tor).0, outcome);
    }
    assert_eq!(circuits.counters.closed_by_request.load(Ordering::Relaxed), 1);
    assert_eq!(circuits.close(7).await, Closure::NoAnswer, "no tor is connected");
    advance(Duration::from_secs(2)).await;
    assert_eq!(circuits.close(7).await, Closure::Unknown);
}

/// A restarted tor begins to number its circuits again.
#[tokio::test(start_paused = true)]
async fn no_circuit_of_a_new_tor_is_taken_for_one_of_the_old_tor() {
    let circuits = circuits(&limits(2));
    let old = [(); 2].map(|()| circuits.take(7).unwrap());
    let (outcome, ()) = tokio::join!(circuits.close(7), async { circuits.forget() });
    assert_eq!(outcome, Closure::NoAnswer);
    assert_eq!(request(&circuits), None);
    assert_eq!(circuits.close(7).await, Closure::Unknown);
    let _new = [(); 2].map(|()| circuits.take(7).unwrap());
    drop(old);
    assert_eq!(circuits.take(7).unwrap_err(), Breach::OpenStreams, "the old streams no longer count");
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_however_many_circuits_there_are() {
    let rate = StreamRate { per_second: 1, burst: 100 };
    let limits = CircuitLimits { new_streams: Some(rate), bytes_per_second: Some(65_536), ..limits(8) };
    let circuits = circuits(&limits);
    let _open: Vec<_> = (0..1000).map(|number| circuits.take(number).unwrap()).collect();
    for number in 1000..350_000 {
        circuits.take(number).unwrap();
        if number.is_multiple_of(1_000) {
            let table = circuits.table();
            assert!(table.circuits.len() <= MAX_CIRCUITS);
            // A bucket of the table has one more byte, and a pace is an allocation of its own.
            let entry = size_of::<(u32, Circuit)>() + 1;
            let paces = table.circuits.len() * (size_of::<Pace>() + 32);
            let bytes = table.circuits.capacity() * 8 / 7 * entry + paces;
            assert!(bytes < 32 << 20, "{bytes} bytes for {} circuits", table.circuits.len());
        }
    }
    assert_eq!(circuits.open(), 1000, "circuits with streams are never forgotten");
    advance(Duration::from_secs(3600)).await;
    let mut table = circuits.table();
    table.sweep(circuits.now());
    assert_eq!(table.circuits.len(), 1000);
    assert!(table.circuits.capacity() < 10_000, "the memory is returned");
}

proptest! {
    /// Whatever the order of events, the number of open streams of each circuit is exact.
    #[test]
    fn the_number_of_open_streams_is_exact(
        events in prop::collection::vec((0_u32..4, any::<bool>()), 0..200), limit in 1_u32..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let circuits = circuits(&limits(limit));
        let mut open: [Vec<CircuitPermit>; 4] = Default::default();
        for (number, opens) in events {
            let streams = &mut open[number as usize];
            if !opens {
                streams.pop();
                continue;
            }
            let permit = circuits.take(number);
            prop_assert_eq!(permit.is_ok(), streams.len() < limit as usize);
            streams.extend(permit);
        }
        prop_assert_eq!(circuits.open(), open.iter().filter(|streams| !streams.is_empty()).count());
    }
}
