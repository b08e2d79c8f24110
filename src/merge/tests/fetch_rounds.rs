//! Tests of single fetch rounds: which HSDirs they ask, and when the next round begins.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fetch_schedule::{LIFETIME, address};
use super::network::{HOUR, backend, network, start, testing_network};
use super::{RELAYS, seconds};
use crate::consensus::Fingerprint;
use crate::merge::fetch_schedule::interval;
use crate::merge::{ExternalState, FetchAnswer, FetchInput, FetchOutput, FetchSchedule, FetchedDescriptor, Now};
use crate::onion::OnionAddress;

/// The schedule of one backend, whose fetches the test answers itself.
struct Rounds {
    schedule: FetchSchedule,
    address: OnionAddress,
    now: Duration,
    hour: u32,
    counter: u64,
    /// The HSDirs that have been asked and have not answered yet.
    asked: Vec<Fingerprint>,
}

impl Rounds {
    fn new(hour: u32) -> Self {
        let (address, schedule) = (address(1), FetchSchedule::new([7; 32]));
        let mut rounds = Self { schedule, address, now: HOUR, hour, counter: 1, asked: Vec::new() };
        rounds.move_to(hour);
        rounds.handle(FetchInput::Backends([address].into()));
        rounds.handle(FetchInput::Tor(true));
        rounds
    }

    fn handle(&mut self, input: FetchInput) {
        self.schedule.handle(input, Now { wall: start() + self.now, elapsed: self.now });
        while let Some(output) = self.schedule.poll_output() {
            if let FetchOutput::Fetch(_, hsdir) = output {
                self.asked.push(hsdir);
            }
        }
    }

    /// Lets clients move to the time period of this hour.
    fn move_to(&mut self, hour: u32) {
        self.hour = hour;
        self.handle(FetchInput::Network(network(RELAYS, hour)));
    }

    /// Returns a descriptor of the current time period with a greater revision counter than all
    /// before.
    fn descriptor(&mut self, lifetime: Duration) -> FetchAnswer {
        self.counter += 1;
        let period = network(RELAYS, self.hour).client_period().period;
        let content = backend(1, 0).1;
        FetchAnswer::Has(FetchedDescriptor { period, revision_counter: self.counter, lifetime, content })
    }

    /// Passes the answer of one HSDir to the schedule.
    fn answer(&mut self, hsdir: Fingerprint, answer: &FetchAnswer) {
        self.asked.retain(|asked| *asked != hsdir);
        self.handle(FetchInput::Fetched { address: self.address, hsdir, answer: answer.clone() });
    }

    /// Gives the same answer for every HSDir until the schedule asks no more. Returns the number of
    /// answers.
    fn finish(&mut self, answer: &FetchAnswer) -> usize {
        let mut answers = 0;
        while let Some(hsdir) = self.asked.first().copied() {
            self.answer(hsdir, answer);
            answers += 1;
        }
        answers
    }

    /// Waits for the next round and returns the pause before it.
    fn next_round(&mut self) -> Duration {
        assert!(self.asked.is_empty(), "the round has not ended");
        let next = self.schedule.poll_timeout().unwrap();
        let pause = next.saturating_sub(self.now);
        self.now = next;
        self.handle(FetchInput::Tick);
        assert_eq!(self.asked.len(), 2, "a round begins with two HSDirs");
        pause
    }

    /// Waits for the next round. The pause before it must be this many seconds, with a jitter of a
    /// fifth.
    fn wait(&mut self, expected: u64) {
        let pause = self.next_round();
        let jitter = seconds(expected).mul_f64(0.2);
        assert!(pause.abs_diff(seconds(expected)) <= jitter, "{pause:?} instead of {expected} s");
    }

    fn state(&self) -> ExternalState {
        self.schedule.states().next().unwrap().1
    }
}

#[test]
fn a_round_ends_when_two_hsdirs_have_returned_the_descriptor() {
    let mut rounds = Rounds::new(1);
    assert_eq!(rounds.asked.iter().collect::<BTreeSet<_>>().len(), 2);
    let found = rounds.descriptor(LIFETIME);
    assert_eq!(rounds.finish(&found), 2);
    rounds.wait(600);
    // One descriptor is not enough, so a third HSDir is asked.
    rounds.answer(rounds.asked[0], &FetchAnswer::Useless);
    let found = rounds.descriptor(LIFETIME);
    assert_eq!(rounds.finish(&found), 2);
    rounds.wait(600);
}

