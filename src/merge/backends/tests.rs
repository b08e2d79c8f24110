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
        assert_eq!(remarks(&content).is_empty(), usable, "{content:?}");
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
    let shown = [Remark::ProofOfWork, Remark::UnusablePoints(2), Remark::Unusual].map(|remark| remark.to_string());
    for (text, part) in shown.iter().zip(["HiddenServicePoWDefensesEnabled", "2 of its introduction points", "ntor"]) {
        assert!(text.contains(part), "{text}");
    }
}
