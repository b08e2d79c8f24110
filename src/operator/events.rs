//! Kubernetes Events of an object: what a person would want to know, told when it begins or ends, and not while it lasts.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use tokio::time::timeout;

use super::conditions::Type;
use super::telemetry::Telemetry;
use crate::common::complaint::{Complaint, cause};
use crate::crd::{OPERATOR_MANAGER, OnionBalancedService};

/// What passes by itself, or follows from another condition: no news.
const QUIET: [&str; 6] = ["Generating", "NotAccepted", "Progressing", "RollingOut", "Waiting", "NotPublished"];
/// What is not True because somebody wants it so.
const WANTED: [&str; 2] = ["Suspended", "ScaledToZero"];

/// An Event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody should act.
    pub kind: EventType,
    /// The condition that changed.
    pub condition: String,
    /// The condition's reason, or one of `KeyGenerated`, `Resumed`.
    pub reason: String,
    /// The condition's message.
    pub note: String,
}

/// What changed from one status to the next. `generated` is the name of the Secret with a key that was made meanwhile.
pub fn notices(before: &[Condition], after: &[Condition], generated: Option<&str>) -> Vec<Notice> {
    let mut found = Vec::new();
    for now in after {
        let old = before.iter().find(|old| old.type_ == now.type_);
        let is_published = now.type_ == Type::Published.as_str();
        if is_published && now.reason != "Suspended" && old.is_some_and(|old| old.reason == "Suspended") {
            found.push(notice(EventType::Normal, now, "Resumed", "spec.suspend is no longer true.".to_owned()));
        }
        if is_news(old, now) {
            found.extend(tell(old, now, generated));
        }
    }
    found
}

/// What is said of a spec, a key or clients stands until somebody changes them; what is said of pods counts them.
fn is_news(old: Option<&Condition>, now: &Condition) -> bool {
    let words_count = [Type::Accepted, Type::MasterKeyReady, Type::ClientsReady].map(Type::as_str);
    let same = |old: &Condition| {
        (&old.status, &old.reason) == (&now.status, &now.reason)
            && (old.message == now.message || !words_count.contains(&now.type_.as_str()))
    };
    !old.is_some_and(same)
}

fn tell(old: Option<&Condition>, now: &Condition, generated: Option<&str>) -> Option<Notice> {
    let is = |kind: Type| now.type_ == kind.as_str();
    let was_true = old.is_some_and(|old| old.status == "True");
    let reason = now.reason.as_str();
    if now.status == "True" {
        return match generated {
            Some(secret) if is(Type::MasterKeyReady) => {
                let note = format!("Made a new master key, in Secret {secret}; keep a copy of it. {}", now.message);
                Some(notice(EventType::Normal, now, "KeyGenerated", note))
            }
            // That a new object is valid is no news, and the summaries repeat the others.
            _ if is(Type::Ready) || is(Type::Stalled) || (is(Type::Accepted) && (old.is_none() || was_true)) => None,
            _ => Some(notice(EventType::Normal, now, reason, now.message.clone())),
        };
    }
    let told_elsewhere = match reason {
        "InvalidSpec" => !is(Type::Accepted),
        "Suspended" => !is(Type::Published),
        // Also true of a first descriptor that is on its way.
        "NotOnHSDirs" if !was_true => true,
        _ => is(Type::Ready) && reason != "Forbidden",
    };
    if told_elsewhere || QUIET.contains(&reason) {
        return None;
    }
    let kind = if WANTED.contains(&reason) { EventType::Normal } else { EventType::Warning };
    Some(notice(kind, now, reason, now.message.clone()))
}

fn notice(kind: EventType, condition: &Condition, reason: &str, note: String) -> Notice {
    Notice { kind, condition: condition.type_.clone(), reason: reason.to_owned(), note }
}

/// The API server refuses a longer note, in bytes.
const MAX_NOTE: usize = 1000;
/// The API server's time to take one. Events are good to have; nothing waits for them longer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Writes Events.
pub struct Events {
    recorder: Recorder,
    telemetry: Arc<Telemetry>,
    complaint: Mutex<Complaint>,
}

