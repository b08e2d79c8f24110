//! Tests of faults in one service, one by one and in combinations: every good part takes effect,
//! every bad part is named in a condition and either keeps its last good value or is left out, and
//! the service is ready again once the last fault is gone.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use self::world::{Fault, Good, World, change};
use super::support::{concluded, condition, from, healthy, with};
use crate::operator::origin;
use crate::operator::plan::Observed;

/// Checks that the owned objects are those of a service without faults, except for parts whose
/// values are unknown. The mark of the origin is unknown for an object that was created while no
/// key was usable.
fn assert_same(world: &World, expected: &BTreeMap<String, Value>) {
    for (name, manifest) in &world.server.manifests {
        let (mut found, mut expected) = (manifest.clone(), expected[name].clone());
        if world.has_any(&Fault::OF_KEY) && origin::mark_of(&from(manifest["metadata"].clone())).is_none() {
            for manifest in [&mut found, &mut expected] {
                manifest["metadata"]["annotations"] = Value::Null;
            }
        }
        assert_eq!(found, expected, "{name}: {:?} {:?}", world.faults, world.good);
    }
}

/// Checks a new service, which has no last good values: the ports that are good are served, and a
/// component whose settings are bad waits.
fn assert_started(world: &World) {
    let exists = |name: &str| world.server.manifests.contains_key(name);
    let is_blocked = world.has_any(&Fault::OF_KEY) || world.has(Fault::TakenName);
    let is_bad = world.has_any(&[
        Fault::BackendTorrc,
        Fault::BackendLabels,
        Fault::BackendReplicas,
        Fault::BackendToleration,
        Fault::UnreadableDrainTimeout,
        Fault::UnreadableCircuitLimits,
        Fault::UnreadableGuards,
    ]);
    let faults = &world.faults;
    let (configured, accepted) = (!is_blocked && !is_bad, !world.has(Fault::RefusedAffinity));
    assert_eq!(exists("ConfigMap web-backend"), configured, "{faults:?}");
    assert_eq!(exists("Deployment web-backend"), configured && accepted, "{faults:?}");
    let is_bad_frontend =
        world.has_any(&[Fault::FrontendTorrc, Fault::FrontendLabels, Fault::FrontendProbe, Fault::UnreadableGuards]);
    assert_eq!(exists("Deployment web-frontend"), !is_blocked && !is_bad_frontend, "{faults:?}");
    let Some(config) = world.server.manifests.get("ConfigMap web-backend") else { return };
    let config = config["data"]["agent.yaml"].as_str().unwrap();
    for (target, fault) in [
        ("web-0:80", None),
        ("chat.shop.svc:1", Some(Fault::MissingTarget)),
        ("a:1", Some(Fault::InvalidPort)),
        ("a:2", Some(Fault::ForbiddenTarget)),
        ("a:3", Some(Fault::HealthCheck)),
        ("a:4", Some(Fault::UnreadablePort)),
    ] {
        let is_served = !fault.is_some_and(|fault| world.has(fault));
        assert_eq!(config.contains(target), is_served, "{target}: {faults:?}");
    }
}

/// Ends one fault after the other, and checks that the service is ready in the end.
fn recover(world: &mut World) {
    while world.faults.pop_first().is_some() {
        world.reconcile();
        world.check_names();
    }
    world.check_health();
}

#[test]
fn a_long_list_of_bad_parts_ends_with_the_number_of_the_others() {
    let with_ports = |target: &Value| {
        let ports: Vec<_> = (1..=200).map(|port| json!({"port": port, "target": target})).collect();
        let object = with(&healthy().object, "spec/ports", json!(ports));
        concluded(&Observed { object, ..healthy() }).1
    };
    let invalid = condition(&with_ports(&json!({"address": "no port"})), "Accepted");
    let named = invalid.matches("spec.ports[").count();
    let rest = format!("; … and {} more. Until this is corrected, these parts keep", 200 - named);
    assert!(named > 10 && invalid.contains(&rest) && invalid.ends_with("not affected."), "{named}: {invalid}");

    let missing = condition(&with_ports(&json!({"service": {"name": "no", "port": 1}})), "BackendsReady");
    let named = missing.matches("spec.ports[").count();
    assert!(named > 10 && missing.contains(&format!("… and {} more", 200 - named)), "{named}: {missing}");
}

#[test]
fn each_bad_part_of_a_running_service_harms_nothing_else() {
    let changed = Good { replicas: 4, frontends: 2, suspend: false, points: 5, target: 1, image: 1 };
    for suspend in [false, true] {
        for fault in Fault::ALL {
            let mut world = World::new(BTreeSet::new(), Good::FIRST);
            world.reconcile();
            world.faults.insert(fault);
            world.good = Good { suspend, ..changed };
            world.reconcile();
            let replicas = if fault == Fault::BackendReplicas { Good::FIRST.replicas } else { changed.replicas };
            assert_same(&world, &World::without_faults(Good { replicas, ..world.good }));
            world.check_names();
            recover(&mut world);
        }
    }
}

#[test]
fn each_bad_part_of_a_new_service_harms_nothing_else() {
    for fault in Fault::ALL {
        let mut world = World::new(BTreeSet::from([fault]), Good::FIRST);
        world.reconcile();
        world.check_names();
        assert_started(&world);
        recover(&mut world);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn bad_parts_of_a_running_service_harm_nothing_else(changes in vec(change(), 1..12)) {
        let mut world = World::new(BTreeSet::new(), Good::FIRST);
        world.reconcile();
        world.check_health();
        let mut replicas = Good::FIRST.replicas;
        let (mut known, mut expected) = (Good::FIRST, World::without_faults(Good::FIRST));
        for change in changes {
            world.apply(change);
            world.reconcile();
            if !world.has(Fault::BackendReplicas) {
                replicas = world.good.replicas;
            }
            // While the number of backends is invalid, a new number is unknown.
            let good = Good { replicas, ..world.good };
            if known != good {
                (known, expected) = (good, World::without_faults(good));
            }
            assert_same(&world, &expected);
            world.check_names();
            if world.good.suspend {
                for kind in ["BackendsReady", "Published"] {
                    prop_assert!(condition(&world.status, kind).starts_with("False Suspended: "));
                }
            }
        }
        recover(&mut world);
    }

    #[test]
    fn bad_parts_of_a_new_service_harm_nothing_else(faults in btree_set(select(Fault::ALL.to_vec()), 0..5)) {
        let mut world = World::new(faults, Good::FIRST);
        world.reconcile();
        world.check_names();
        assert_started(&world);
        recover(&mut world);
    }
}
