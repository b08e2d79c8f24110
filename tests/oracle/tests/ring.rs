//! Compares our HSDir ring, time periods and shared random values with those of `tor-netdir`, given
//! the same network documents.

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
/// The Unix time of 2026-11-01 00:00 UTC.
const MIDNIGHT: u64 = 1_793_491_200;

/// Parses a network with arti. Signatures are not checked, because those in a generated consensus
/// are not valid.
fn their_network(texts: &TestNetwork) -> NetDir {
    let (_, _, consensus) = MdConsensus::parse(&texts.consensus).unwrap();
    let consensus = consensus.dangerously_assume_timely().dangerously_assume_wellsigned();
    // arti does not build a ring if there are too few microdescriptors for building circuits. 25%
    // is the lowest threshold that it accepts.
    let params: NetParams<i32> = "min_paths_for_circs_pct=25".parse().unwrap();
    let mut network = PartialNetDir::new(consensus, Some(&params));
    for text in &texts.microdescriptors {
        assert!(
            network.add_microdesc(MicrodescAndHash::parse(text).unwrap()),
            "the consensus does not list this microdescriptor"
        );
    }
    network.unwrap_if_sufficient().expect("arti considers the network insufficient")
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

/// The cases that a comparison has covered.
#[derive(Default, Debug)]
struct Coverage {
    /// The number of periods for which both implementations have a ring.
    periods: usize,
    /// The number of descriptors that are stored on fewer HSDirs than [`TestPlan::places`], because
    /// the ring has too few relays. The replicas of such a descriptor skip each other's relays.
    short: usize,
}

/// The parameters of a generated network, including those that determine how many HSDirs store a
/// descriptor.
#[derive(Debug, Clone)]
struct TestPlan {
    relays: usize,
    seed: u64,
    /// The time of the consensus, in hours after midnight.
    hour: u64,
    round_seconds: u64,
    shared_random_previous: bool,
    shared_random_current: bool,
    one_microdescriptor_missing_in: usize,
    /// The parameters `hsdir_n_replicas`, `hsdir_spread_fetch` and `hsdir_spread_store`, or `None`
    /// for their defaults.
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
            // The time is `hour` voting rounds after the start of a run of the shared random
            // protocol. On the public network, a run starts at midnight and a round takes an hour.
            valid_after: MIDNIGHT / (24 * self.round_seconds) * 24 * self.round_seconds
                + self.hour * self.round_seconds,
            round_seconds: self.round_seconds,
            shared_random_previous: self.shared_random_previous,
            shared_random_current: self.shared_random_current,
            params,
            one_microdescriptor_missing_in: self.one_microdescriptor_missing_in,
        }
    }

    /// Returns the number of HSDirs that store a descriptor in a network that is large enough. Both
    /// implementations clamp the parameters.
    fn places(&self) -> usize {
        let [replicas, _, store] = self.spread.unwrap_or([2, 3, 4]);
        usize::try_from(replicas.clamp(1, 16) * store.clamp(1, 128)).unwrap()
    }
}

/// Compares the time periods and the HSDirs for a range of services.
fn compare(plan: &TestPlan, services: std::ops::Range<u64>) -> Coverage {
    let texts = plan.plan().generate();
    let (ours, theirs) = (our_network(&texts), their_network(&texts));
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut coverage = Coverage::default();

    let client = ours.client_period();
    assert_eq!(theirs.hs_time_period(), offset(&client, plan), "clients use different periods");
    for period in ours.service_periods() {
        let Some(params) =
            theirs.hs_all_time_periods().into_iter().find(|params| params.time_period() == offset(&period, plan))
        else {
            // arti replaces a missing shared random value only in the period that clients use.
            assert_ne!(period.period, client.period);
            assert!(!plan.shared_random_previous || !plan.shared_random_current);
            continue;
        };
        coverage.periods += 1;
        let has_shared_random =
            if period == ours.service_periods()[0] { plan.shared_random_previous } else { plan.shared_random_current };
        if has_shared_random {
            assert_eq!(
                params.start_of_shard_rand_period(),
                period.srv_start,
                "revision counters start at different times"
            );
        }
        for service in services.clone() {
            let blinded = master_key(service).blind(period.period).public();
            let id = HsBlindId::from(blinded.0);
            let placements = ours.responsible_hsdirs(&blinded, &period);
            let stores = their_relays(theirs.hs_dirs_upload(id, params.time_period()).unwrap());
            assert_eq!(our_relays(&placements), stores, "stores of {plan:?}, {period:?}");
            coverage.short += usize::from(placements.len() < plan.places());
            if period == client {
                let mut fetched = our_relays(&ours.fetch_hsdirs(&blinded, &period));
                // arti returns the HSDirs in random order.
                let mut asked = their_relays(theirs.hs_dirs_download(id, params.time_period(), &mut rng).unwrap());
                fetched.sort_unstable();
                asked.sort_unstable();
                assert_eq!(fetched, asked, "fetches of {plan:?}, {period:?}");
            }
        }
    }
    coverage
}

