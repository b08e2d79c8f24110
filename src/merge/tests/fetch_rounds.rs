//! Tests of single fetch rounds: which HSDirs they ask, and when the next round begins.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use ed25519_dalek::SigningKey;

use super::network::{HOUR, backend, network, start, testing_network};
use super::{RELAYS, seconds};
use crate::consensus::Fingerprint;
use crate::merge::fetch_schedule::interval;
use crate::merge::{ExternalState, FetchAnswer, FetchInput, FetchOutput, FetchSchedule, FetchedDescriptor, Now};
use crate::onion::OnionAddress;

const LIFETIME: Duration = Duration::from_hours(3);

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
        let address = OnionAddress::from_public_key(SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes());
        let (address, schedule) = (address.unwrap(), FetchSchedule::new([7; 32]));
        let mut rounds = Self { schedule, address, now: HOUR, hour, counter: 1, asked: Vec::new() };
        rounds.handle(FetchInput::Network(network(RELAYS, hour)));
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

    fn found(&mut self, lifetime: Duration) -> FetchAnswer {
        self.counter += 1;
        let period = network(RELAYS, self.hour).client_period().period;
        let content = backend(1, 0).1;
        FetchAnswer::Has(FetchedDescriptor { period, revision_counter: self.counter, lifetime, content })
    }

    /// Gives one answer for each HSDir that was asked and has not answered yet.
    fn answer(&mut self, answer: &FetchAnswer) {
        for hsdir in std::mem::take(&mut self.asked) {
            self.handle(FetchInput::Fetched { address: self.address, hsdir, answer: answer.clone() });
        }
    }

    /// Answers until the schedule asks no further HSDirs, and returns the number of answers.
    fn finish(&mut self, answer: &FetchAnswer) -> usize {
        let mut answers = 0;
        while !self.asked.is_empty() {
            answers += self.asked.len();
            self.answer(answer);
        }
        answers
    }

    /// Waits for the next round, whose start must lie within `range` (in seconds), with a tolerance
    /// of a fifth for the jitter.
    fn wait(&mut self, range: RangeInclusive<u64>) {
        assert!(self.asked.is_empty(), "the round has not ended");
        let next = self.schedule.poll_timeout().unwrap();
        let pause = next.saturating_sub(self.now);
        let bounds = (seconds(*range.start()).mul_f64(0.8), seconds(*range.end()).mul_f64(1.2));
        assert!(bounds.0 <= pause && pause <= bounds.1, "{pause:?} is not within {bounds:?}");
        self.now = next;
        self.handle(FetchInput::Tick);
        assert_eq!(self.asked.len(), 2, "the next round asks two HSDirs");
    }
}

#[test]
fn a_round_ends_when_two_hsdirs_have_returned_the_descriptor() {
    let mut rounds = Rounds::new(1);
    assert_eq!(rounds.asked.iter().collect::<BTreeSet<_>>().len(), 2);
    let found = rounds.found(LIFETIME);
    assert_eq!(rounds.finish(&found), 2);
    rounds.wait(600..=600);
    // One answer is not enough, so a third HSDir is asked.
    let first = rounds.asked.pop().unwrap();
    rounds.answer(&FetchAnswer::Useless);
    assert_eq!(rounds.asked.len(), 1);
    rounds.asked.push(first);
    let found = rounds.found(LIFETIME);
    rounds.answer(&found);
    rounds.wait(600..=600);
}

#[test]
fn pauses_grow_while_no_hsdir_has_the_descriptor_and_shrink_once_one_has() {
    let mut rounds = Rounds::new(1);
    for pause in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
        assert_eq!(rounds.finish(&FetchAnswer::HasNone), 6, "every HSDir that clients ask is asked");
        rounds.wait(pause..=pause);
    }
    let found = rounds.found(LIFETIME);
    rounds.finish(&found);
    rounds.wait(600..=600);
    rounds.finish(&FetchAnswer::Useless);
    rounds.wait(5..=5);
}

#[test]
fn rounds_are_five_times_as_frequent_before_a_descriptor_expires() {
    for (lifetime, pause) in [(3000, 120), (3001, 600)] {
        let mut rounds = Rounds::new(1);
        let found = rounds.found(seconds(lifetime));
        rounds.finish(&found);
        rounds.wait(pause..=pause);
    }
}