impl Events {
    /// Counts what it writes into `telemetry`.
    pub fn new(client: Client, telemetry: Arc<Telemetry>) -> Self {
        // The pod's name.
        let reporter = Reporter { controller: OPERATOR_MANAGER.to_owned(), instance: std::env::var("HOSTNAME").ok() };
        Self { recorder: Recorder::new(client, reporter), telemetry, complaint: Mutex::default() }
    }

    /// Writes them about the object of this metadata. One that cannot be written is lost: the status says the same.
    pub async fn tell(&self, object: &ObjectMeta, notices: Vec<Notice>) {
        let about = reference(object);
        for notice in notices {
            self.telemetry.writes.fetch_add(1, Ordering::Relaxed);
            let told = timeout(DEADLINE, self.recorder.publish(&event(notice), &about)).await;
            let problem = match told {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => cause(&error),
                Err(elapsed) => elapsed.to_string(),
            };
            self.complaint.lock().unwrap_or_else(PoisonError::into_inner).utter("cannot write an Event", &problem);
        }
    }
}

/// Without the resource version: with it, no two Events would be about the same object.
fn reference(object: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(OnionBalancedService::api_version(&()).into_owned()),
        kind: Some(OnionBalancedService::kind(&()).into_owned()),
        name: object.name.clone(),
        namespace: object.namespace.clone(),
        uid: object.uid.clone(),
        ..ObjectReference::default()
    }
}

fn event(notice: Notice) -> Event {
    let Notice { kind, condition, reason, note } = notice;
    // The recorder counts Events of one action and reason together, in the words of the first: other words, another action.
    let mut hasher = DefaultHasher::new();
    note.hash(&mut hasher);
    let action = format!("{condition}-{:016x}", hasher.finish());
    Event { type_: kind, reason, note: Some(cut(note)), action, secondary: None }
}