/// Converts a period to arti's type. Periods start twelve voting rounds after the epoch.
fn offset(period: &ServicePeriod, plan: &TestPlan) -> tor_hscrypto::time::TimePeriod {
    let length = u32::try_from(period.period.length_minutes).unwrap();
    let offset = u32::try_from(12 * plan.round_seconds).unwrap();
    tor_hscrypto::time::TimePeriod::from_parts(length, period.period.number, offset)
}

#[test]
fn agrees_at_every_hour_of_the_day() {
    for hour in 0..24 {
        let coverage = compare(&TestPlan { hour, seed: hour, ..TestPlan::default() }, 0..20);
        assert_eq!(coverage.periods, 2, "hour {hour}");
    }
}

#[test]
fn agrees_in_networks_of_ten_to_nine_thousand_relays() {
    for relays in [10, 11, 12, 14, 17, 20, 30, 100, 300, 1000, 3000, 9000] {
        for hour in [5, 17] {
            let coverage = compare(&TestPlan { relays, hour, ..TestPlan::default() }, 0..50);
            assert_eq!(coverage.periods, 2, "{relays} relays");
            // Even in the smallest network, eight of the ten relays are HSDirs. A descriptor is
            // stored on eight HSDirs.
            assert_eq!(coverage.short, 0, "{relays} relays");
        }
    }
}

#[test]
fn agrees_in_networks_with_fewer_hsdirs_than_places() {
    for relays in 10..20 {
        let plan =
            TestPlan { relays, spread: Some([3, 3, 7]), one_microdescriptor_missing_in: 7, ..TestPlan::default() };
        let coverage = compare(&plan, 0..50);
        assert_eq!(coverage.short, 100, "{relays} relays");
    }
}

/// If a shared random value is missing, a publicly computable value replaces it. In that case, arti
/// derives revision counters from the time since the start of the period, whereas C tor and our
/// code use the time since the start of the run of the shared random protocol. This difference does
/// not affect clients.
#[test]
fn agrees_without_shared_random_values() {
    for hour in 0..24 {
        for (previous, current, periods) in [(false, false, 1..=1), (true, false, 1..=2), (false, true, 1..=2)] {
            let plan = TestPlan {
                hour,
                shared_random_previous: previous,
                shared_random_current: current,
                ..TestPlan::default()
            };
            let coverage = compare(&plan, 0..5);
            assert!(periods.contains(&coverage.periods), "hour {hour}: {coverage:?}");
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn agrees_with_any_parameters(
        relays in 10..120_usize, seed: u64, hour in 0..24_u64, shared_random: [bool; 2], missing in prop_oneof![Just(0), 5..40_usize],
        // Include values that a consensus must not contain.
        spread in prop::option::of((-1..20_i32, -1..140_i32, -1..140_i32).prop_map(<[i32; 3]>::from)),
        round_seconds in prop_oneof![Just(HOUR), Just(1800), Just(300), Just(5400), Just(36_000)],
    ) {
        let plan = TestPlan {
            relays, seed, hour, round_seconds, spread,
            shared_random_previous: shared_random[0],
            shared_random_current: shared_random[1],
            one_microdescriptor_missing_in: missing,
        };
        let coverage = compare(&plan, seed % 100..seed % 100 + 3);
        prop_assert!(coverage.periods >= 1);
    }

    /// A consensus could specify time periods that differ in length from a run of the shared random
    /// protocol, although none ever has. Even then, both implementations agree on the period that
    /// clients use. They do not agree on the period's shared random value, for which our code
    /// follows C tor.
    #[test]
    fn agrees_on_the_client_period_of_any_length(hour in 0..1000_u64, minutes in 30..14_400_u64, round_minutes in 1..120_u64) {
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
