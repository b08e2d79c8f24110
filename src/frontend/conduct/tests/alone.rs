//! Tests of a single publisher's leadership state machine, event by event.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::Lease;

use super::fitness::CutOff;
use super::*;
use crate::common::election::Record;
use crate::merge::{PeriodStatus, UploadError};
use crate::onion::TimePeriod;

#[test]
fn a_lease_without_the_labels_of_the_service_is_never_acquired() {
    let mut foreign = lease_object::create("web");
    foreign.metadata.labels = None;
    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(Box::new(foreign))))), at(1));
    assert!(conduct.poll_output().is_none());
    assert!(conduct.knows_lease() && !conduct.holds_lease());
    conduct.handle(Event::Tick, at(3));
    read_call(&mut conduct);
}

fn at(seconds: u64) -> Now {
    let elapsed = Duration::from_secs(seconds);
    Now { wall: SystemTime::UNIX_EPOCH + elapsed, elapsed }
}

/// Returns the leadership state of a publisher that knows the object and is connected to tor.
fn started() -> Conduct {
    let mut conduct = Conduct::new("web", "a".to_owned(), at(0));
    conduct.handle(Event::Tor(true), at(0));
    assert!(conduct.poll_output().is_none(), "the object is still unknown");
    assert!(!conduct.knows_lease());
    let discovery = Some(Discovery::Open);
    conduct.handle(Event::Object { uid: "u".to_owned(), suspended: false, discovery }, at(0));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Discovery(_)))));
    conduct
}

fn read_call(conduct: &mut Conduct) -> CallId {
    match conduct.poll_output() {
        Some(Output::Call(call, LeaseRequest::ReadLease)) => call,
        other => panic!("{other:?}"),
    }
}

fn write_call(conduct: &mut Conduct) -> (CallId, Box<Lease>) {
    match conduct.poll_output() {
        Some(Output::Call(call, LeaseRequest::WriteLease(lease))) => (call, lease),
        other => panic!("{other:?}"),
    }
}

/// Returns the leadership state of a publisher that has acquired the Lease, along with the Lease.
fn leading() -> (Conduct, Box<Lease>) {
    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(None))), at(0));
    let (call, lease) = write_call(&mut conduct);
    assert!(!conduct.is_leading(), "the Lease has not been written yet");
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(lease.clone()))), at(0));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(true)))));
    (conduct, lease)
}

#[test]
fn the_lease_belongs_to_the_object_and_holds_the_counters() {
    let (mut conduct, lease) = leading();
    assert_eq!(lease.metadata.name.as_deref(), Some("web-frontend"));
    assert_eq!(lease.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
    assert_eq!(Record::of(&lease).holder, "a");
    let period = TimePeriod { number: 20_500, length_minutes: 1440 };
    conduct.handle(Event::CounterUsed(period, 7), at(1));
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(1));
    let (_, lease) = write_call(&mut conduct);
    assert_eq!(lease_object::counters(&lease).get(20_500), Some(7), "the counter is stored at once");
}

/// Returns the revision counters that the state machine passes to the engine.
fn floors(conduct: &mut Conduct) -> Vec<(TimePeriod, u64)> {
    let outputs = std::iter::from_fn(|| conduct.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::Engine(Input::CounterFloor(period, counter)) => Some((period, counter)),
            _ => None,
        })
        .collect()
}

#[test]
fn the_engine_learns_the_counters_in_the_lease_that_exceed_its_own() {
    let [first, second] = network().service_periods().map(|service| service.period);
    let mut stored = Counters::default();
    stored.raise(first.number, 7);
    stored.raise(second.number, 9);
    let mut lease = Box::new(lease_object::create("web"));
    lease.metadata.annotations.get_or_insert_default().insert(counters::ANNOTATION.to_owned(), stored.to_string());

    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(0));
    let (call, lease) = write_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(lease))), at(0));
    assert_eq!(floors(&mut conduct), [], "without a consensus, the time periods are unknown");
    conduct.handle(Event::CounterUsed(first, 7), at(0));
    conduct.handle(Event::Network(network()), at(0));
    assert_eq!(floors(&mut conduct), [(second, 9)]);
}