#[test]
fn pauses_grow_while_no_hsdir_has_the_descriptor_and_shrink_once_one_has() {
    let mut rounds = Rounds::new(1);
    for pause in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
        assert_eq!(rounds.finish(&FetchAnswer::HasNone), 6, "every HSDir that clients ask is asked");
        rounds.wait(pause);
    }
    let found = rounds.descriptor(LIFETIME);
    rounds.finish(&found);
    rounds.wait(600);
    rounds.finish(&FetchAnswer::Useless);
    rounds.wait(5);
}

#[test]
fn rounds_are_five_times_as_frequent_before_a_descriptor_expires() {
    for (lifetime, pause) in [(3000, 120), (3001, 600)] {
        let mut rounds = Rounds::new(1);
        let found = rounds.descriptor(seconds(lifetime));
        rounds.finish(&found);
        rounds.wait(pause);
    }
}

#[test]
fn a_round_begins_within_ten_seconds_after_clients_have_moved_to_another_period() {
    let mut rounds = Rounds::new(11);
    for pause in [5, 10, 20] {
        rounds.finish(&FetchAnswer::HasNone);
        rounds.wait(pause);
    }
    rounds.finish(&FetchAnswer::HasNone);
    rounds.move_to(12);
    let pause = rounds.next_round();
    assert!(Duration::ZERO < pause && pause <= seconds(10), "the rounds of many backends are spread, not {pause:?}");
    // Failures in the earlier period do not lengthen the pauses of the new one.
    rounds.finish(&FetchAnswer::HasNone);
    rounds.wait(5);
}

#[test]
fn an_answer_from_an_earlier_period_does_not_end_the_round_of_the_new_one() {
    let mut rounds = Rounds::new(11);
    let earlier = std::mem::take(&mut rounds.asked);
    let found = rounds.descriptor(LIFETIME);
    rounds.move_to(12);
    let asked = rounds.asked.clone();
    assert!(asked.len() == 2 && earlier.iter().all(|hsdir| !asked.contains(hsdir)), "{earlier:?} {asked:?}");
    for hsdir in earlier {
        rounds.answer(hsdir, &found);
    }
    assert_eq!(rounds.asked, asked, "the new round still waits for its own answers");
    assert_eq!(rounds.finish(&FetchAnswer::HasNone), 6);
    rounds.wait(5);
}

#[test]
fn the_last_hsdir_that_answers_can_save_the_round() {
    let mut rounds = Rounds::new(1);
    while rounds.asked.len() == 2 {
        rounds.answer(rounds.asked[0], &FetchAnswer::HasNone);
    }
    let found = rounds.descriptor(LIFETIME);
    assert_eq!(rounds.finish(&found), 1, "all other HSDirs have answered");
    rounds.wait(600);
}

#[test]
fn a_descriptor_of_an_earlier_period_does_not_hide_a_later_proof_of_life() {
    let mut rounds = Rounds::new(12);
    let hsdir = rounds.asked[0];
    rounds.hour = 11;
    rounds.counter = u64::from(u32::MAX);
    let earlier = rounds.descriptor(LIFETIME);
    (rounds.hour, rounds.counter) = (12, 1);
    let found = rounds.descriptor(LIFETIME);
    rounds.finish(&found);
    rounds.now += HOUR;
    rounds.answer(hsdir, &earlier);
    let newer = rounds.descriptor(LIFETIME);
    rounds.answer(hsdir, &newer);
    // The newer descriptor proves that the backend is alive, so the backend is trusted for the
    // whole lifetime.
    for (later, expected) in
        [(LIFETIME.saturating_sub(seconds(1)), ExternalState::Counts), (seconds(1), ExternalState::Lost)]
    {
        rounds.now += later;
        rounds.handle(FetchInput::Tick);
        assert_eq!(rounds.state(), expected);
    }
}

#[test]
fn the_interval_follows_the_network() {
    assert_eq!(interval(None), seconds(600));
    assert_eq!(interval(Some(&network(RELAYS, 0))), seconds(600));
    assert_eq!(interval(Some(&testing_network(RELAYS))), seconds(10));
}
