use jiff::Timestamp;

use super::*;
use crate::operator::conditions::{Finding, merge};

fn conditions(found: &[(ConditionType, Finding)]) -> Vec<Condition> {
    merge(&[], found, Some(1), Timestamp::UNIX_EPOCH)
}

/// The types of the conditions that an unreadable object has.
const ALL: [ConditionType; 5] = [
    ConditionType::Accepted,
    ConditionType::MasterKeyReady,
    ConditionType::BackendsReady,
    ConditionType::Published,
    ConditionType::Ready,
];

/// Returns the Events as text: `W Reason: note` for a Warning, `N Reason: note` for a Normal one.
fn reported(before: &[(ConditionType, Finding)], after: &[(ConditionType, Finding)]) -> Vec<String> {
    let line = |notice: Notice| {
        let kind = if notice.kind == EventType::Warning { 'W' } else { 'N' };
        format!("{kind} {}: {}", notice.reason, notice.note)
    };
    notices(&conditions(before), &conditions(after), None).into_iter().map(line).collect()
}

fn no(kind: ConditionType, reason: Reason) -> [(ConditionType, Finding); 1] {
    [(kind, Finding::no(reason, "why"))]
}

fn yes(kind: ConditionType, reason: Reason) -> [(ConditionType, Finding); 1] {
    [(kind, Finding::yes(reason, "so"))]
}

#[test]
fn an_unchanged_condition_causes_no_event() {
    for kind in ALL {
        for reason in
            [Reason::InvalidSpec, Reason::SecretNotFound, Reason::Suspended, Reason::Forbidden, Reason::Published]
        {
            assert_eq!(reported(&no(kind, reason), &no(kind, reason)), [""; 0]);
            assert_eq!(reported(&yes(kind, reason), &yes(kind, reason)), [""; 0]);
        }
    }
}

#[test]
fn each_change_of_the_reachability_causes_an_event() {
    let kind = ConditionType::Reachable;
    let unknown = [(kind, Finding::unknown(Reason::NotProbed, "why"))];
    let answered = yes(kind, Reason::Answered);
    assert_eq!(reported(&[], &unknown), [""; 0], "a new service");
    assert_eq!(reported(&unknown, &answered), ["N Answered: so"]);
    for reason in [Reason::DescriptorFailed, Reason::IntroductionFailed, Reason::RendezvousFailed, Reason::TargetFailed]
    {
        let failed = no(kind, reason);
        assert_eq!(reported(&answered, &failed), [format!("W {reason}: why")]);
        assert_eq!(reported(&failed, &answered), ["N Answered: so"]);
        assert_eq!(reported(&failed, &unknown), ["W NotProbed: why"]);
    }
    let (introduction, target) = (no(kind, Reason::IntroductionFailed), no(kind, Reason::TargetFailed));
    assert_eq!(reported(&introduction, &target), ["W TargetFailed: why"], "another reason");
}

#[test]
fn an_exposed_location_causes_one_warning() {
    let exposed = yes(ConditionType::LocationExposed, Reason::LocationNotHidden);
    assert_eq!(reported(&[], &exposed), ["W LocationNotHidden: so"]);
    assert_eq!(reported(&exposed, &exposed), [""; 0]);
}

#[test]
fn signing_kits_that_end_cause_a_warning_before_and_when_a_period_is_missing() {
    let kind = ConditionType::SigningKeysReady;
    let (enough, expiring) = (yes(kind, Reason::KitsLoaded), yes(kind, Reason::SigningKeysExpiring));
    let missing = no(kind, Reason::SigningKeysMissing);
    assert_eq!(reported(&[], &expiring), ["W SigningKeysExpiring: so"], "a new service");
    assert_eq!(reported(&enough, &expiring), ["W SigningKeysExpiring: so"]);
    // The number of days in the message changes every day.
    let tomorrow = [(kind, Finding::yes(Reason::SigningKeysExpiring, "fewer days"))];
    assert_eq!(reported(&expiring, &tomorrow), [""; 0]);
    assert_eq!(reported(&expiring, &missing), ["W SigningKeysMissing: why"]);
    for (earlier, later) in [(&missing, &enough), (&expiring, &enough)] {
        assert_eq!(reported(earlier, later), ["N KitsLoaded: so"]);
    }
    assert_eq!(reported(&missing, &expiring), ["W SigningKeysExpiring: so"]);
}

#[test]
fn every_problem_with_the_key_is_a_warning() {
    for reason in
        [Reason::SecretNotFound, Reason::KeyInvalid, Reason::KeyConflict, Reason::AddressMismatch, Reason::ApplyFailed]
    {
        let before = yes(ConditionType::MasterKeyReady, Reason::KeyLoaded);
        let alarm = no(ConditionType::MasterKeyReady, reason);
        assert_eq!(reported(&before, &alarm), [format!("W {reason}: why")]);
        assert_eq!(reported(&[], &alarm), [format!("W {reason}: why")], "for a new object");
        assert_eq!(reported(&alarm, &before), ["N KeyLoaded: so"]);
    }
}