fn unanswered() -> Event {
    let period = PeriodStatus {
        period: TimePeriod { number: 20_500, length_minutes: 1440 },
        revision_counter: 7,
        introduction_points: 6,
        descriptors: 1,
        hsdirs_accepted: 0,
        hsdirs_rejected: 0,
        hsdirs_total: 8,
        last_published: SystemTime::UNIX_EPOCH,
        authorized_clients: None,
        foreign: None,
    };
    Event::Progress(vec![period])
}

/// Lets time pass second by second, so that the state machine sees no pause, and ignores its
/// outputs.
fn idle(conduct: &mut Conduct, time: RangeInclusive<u64>) {
    for second in time {
        conduct.handle(Event::Tick, at(second));
        while conduct.poll_output().is_some() {}
    }
}

#[test]
fn only_a_leader_is_cut_off_by_a_lack_of_answers() {
    let mut standby = started();
    standby.handle(unanswered(), at(1));
    idle(&mut standby, 2..=100);
    assert_eq!(standby.fitness(), Fitness::Fit);

    let (mut leader, _) = leading();
    leader.handle(unanswered(), at(1));
    idle(&mut leader, 2..=60);
    assert_eq!(leader.fitness(), Fitness::Fit);
    idle(&mut leader, 61..=61);
    assert_eq!(leader.fitness(), Fitness::CutOff);
}

#[test]
fn only_a_newer_consensus_proves_that_tor_reaches_the_network() {
    for (hour, expected) in [(1, Fitness::CutOff), (2, Fitness::Fit)] {
        let (mut leader, _) = leading();
        leader.handle(Event::Network(generated::network(0..30, 1)), at(0));
        leader.handle(unanswered(), at(1));
        idle(&mut leader, 2..=50);
        leader.handle(Event::Network(generated::network(0..30, hour)), at(50));
        idle(&mut leader, 51..=61);
        assert_eq!(leader.fitness(), expected, "a consensus of hour {hour}");
    }
}

#[test]
fn a_change_of_the_fitness_makes_the_next_attempt_due() {
    let (mut conduct, mut lease) = leading();
    for (second, tor) in [(1, false), (2, true)] {
        conduct.handle(Event::Tick, at(second));
        assert!(conduct.poll_output().is_none(), "the renewal is due later");
        conduct.handle(Event::Tor(tor), at(second));
        let call = read_call(&mut conduct);
        conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(second));
        let (call, written) = write_call(&mut conduct);
        conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(written.clone()))), at(second));
        lease = written;
    }
}

/// Lets time pass until the state machine reads the Lease. Returns the call and the time in
/// seconds.
fn next_read(conduct: &mut Conduct, from: u64) -> (CallId, u64) {
    for second in from..from + 20 {
        conduct.handle(Event::Tick, at(second));
        while let Some(output) = conduct.poll_output() {
            if let Output::Call(call, LeaseRequest::ReadLease) = output {
                return (call, second);
            }
        }
    }
    panic!("the state machine does not read the Lease");
}

/// Lets a holder read the Lease and learn that only publisher `b` is Ready as well. Returns the
/// Lease that the holder then writes, and the time in seconds.
fn written_beside_b(holder: &mut Conduct, lease: Box<Lease>, from: u64) -> (Box<Lease>, u64) {
    let (call, second) = next_read(holder, from);
    holder.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(second));
    let Some(Output::Call(call, LeaseRequest::ListReady)) = holder.poll_output() else { panic!("it lists nobody") };
    let ready = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    holder.handle(Event::Answered(call, Ok(LeaseAnswer::Ready(ready))), at(second));
    let mut outputs = std::iter::from_fn(|| holder.poll_output());
    let written = outputs.find_map(|output| match output {
        Output::Call(_, LeaseRequest::WriteLease(lease)) => Some(lease),
        _ => None,
    });
    (written.expect("it writes nothing"), second)
}

/// The others must not give the Lease back to a publisher that is cut off.
#[test]
fn a_vacated_lease_names_its_last_holder_only_if_it_was_cut_off() {
    for (cause, expected) in [(unanswered(), "a"), (Event::Tor(false), "")] {
        let (mut leader, lease) = leading();
        leader.handle(cause, at(1));
        idle(&mut leader, 2..=61);
        let (vacated, _) = written_beside_b(&mut leader, lease, 62);
        assert_eq!(Record::of(&vacated).holder, "");
        assert_eq!(lease_object::cut_off(Some(&vacated)).to_string(), expected);
    }
}

