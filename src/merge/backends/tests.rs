use super::*;
use crate::merge::tests::network::{content, id, point};

fn with(points: impl IntoIterator<Item = IntroductionPoint>) -> Arc<ServiceContent> {
    Arc::new(content(points))
}

fn changed(edit: impl FnOnce(&mut ServiceContent)) -> Arc<ServiceContent> {
    let mut content = content([point(1, 1)]);
    edit(&mut content);
    Arc::new(content)
}

#[test]
fn a_change_counts_by_what_clients_lose() {
    let mut backends = Backends::default();
    let mut set = |content| backends.set(id("a"), &content);
    assert_eq!(set(with([point(1, 1), point(2, 2)])), BackendChange::More);
    assert_eq!(set(with([point(1, 1), point(2, 2)])), BackendChange::Nothing);
    assert_eq!(set(with([point(1, 1), point(2, 2), point(3, 3)])), BackendChange::More);
    assert_eq!(set(with([point(1, 1), point(2, 2), point(4, 4)])), BackendChange::PointsGone);
    let mut other_fields = content([point(1, 1), point(2, 2), point(4, 4)]);
    other_fields.single_onion_service = true;
    assert_eq!(set(Arc::new(other_fields)), BackendChange::More);
    assert_eq!(set(with([point(1, 1)])), BackendChange::PointsGone);
    assert_eq!(set(with([point(1, 1), point(5, 5), point(6, 6)])), BackendChange::PointsBack(2));
    let all = [point(1, 1), point(5, 5), point(6, 6), point(7, 7)];
    assert_eq!(set(with(all.clone())), BackendChange::More, "the fourth point does not count");
    assert_eq!(set(with([])), BackendChange::BackendGone);
    assert_eq!(set(with(all)), BackendChange::More, "nothing is left of the backend");
    assert_eq!(set(with([])), BackendChange::BackendGone);
    assert_eq!(set(with([])), BackendChange::Nothing);
    assert!(backends.is_empty());
    assert_eq!(backends.remove(&id("a")), BackendChange::Nothing);
}

#[test]
fn a_backend_is_usable_while_it_has_a_point() {
    let mut backends = Backends::default();
    backends.set(id("a"), &with([point(1, 1)]));
    backends.set(id("b"), &with([]));
    assert!(backends.contains(&id("a")) && !backends.contains(&id("b")));
    assert_eq!(backends.ids().collect::<Vec<_>>(), [&id("a")]);
    backends.remove(&id("a"));
    assert!(!backends.contains(&id("a")));
}

#[test]
fn a_field_that_all_backends_share_stays() {
    let same = || changed(|content| content.intro_auth_required = vec!["password".into()]);
    let mut backends = Backends::default();
    backends.set(id("a"), &same());
    backends.set(id("b"), &same());
    assert_eq!(backends.agreed().unwrap().intro_auth_required, same().intro_auth_required);
    backends.set(id("c"), &changed(|content| content.intro_auth_required = vec!["other".into()]));
    assert_eq!(backends.agreed().unwrap().intro_auth_required, Vec::<String>::new());
}

#[test]
fn long_fields_make_a_backend_unusable() {
    let kinds = |lengths: &[usize]| {
        changed(|content| content.intro_auth_required = lengths.iter().map(|length| "x".repeat(*length)).collect())
    };
    let formats = |count: u16| changed(|content| content.create2_formats = (NTOR..NTOR + count).collect());
    // Each kind takes one byte more than its length, for the space before it.
    for (content, usable) in [
        (kinds(&[63, 63]), true),
        (kinds(&[63, 64]), false),
        (kinds(&[127]), true),
        (kinds(&[128]), false),
        (formats(8), true),
        (formats(9), false),
    ] {
        let mut backends = Backends::default();
        backends.set(id("a"), &content);
        assert_eq!(backends.contains(&id("a")), usable, "{content:?}");
        assert_eq!(remarks(&content, 20).is_empty(), usable, "{content:?}");
    }
}

#[test]
fn a_point_with_long_link_specifiers_is_unusable() {
    let long = |length| {
        let mut point = point(1, 1);
        point.link_specifiers.resize(length, 0);
        point
    };
    assert_eq!([96, 97].map(|length| is_usable(&long(length))), [true, false]);
}