fn cut(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let fits = note.char_indices().map(|(start, _)| start).take_while(|start| *start <= MAX_NOTE).last();
        note.truncate(fits.unwrap_or_default());
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::operator::conditions::{Verdict, merge};

    fn conditions(found: &[(Type, Verdict)]) -> Vec<Condition> {
        merge(&[], found, Some(1), Timestamp::UNIX_EPOCH)
    }

    /// Each as `W Reason: note` or `N Reason: note`.
    fn told(before: &[(Type, Verdict)], after: &[(Type, Verdict)]) -> Vec<String> {
        let line = |notice: Notice| {
            let kind = if notice.kind == EventType::Warning { 'W' } else { 'N' };
            format!("{kind} {}: {}", notice.reason, notice.note)
        };
        notices(&conditions(before), &conditions(after), None).into_iter().map(line).collect()
    }

    fn no(kind: Type, reason: &'static str) -> [(Type, Verdict); 1] {
        [(kind, Verdict::no(reason, "why"))]
    }

    fn yes(kind: Type, reason: &'static str) -> [(Type, Verdict); 1] {
        [(kind, Verdict::yes(reason, "so"))]
    }

    #[test]
    fn what_lasts_is_told_once() {
        for kind in [Type::Accepted, Type::MasterKeyReady, Type::BackendsReady, Type::Published, Type::Ready] {
            for reason in ["InvalidSpec", "SecretNotFound", "Suspended", "Forbidden", "Published"] {
                assert_eq!(told(&no(kind, reason), &no(kind, reason)), [""; 0]);
                assert_eq!(told(&yes(kind, reason), &yes(kind, reason)), [""; 0]);
            }
        }
    }

    #[test]
    fn every_alarm_about_a_key_is_a_warning() {
        for reason in ["SecretNotFound", "KeyInvalid", "KeyConflict", "AddressMismatch", "ApplyFailed"] {
            let before = yes(Type::MasterKeyReady, "KeyLoaded");
            let alarm = no(Type::MasterKeyReady, reason);
            assert_eq!(told(&before, &alarm), [format!("W {reason}: why")]);
            assert_eq!(told(&[], &alarm), [format!("W {reason}: why")], "of a new object");
            assert_eq!(told(&alarm, &before), ["N KeyLoaded: so"]);
        }
    }

    #[test]
    fn other_words_about_a_spec_or_a_key_are_news() {
        let refused = |words: &str| [(Type::Accepted, Verdict::no("InvalidSpec", words))];
        assert_eq!(told(&refused("a"), &refused("b")), ["W InvalidSpec: b"]);
        let pods = |words: &str| [(Type::BackendsReady, Verdict::no("ImagePullFailed", words))];
        assert_eq!(told(&pods("1 of 3"), &pods("2 of 3")), [""; 0]);
    }

    #[test]
    fn a_new_object_on_its_way_says_little() {
        let begins = [
            (Type::Accepted, Verdict::yes("Valid", "The spec is valid.")),
            (Type::MasterKeyReady, Verdict::yes("KeyLoaded", "The key of a.onion is used.")),
            (Type::BackendsReady, Verdict::no("Progressing", "0 of 2")),
            (Type::Published, Verdict::no("NotPublished", "not yet")),
            (Type::Ready, Verdict::no("Progressing", "0 of 2")),
        ];
        let made = notices(&[], &conditions(&begins), Some("web-master-key"));
        let [made] = &made[..] else { panic!("{made:?}") };
        assert_eq!((made.kind, made.reason.as_str()), (EventType::Normal, "KeyGenerated"));
        assert_eq!(
            made.note,
            "Made a new master key, in Secret web-master-key; keep a copy of it. The key of a.onion is used."
        );
        // A first descriptor, before an HSDir has said yes.
        assert_eq!(told(&begins, &no(Type::Published, "NotOnHSDirs")), [""; 0]);
        let published = yes(Type::Published, "Published");
        assert_eq!(told(&no(Type::Published, "NotOnHSDirs"), &published), ["N Published: so"]);
        assert_eq!(told(&published, &no(Type::Published, "NotOnHSDirs")), ["W NotOnHSDirs: why"]);
    }

    #[test]
    fn one_cause_is_told_once() {
        let unreadable = [Type::Accepted, Type::MasterKeyReady, Type::BackendsReady, Type::Published, Type::Ready]
            .map(|kind| (kind, Verdict::no("InvalidSpec", "why")));
        let all = [&unreadable[..], &yes(Type::Stalled, "InvalidSpec")].concat();
        assert_eq!(told(&[], &all), ["W InvalidSpec: why"]);
        let suspended =
            [Type::BackendsReady, Type::Published, Type::Ready].map(|kind| (kind, Verdict::no("Suspended", "why")));
        assert_eq!(told(&yes(Type::Published, "Published"), &suspended), ["N Suspended: why"]);
        assert_eq!(
            told(&suspended, &yes(Type::Published, "Published")),
            ["N Resumed: spec.suspend is no longer true.", "N Published: so"]
        );
        assert_eq!(told(&[], &no(Type::Ready, "Forbidden")), ["W Forbidden: why"]);
    }

    /// All reasons of the page are told by somebody, or are known to be no news.
    #[test]
    fn every_documented_reason_is_told_or_quiet() {
        let page = include_str!("../../docs/internals.md");
        let (_, table) = page.split_once("| condition | reasons when it is not True |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut count = 0;
        for cells in rows.map(|row| row.split('|').collect::<Vec<_>>()) {
            let kind = cells[1].split('`').nth(1).unwrap();
            for reason in cells[2].split('`').skip(1).step_by(2) {
                let mut now = conditions(&no(Type::Accepted, "x")).remove(0);
                (now.type_, now.reason) = (kind.to_owned(), reason.to_owned());
                let before = Condition { status: "True".to_owned(), ..now.clone() };
                let told = !notices(&[before], &[now], None).is_empty();
                let elsewhere = QUIET.contains(&reason) || (kind == "BackendsReady" && reason == "Suspended");
                assert_eq!(told, !elsewhere, "{kind} {reason}");
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn equal_events_are_counted_together_and_others_are_not() {
        let notice =
            |note: &str| notice(EventType::Warning, &conditions(&no(Type::Accepted, "x"))[0], "x", note.into());
        let action = |note: &str| event(notice(note)).action;
        assert_eq!(action("a"), action("a"));
        assert_ne!(action("a"), action("b"));
        assert!(action("a").len() <= 128);
    }

    #[test]
    fn an_endless_note_is_cut() {
        let cut = cut("ä".repeat(3000));
        assert!(cut.len() <= 1024 && cut.ends_with("ä…"), "{}", cut.len());
    }
}