#[test]
fn a_publisher_without_network_keeps_the_lease_from_others_without_network_for_ten_minutes() {
    let (mut leader, mut lease) = leading();
    lease_object::set_cut_off(&mut lease, &CutOff::parse("b"));
    leader.handle(unanswered(), at(1));
    let mut start = 2;
    for (end, holder, cut_off) in [(61, "a", "b"), (580, "a", "b"), (600, "", "a")] {
        idle(&mut leader, start..=end);
        let (written, second) = written_beside_b(&mut leader, lease.clone(), end + 1);
        start = second + 1;
        assert_eq!(Record::of(&written).holder, holder, "after {end} s");
        assert_eq!(lease_object::cut_off(Some(&written)).to_string(), cut_off, "after {end} s");
    }
}

#[test]
fn a_holder_that_reaches_an_hsdir_clears_the_list_of_those_that_could_not() {
    let (mut leader, mut lease) = leading();
    lease_object::set_cut_off(&mut lease, &CutOff::parse("b"));
    let mut second = 1;
    for (upload, expected) in [(Err(UploadError::Other("TIMEOUT".to_owned())), "b"), (Ok(()), "")] {
        leader.handle(Event::Uploaded(upload), at(second));
        let call;
        (call, second) = next_read(&mut leader, second);
        leader.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease.clone())))), at(second));
        let (call, written) = write_call(&mut leader);
        leader.handle(Event::Answered(call, Ok(LeaseAnswer::Written(written.clone()))), at(second));
        assert_eq!(lease_object::cut_off(Some(&written)).to_string(), expected);
    }
}

#[test]
fn a_second_stop_does_not_repeat_the_release() {
    let (mut conduct, lease) = leading();
    conduct.handle(Event::Stop, at(1));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(false)))));
    let call = read_call(&mut conduct);
    conduct.handle(Event::Stop, at(1));
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(1));
    let (call, released) = write_call(&mut conduct);
    conduct.handle(Event::Stop, at(2));
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(released))), at(2));
    assert!(conduct.has_ended() && conduct.poll_output().is_none());
}

/// A Lease lasts for 15 s, so one failed renewal must not cost the Lease.
#[test]
fn the_holder_renews_the_lease_at_least_twice_within_its_duration() {
    let (mut conduct, mut lease) = leading();
    let mut renewals = vec![0];
    for second in 1..=60 {
        conduct.handle(Event::Tick, at(second));
        while let Some(output) = conduct.poll_output() {
            let (call, answer) = match output {
                Output::Call(call, LeaseRequest::ReadLease) => (call, LeaseAnswer::Read(Some(lease.clone()))),
                Output::Call(call, LeaseRequest::WriteLease(renewed)) => {
                    renewals.push(second);
                    lease = renewed;
                    (call, LeaseAnswer::Written(lease.clone()))
                }
                other => panic!("{other:?}"),
            };
            conduct.handle(Event::Answered(call, Ok(answer)), at(second));
        }
    }
    assert!(renewals.len() > 5 && renewals.windows(2).all(|pair| pair[1] - pair[0] <= 7), "{renewals:?}");
}

#[test]
fn a_new_leader_starts_above_the_counters_in_the_lease() {
    let mut conduct = started();
    let call = read_call(&mut conduct);
    conduct.handle(Event::Network(network()), at(0));
    let [current, _] = network().service_periods().map(|service| service.period);
    let mut lease = Box::new(lease_object::create("web"));
    lease_object::raise_counters(&mut lease, &Counters::parse(&format!("{}=7", current.number)));
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(Some(lease)))), at(0));
    let (call, lease) = write_call(&mut conduct);
    conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Written(lease))), at(0));
    let floor = conduct.poll_output();
    assert!(
        matches!(floor, Some(Output::Engine(Input::CounterFloor(period, 7))) if period == current),
        "the engine receives the counters before the publisher leads, not {floor:?}"
    );
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(true)))));
}

