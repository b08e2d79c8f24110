//! The HSDir ring, time periods and shared random values, against `tor-netdir`, from the very same texts.

use onionbalance_operator::consensus::{Network, NetworkKind, Placement, ServicePeriod};
use onionbalance_oracle::config;
use onionbalance_oracle::sample::master_key;
use onionbalance_testnet::{Plan, TestNetwork};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tor_checkable::{ExternallySigned as _, TimeBound as _};
use tor_hscrypto::pk::HsBlindId;
use tor_linkspec::HasRelayIds as _;
use tor_netdir::{MdReceiver as _, NetDir, PartialNetDir, Relay};
use tor_netdoc::doc::microdesc::MicrodescAndHash;
use tor_netdoc::doc::netstatus::{MdConsensus, NetParams};

const HOUR: u64 = 3600;
/// 2026-11-01 00:00 UTC.
const MIDNIGHT: u64 = 1_793_491_200;

/// The network as arti knows it; no signature of the generated consensus would verify.
fn their_network(texts: &TestNetwork) -> NetDir {
    let (_, _, consensus) = MdConsensus::parse(&texts.consensus).unwrap();
    let consensus = consensus.dangerously_assume_timely().dangerously_assume_wellsigned();
    // With too few microdescriptors to build circuits arti makes no ring; a quarter is the least that it can be told to need.
    let params: NetParams<i32> = "min_paths_for_circs_pct=25".parse().unwrap();
    let mut network = PartialNetDir::new(consensus, Some(&params));
    for text in &texts.microdescriptors {
        assert!(network.add_microdesc(MicrodescAndHash::parse(text).unwrap()), "the consensus lists it");
    }
    network.unwrap_if_sufficient().expect("a network to build circuits in")
}

fn our_network(texts: &TestNetwork) -> Network {
    Network::parse(&texts.consensus, &texts.all_microdescriptors(), NetworkKind::Public).unwrap()
}

fn our_relays(placements: &[Placement]) -> Vec<[u8; 20]> {
    placements.iter().map(|placement| placement.relay.0).collect()
}

fn their_relays<'a>(relays: impl IntoIterator<Item = Relay<'a>>) -> Vec<[u8; 20]> {
    relays.into_iter().map(|relay| relay.rsa_identity().unwrap().as_bytes().try_into().unwrap()).collect()
}

/// What a comparison has seen.
#[derive(Default, Debug)]
struct Seen {
    /// Periods for which both have a ring.
    periods: usize,
    /// Descriptors for which the ring has not as many relays as places: those of one replica pass over those of another.
    short: usize,
}

/// A generated network, and the parameters that say how many places a descriptor has.
#[derive(Debug, Clone)]
struct TestPlan {
    relays: usize,
    seed: u64,
    /// Hours after midnight.
    hour: u64,
    round_seconds: u64,
    shared_random_previous: bool,
    shared_random_current: bool,
    one_microdescriptor_missing_in: usize,
    /// `hsdir_n_replicas`, `hsdir_spread_fetch`, `hsdir_spread_store`
    spread: Option<[i32; 3]>,
}

impl Default for TestPlan {
    fn default() -> Self {
        Self {
            relays: 100,
            seed: 1,
            hour: 3,
            round_seconds: HOUR,
            shared_random_previous: true,
            shared_random_current: true,
            one_microdescriptor_missing_in: 0,
            spread: None,
        }
    }
}

impl TestPlan {
    fn plan(&self) -> Plan {
        let mut params = Vec::new();
        if let Some([replicas, fetch, store]) = self.spread {
            params.push(format!("hsdir_n_replicas={replicas}"));
            params.push(format!("hsdir_spread_fetch={fetch}"));
            params.push(format!("hsdir_spread_store={store}"));
        }
        if self.round_seconds != HOUR {
            params.push(format!("hsdir_interval={}", 24 * self.round_seconds / 60));
        }
        Plan {
            relays: self.relays,
            seed: self.seed,
            // As many rounds after the start of a run as hours after midnight on the public network.
            valid_after: MIDNIGHT / (24 * self.round_seconds) * 24 * self.round_seconds
                + self.hour * self.round_seconds,
            round_seconds: self.round_seconds,
            shared_random_previous: self.shared_random_previous,
            shared_random_current: self.shared_random_current,
            params,
            one_microdescriptor_missing_in: self.one_microdescriptor_missing_in,
        }
    }

    /// How many HSDirs hold a descriptor in a network that is large enough; both clamp the parameters.
    fn places(&self) -> usize {
        let [replicas, _, store] = self.spread.unwrap_or([2, 3, 4]);
        usize::try_from(replicas.clamp(1, 16) * store.clamp(1, 128)).unwrap()
    }
}