#[test]
fn a_new_message_causes_an_event_for_the_spec_but_not_for_pods() {
    let refused = |words: &str| [(ConditionType::Accepted, Finding::no(Reason::InvalidSpec, words))];
    assert_eq!(reported(&refused("a"), &refused("b")), ["W InvalidSpec: b"]);
    let pods = |words: &str| [(ConditionType::BackendsReady, Finding::no(Reason::ImagePullFailed, words))];
    assert_eq!(reported(&pods("1 of 3"), &pods("2 of 3")), [""; 0]);
}

#[test]
fn a_new_service_reports_only_its_key_until_it_is_published() {
    let begins = [
        (ConditionType::Accepted, Finding::yes(Reason::Valid, "The spec is valid.")),
        (ConditionType::MasterKeyReady, Finding::yes(Reason::KeyLoaded, "Using the key of a.onion.")),
        (ConditionType::BackendsReady, Finding::no(Reason::Progressing, "0 of 2")),
        (ConditionType::Published, Finding::no(Reason::NotPublished, "not yet")),
        (ConditionType::Ready, Finding::no(Reason::Progressing, "0 of 2")),
    ];
    let notices = notices(&[], &conditions(&begins), Some("web-master-key"));
    let [generated] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((generated.kind, generated.reason.as_str()), (EventType::Normal, "KeyGenerated"));
    assert_eq!(
        generated.note,
        "Generated a new master key in Secret web-master-key; make a backup. Using the key of a.onion."
    );
    // No HSDir has accepted the first descriptor yet.
    assert_eq!(reported(&begins, &no(ConditionType::Published, Reason::NotOnHSDirs)), [""; 0]);
    let published = yes(ConditionType::Published, Reason::Published);
    assert_eq!(reported(&no(ConditionType::Published, Reason::NotOnHSDirs), &published), ["N Published: so"]);
    assert_eq!(reported(&published, &no(ConditionType::Published, Reason::NotOnHSDirs)), ["W NotOnHSDirs: why"]);
}

#[test]
fn a_single_cause_is_reported_once() {
    let unreadable = ALL.map(|kind| (kind, Finding::no(Reason::InvalidSpec, "why")));
    let all = [&unreadable[..], &yes(ConditionType::Stalled, Reason::InvalidSpec)].concat();
    assert_eq!(reported(&[], &all), ["W InvalidSpec: why"]);
    let suspended = [ConditionType::BackendsReady, ConditionType::Published, ConditionType::Ready]
        .map(|kind| (kind, Finding::no(Reason::Suspended, "why")));
    assert_eq!(reported(&yes(ConditionType::Published, Reason::Published), &suspended), ["N Suspended: why"]);
    assert_eq!(
        reported(&suspended, &yes(ConditionType::Published, Reason::Published)),
        ["N Resumed: spec.suspend is no longer true.", "N Published: so"]
    );
    assert_eq!(reported(&[], &no(ConditionType::Ready, Reason::Forbidden)), ["W Forbidden: why"]);
}

#[test]
fn a_service_that_stops_is_reported_once_it_is_suspended() {
    let published = yes(ConditionType::Published, Reason::Published);
    let [stopping, suspended] =
        [Reason::Stopping, Reason::Suspended].map(|reason| no(ConditionType::Published, reason));
    assert_eq!(reported(&published, &stopping), [""; 0]);
    assert_eq!(reported(&stopping, &suspended), ["N Suspended: why"]);
    assert_eq!(reported(&suspended, &stopping), [""; 0], "a pod has appeared; the service is still suspended");
    assert_eq!(reported(&stopping, &published), ["N Resumed: spec.suspend is no longer true.", "N Published: so"]);
}

#[test]
fn every_reason_causes_an_event_or_is_listed_as_quiet() {
    let mut count = 0;
    for &reason in Reason::ALL.iter().filter(|reason| **reason != Reason::Pending) {
        for &kind in reason.conditions() {
            let now = conditions(&no(kind, reason)).remove(0);
            let before = Condition { status: "True".to_owned(), ..now.clone() };
            let reported = !notices(&[before], &[now], None).is_empty();
            let is_quiet =
                QUIET.contains(&reason) || (kind, reason) == (ConditionType::BackendsReady, Reason::Suspended);
            assert_eq!(reported, !is_quiet, "{} {reason}", kind.as_str());
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn only_identical_events_are_aggregated() {
    let notice = |note: &str| {
        notice(EventType::Warning, &conditions(&no(ConditionType::Accepted, Reason::InvalidSpec))[0], "x", note.into())
    };
    let action = |note: &str| event(notice(note)).action;
    assert_eq!(action("a"), action("a"));
    assert_ne!(action("a"), action("b"));
    assert!(action("a").len() <= 128);
}

#[test]
fn a_long_note_is_truncated() {
    let cut = cut("ä".repeat(3000));
    assert!(cut.len() <= 1024 && cut.ends_with("ä…"), "{}", cut.len());
}