#[test]
fn a_round_begins_within_ten_seconds_after_clients_have_moved_to_another_period() {
    let mut rounds = Rounds::new(11);
    for _ in 0..3 {
        rounds.finish(&FetchAnswer::HasNone);
        rounds.now = rounds.schedule.poll_timeout().unwrap();
        rounds.handle(FetchInput::Tick);
    }
    let found = rounds.found(LIFETIME);
    rounds.finish(&found);
    rounds.now += seconds(60);
    rounds.hour = 12;
    rounds.handle(FetchInput::Network(network(RELAYS, 12)));
    assert!(rounds.asked.is_empty(), "the rounds of many backends are spread");
    let pause = rounds.schedule.poll_timeout().unwrap().saturating_sub(rounds.now);
    assert!(Duration::ZERO < pause && pause <= seconds(10), "{pause:?}");
    rounds.now += pause;
    rounds.handle(FetchInput::Tick);
    // Failures in the earlier period do not lengthen the pauses of the new one.
    rounds.finish(&FetchAnswer::HasNone);
    rounds.wait(5..=5);
}

#[test]
fn an_answer_from_an_earlier_period_does_not_end_the_round_of_the_new_one() {
    let mut rounds = Rounds::new(11);
    let earlier = std::mem::take(&mut rounds.asked);
    let found = rounds.found(LIFETIME);
    rounds.now += seconds(1);
    rounds.hour = 12;
    rounds.handle(FetchInput::Network(network(RELAYS, 12)));
    let asked = rounds.asked.clone();
    assert_eq!(asked.len(), 2);
    for hsdir in earlier.into_iter().filter(|hsdir| !asked.contains(hsdir)) {
        let address = rounds.address;
        rounds.handle(FetchInput::Fetched { address, hsdir, answer: found.clone() });
    }
    assert_eq!(rounds.asked, asked, "the new round still waits for its own answers");
    assert_eq!(rounds.finish(&FetchAnswer::HasNone), 6);
    rounds.wait(5..=5);
}

#[test]
fn the_last_hsdir_that_answers_can_save_the_round() {
    let mut rounds = Rounds::new(1);
    while rounds.asked.len() == 2 {
        let hsdir = rounds.asked.remove(0);
        let last = rounds.asked.remove(0);
        let address = rounds.address;
        rounds.handle(FetchInput::Fetched { address, hsdir, answer: FetchAnswer::HasNone });
        rounds.asked.push(last);
    }
    assert_eq!(rounds.asked.len(), 1, "all other HSDirs have answered");
    let found = rounds.found(LIFETIME);
    rounds.finish(&found);
    rounds.wait(600..=600);
}

#[test]
fn a_descriptor_of_an_earlier_period_does_not_hide_a_later_proof_of_life() {
    let mut rounds = Rounds::new(1);
    let hsdir = rounds.asked[0];
    let found = rounds.found(LIFETIME);
    rounds.finish(&found);
    let FetchAnswer::Has(mut earlier) = rounds.found(LIFETIME) else { unreachable!() };
    earlier.period.number -= 1;
    earlier.revision_counter = u64::MAX;
    rounds.now += HOUR;
    let address = rounds.address;
    for answer in [FetchAnswer::Has(earlier), rounds.found(LIFETIME)] {
        rounds.handle(FetchInput::Fetched { address, hsdir, answer });
    }
    // The second descriptor proves that the backend is alive, so the backend is trusted for the
    // whole lifetime.
    rounds.now += LIFETIME.saturating_sub(seconds(1));
    rounds.handle(FetchInput::Tick);
    assert_eq!(rounds.schedule.states().map(|(_, state)| state).collect::<Vec<_>>(), [ExternalState::Counts]);
    rounds.now += seconds(1);
    rounds.handle(FetchInput::Tick);
    assert_eq!(rounds.schedule.states().map(|(_, state)| state).collect::<Vec<_>>(), [ExternalState::Lost]);
}

#[test]
fn the_interval_follows_the_network() {
    assert_eq!(interval(None), seconds(600));
    assert_eq!(interval(Some(&network(RELAYS, 0))), seconds(600));
    assert_eq!(interval(Some(&testing_network(RELAYS))), seconds(10));
}