#[test]
fn an_answer_from_before_a_pause_is_ignored() {
    let (mut conduct, lease) = leading();
    conduct.handle(Event::Tick, at(5));
    let old = read_call(&mut conduct);
    conduct.handle(Event::Tick, at(60));
    assert!(!conduct.is_leading());
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(false)))));
    let new = read_call(&mut conduct);
    conduct.handle(Event::Answered(old, Ok(LeaseAnswer::Read(Some(lease.clone())))), at(60));
    assert!(!conduct.is_leading() && conduct.poll_output().is_none());
    conduct.handle(Event::Answered(new, Ok(LeaseAnswer::Read(Some(lease)))), at(60));
    assert!(conduct.is_leading());
}

#[test]
fn a_publisher_leads_only_while_it_knows_the_clients() {
    let (mut conduct, _) = leading();
    conduct.handle(Event::Object { uid: "u".to_owned(), suspended: false, discovery: None }, at(1));
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(false)))));
    let discovery = Some(Discovery::Restricted(BTreeSet::new()));
    conduct.handle(Event::Object { uid: "u".to_owned(), suspended: false, discovery }, at(1));
    assert!(
        matches!(conduct.poll_output(), Some(Output::Engine(Input::Discovery(_)))),
        "the engine receives the clients before the publisher leads again"
    );
    assert!(matches!(conduct.poll_output(), Some(Output::Engine(Input::Leading(true)))));
}

#[test]
fn a_call_without_an_answer_fails_and_is_repeated() {
    let mut conduct = started();
    let first = read_call(&mut conduct);
    conduct.handle(Event::Tick, at(3));
    assert!(conduct.poll_output().is_none());
    conduct.handle(Event::Tick, at(4));
    assert_eq!(conduct.poll_timeout(), seconds(5), "the next tick is due after a second at the latest");
    conduct.handle(Event::Tick, at(6));
    let second = read_call(&mut conduct);
    assert_ne!(first, second);
    conduct.handle(Event::Answered(first, Ok(LeaseAnswer::Read(None))), at(6));
    assert!(conduct.poll_output().is_none(), "the answer arrived too late");
}

#[test]
fn after_a_conflict_the_lease_is_read_again_but_not_for_ever() {
    let mut conduct = started();
    for _ in 0..3 {
        let call = read_call(&mut conduct);
        conduct.handle(Event::Answered(call, Ok(LeaseAnswer::Read(None))), at(0));
        let (call, _) = write_call(&mut conduct);
        conduct.handle(Event::Answered(call, Err(CallError::Conflict)), at(0));
    }
    assert!(conduct.poll_output().is_none() && !conduct.holds_lease());
    conduct.handle(Event::Tick, at(3));
    read_call(&mut conduct);
}

#[test]
fn a_publisher_that_never_held_the_lease_ends_at_once() {
    let mut conduct = Conduct::new("web", "a".to_owned(), at(0));
    conduct.handle(Event::Stop, at(1));
    assert!(conduct.has_ended() && conduct.poll_output().is_none());
}

#[test]
fn a_stopping_publisher_ends_even_if_the_api_server_does_not_answer() {
    let (mut conduct, _) = leading();
    conduct.handle(Event::Stop, at(1));
    assert!(!conduct.is_leading() && !conduct.has_ended());
    for second in 2..5 {
        conduct.handle(Event::Tick, at(second));
        assert!(!conduct.has_ended());
    }
    conduct.handle(Event::Tick, at(5));
    assert!(conduct.has_ended());
}

#[test]
fn a_step_of_the_clock_does_not_stop_the_leader() {
    let (mut leader, _) = leading();
    let set = Now { wall: at(1).wall + Duration::from_secs(3600), ..at(1) };
    leader.handle(Event::Tick, set);
    assert!(leader.is_leading());
    // The clock may be all that a paused virtual machine notices.
    read_call(&mut leader);
}

#[test]
fn the_only_publisher_leads_again_after_a_pause_during_which_nobody_can_have_taken_the_lease() {
    for (alone, pause, leads) in [(true, 10, true), (true, 20, false), (false, 10, false)] {
        let (mut leader, _) = leading();
        leader.handle(Event::Alone(alone), at(1));
        leader.handle(Event::Tick, at(1 + pause));
        assert!(!leader.is_leading());
        assert!(matches!(leader.poll_output(), Some(Output::Engine(Input::Leading(false)))));
        let call = read_call(&mut leader);
        let away = CallError::Failed("connection refused".to_owned());
        leader.handle(Event::Answered(call, Err(away)), at(1 + pause));
        assert_eq!(leader.is_leading(), leads, "{alone} {pause}");
    }
}