#[test]
fn a_remark_names_the_part_that_is_left_out() {
    for (remark, part) in [
        (Remark::ProofOfWork, "HiddenServicePoWDefensesEnabled"),
        (Remark::UnusablePoints(2), "2 of its introduction points"),
        (Remark::SurplusPoints { offered: 5, limit: 3 }, "it offers 5 introduction points, but only 3 of them"),
        (Remark::Unusual, "ntor"),
    ] {
        assert!(remark.to_string().contains(part), "{remark}");
    }
}

/// Returns the number of points that each usable backend contributes.
fn contributed(backends: &Backends) -> Vec<usize> {
    backends.usable().map(|(_, points)| points.count()).collect()
}

#[test]
fn a_backend_contributes_at_most_its_limit() {
    let many = with((1..=20).map(|number| point(number, number)));
    let mut backends = Backends::default();
    backends.set(id("a"), &many);
    backends.set(id("b"), &with([point(30, 30)]));
    assert_eq!(contributed(&backends), [3, 1], "the default is three points");
    let limits = |usual, own| PointLimits { usual, individual: [(id("a"), own)].into() };
    for (usual, own, expected) in [(5, 1, [1, 1]), (1, 7, [7, 1]), (5, 0, [1, 1]), (5, 99, [20, 1])] {
        assert_eq!(backends.set_limits(limits(usual, own)), BackendChange::More);
        assert_eq!(contributed(&backends), expected, "{usual} {own}");
        assert_eq!(backends.set_limits(limits(usual, own)), BackendChange::Nothing);
    }
    // A point that is not published is no loss for clients.
    backends.set_limits(limits(3, 2));
    let fewer = with((1..=10).map(|number| point(number, number)));
    assert_eq!(backends.set(id("a"), &fewer), BackendChange::More);
    assert_eq!(remarks(&many, 2), [Remark::SurplusPoints { offered: 20, limit: 2 }]);
    assert_eq!(remarks(&many, 20), []);
}

#[test]
fn a_backend_with_another_congestion_control_than_the_majority_is_outvoted() {
    let (old, none) = ("1 31", "");
    for (flow_controls, outvoted, agreed) in [
        // A single backend harms no other.
        (["1-2 31", "1-2 31", none].as_slice(), [2].as_slice(), "1-2 31"),
        (&["1-2 31", "1-2 31", old], &[2], "1-2 31"),
        (&["1-2 32", "1-2 31", "1-2 31"], &[0], "1-2 31"),
        // Different versions of tor agree as long as all have congestion control.
        (&["1-2 31", "2 31", "1-3 31"], &[], "2 31"),
        // Without a majority, nobody is excluded.
        (&["1-2 31", none], &[], none),
        (&["1-2 31", "1-2 31", none, "1-2 32"], &[], none),
        // A backend with congestion control can also serve without it.
        (&[none, old, "1-2 31"], &[], none),
        (&[none], &[], none),
    ] {
        let mut backends = Backends::default();
        for (number, flow_control) in flow_controls.iter().enumerate() {
            let content = changed(|content| content.flow_control = flow_control.parse().ok());
            backends.set(id(&number.to_string()), &content);
        }
        let expected: Vec<_> = outvoted.iter().map(|number: &usize| id(&number.to_string())).collect();
        assert_eq!(backends.outvoted().into_keys().collect::<Vec<_>>(), expected, "{flow_controls:?}");
        assert_eq!(backends.agreed().unwrap().flow_control, agreed.parse().ok(), "{flow_controls:?}");
        assert_eq!(backends.usable().count(), flow_controls.len() - outvoted.len(), "{flow_controls:?}");
        assert!(backends.ids().count() == flow_controls.len() && !backends.is_empty(), "{flow_controls:?}");
    }
}

#[test]
fn the_reason_for_an_exclusion_names_both_sides() {
    let text = |own: &str| Outvoted { own: own.parse().ok(), increment: 31 }.to_string();
    assert!(text("1-2 32").contains("has flow-control 1-2 32, whereas most backends"), "{}", text("1-2 32"));
    assert!(text("").contains("has no flow-control, whereas most backends"), "{}", text(""));
}