/// Compares everything for some services.
fn compare(plan: &TestPlan, services: std::ops::Range<u64>) -> Seen {
    let texts = plan.plan().generate();
    let (ours, theirs) = (our_network(&texts), their_network(&texts));
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut seen = Seen::default();

    let client = ours.client_period();
    assert_eq!(theirs.hs_time_period(), offset(&client, plan), "the period that clients use");
    for period in ours.service_periods() {
        let Some(params) =
            theirs.hs_all_time_periods().into_iter().find(|params| params.time_period() == offset(&period, plan))
        else {
            // arti has a stand-in for a missing value only in the period that clients use.
            assert_ne!(period.period, client.period);
            assert!(!plan.shared_random_previous || !plan.shared_random_current);
            continue;
        };
        seen.periods += 1;
        let shared_random_there =
            if period == ours.service_periods()[0] { plan.shared_random_previous } else { plan.shared_random_current };
        if shared_random_there {
            assert_eq!(params.start_of_shard_rand_period(), period.srv_start, "from when revision counters count");
        }
        for service in services.clone() {
            let blinded = master_key(service).blind(period.period).public();
            let id = HsBlindId::from(blinded.0);
            let placements = ours.responsible_hsdirs(&blinded, &period);
            let stores = their_relays(theirs.hs_dirs_upload(id, params.time_period()).unwrap());
            assert_eq!(our_relays(&placements), stores, "stores of {plan:?}, {period:?}");
            seen.short += usize::from(placements.len() < plan.places());
            if period == client {
                let mut fetched = our_relays(&ours.fetch_hsdirs(&blinded, &period));
                // arti shuffles them.
                let mut asked = their_relays(theirs.hs_dirs_download(id, params.time_period(), &mut rng).unwrap());
                fetched.sort_unstable();
                asked.sort_unstable();
                assert_eq!(fetched, asked, "fetches of {plan:?}, {period:?}");
            }
        }
    }
    seen
}

/// arti counts periods from twelve voting rounds after the epoch.
fn offset(period: &ServicePeriod, plan: &TestPlan) -> tor_hscrypto::time::TimePeriod {
    let length = u32::try_from(period.period.length_minutes).unwrap();
    let offset = u32::try_from(12 * plan.round_seconds).unwrap();
    tor_hscrypto::time::TimePeriod::from_parts(length, period.period.number, offset)
}

#[test]
fn at_every_hour_of_the_day() {
    for hour in 0..24 {
        let seen = compare(&TestPlan { hour, seed: hour, ..TestPlan::default() }, 0..20);
        assert_eq!(seen.periods, 2, "hour {hour}");
    }
}

#[test]
fn in_networks_of_ten_to_nine_thousand_relays() {
    for relays in [10, 11, 12, 14, 17, 20, 30, 100, 300, 1000, 3000, 9000] {
        for hour in [5, 17] {
            let seen = compare(&TestPlan { relays, hour, ..TestPlan::default() }, 0..50);
            assert_eq!(seen.periods, 2, "{relays} relays");
            // Ten relays make eight HSDirs, for eight places.
            assert_eq!(seen.short, 0, "{relays} relays");
        }
    }
}

#[test]
fn in_networks_with_fewer_hsdirs_than_places() {
    for relays in 10..20 {
        let plan =
            TestPlan { relays, spread: Some([3, 3, 7]), one_microdescriptor_missing_in: 7, ..TestPlan::default() };
        let seen = compare(&plan, 0..50);
        assert_eq!(seen.short, 100, "{relays} relays");
    }
}

/// Without a value a stand-in that anybody can compute takes its place. arti counts the revision counter's time from the
/// period's start then, C tor and we from the start of the protocol's run: it does not matter to who only reads.
#[test]
fn without_shared_random_values() {
    for hour in 0..24 {
        for (previous, current, periods) in [(false, false, 1..=1), (true, false, 1..=2), (false, true, 1..=2)] {
            let plan = TestPlan {
                hour,
                shared_random_previous: previous,
                shared_random_current: current,
                ..TestPlan::default()
            };
            let seen = compare(&plan, 0..5);
            assert!(periods.contains(&seen.periods), "hour {hour}: {seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn with_any_parameters(
        relays in 10..120_usize, seed: u64, hour in 0..24_u64, shared_random: [bool; 2], missing in prop_oneof![Just(0), 5..40_usize],
        // Beyond what a consensus may say, too.
        spread in prop::option::of((-1..20_i32, -1..140_i32, -1..140_i32).prop_map(<[i32; 3]>::from)),
        round_seconds in prop_oneof![Just(HOUR), Just(1800), Just(300), Just(5400), Just(36_000)],
    ) {
        let plan = TestPlan {
            relays, seed, hour, round_seconds, spread,
            shared_random_previous: shared_random[0],
            shared_random_current: shared_random[1],
            one_microdescriptor_missing_in: missing,
        };
        let seen = compare(&plan, seed % 100..seed % 100 + 3);
        prop_assert!(seen.periods >= 1);
    }

    /// A consensus could set periods that are not as long as a run of the shared random protocol (it never did). The period
    /// that clients use is the same then; which value goes with it C tor, and we with it, tell in another way than arti.
    #[test]
    fn periods_of_any_length(hour in 0..1000_u64, minutes in 30..14_400_u64, round_minutes in 1..120_u64) {
        let plan = Plan {
            relays: 10,
            valid_after: MIDNIGHT + hour * HOUR,
            round_seconds: round_minutes * 60,
            params: vec![format!("hsdir_interval={minutes}")],
            ..Plan::default()
        };
        let texts = plan.generate();
        let ours = our_network(&texts).client_period().period;
        let theirs = their_network(&texts).hs_time_period();
        prop_assert_eq!(ours.number, theirs.interval_num());
        prop_assert_eq!(ours.length_minutes, u64::from(theirs.length().as_minutes()));
    }
}
