//! Kubernetes Events about a service. A problem causes one Event when it begins and another when it
//! ends, but none while it lasts.

#[cfg(test)]
mod tests;

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

use super::apply::namespace_ends;
use super::telemetry::Telemetry;
use crate::common::complaint::{Complaint, cause};
use crate::crd::{ConditionType, OPERATOR_MANAGER, OnionBalancedService, Reason};

/// The reasons that cause no Event, because the problem resolves itself or follows from another
/// condition.
const QUIET: [Reason; 7] = [
    Reason::Generating,
    Reason::NotAccepted,
    Reason::Progressing,
    Reason::RollingOut,
    Reason::Stopping,
    Reason::Waiting,
    Reason::NotPublished,
];
/// The reasons that cause an Event of type Normal, because the user has deliberately made the
/// condition untrue.
const WANTED: [Reason; 2] = [Reason::Suspended, Reason::ScaledToZero];

/// A Kubernetes Event to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The Event's type. Warning means that somebody should take action.
    pub kind: EventType,
    /// The type of the condition that changed.
    pub condition: String,
    /// The Event's reason: the condition's reason, `KeyGenerated` or `Resumed`.
    pub reason: String,
    /// The Event's note, which is usually the condition's message.
    pub note: String,
}

/// Returns the Events about the changes from one status to the next. `generated` is the name of the
/// Secret if a key was generated between the two.
pub fn notices(before: &[Condition], after: &[Condition], generated: Option<&str>) -> Vec<Notice> {
    let mut found = Vec::new();
    for now in after {
        let old = before.iter().find(|old| old.type_ == now.type_);
        let is_published = now.type_ == ConditionType::Published.as_str();
        if is_published && !is_suspended(now) && old.is_some_and(is_suspended) {
            found.push(notice(EventType::Normal, now, "Resumed", "spec.suspend is no longer true.".to_owned()));
        }
        if has_changed(old, now) {
            found.extend(notice_of(old, now, generated));
        }
    }
    found
}

/// Returns true if the condition `Published` belongs to a service that is suspended, or about to
/// be.
fn is_suspended(published: &Condition) -> bool {
    [Reason::Suspended, Reason::Stopping].iter().any(|reason| published.reason == reason.as_str())
}

/// Returns true if a condition has changed in a way that may cause an Event. If only the message
/// has changed, the result is true only for the conditions about the spec, the key and the clients.
/// The messages about pods contain numbers that change often.
fn has_changed(old: Option<&Condition>, now: &Condition) -> bool {
    let message_counts = [ConditionType::Accepted, ConditionType::MasterKeyReady, ConditionType::ClientsReady]
        .map(ConditionType::as_str);
    let same = |old: &Condition| {
        (&old.status, &old.reason) == (&now.status, &now.reason)
            && (old.message == now.message || !message_counts.contains(&now.type_.as_str()))
    };
    !old.is_some_and(same)
}

/// Returns the Event about a changed condition, if the change should cause one.
fn notice_of(old: Option<&Condition>, now: &Condition, generated: Option<&str>) -> Option<Notice> {
    let is = |kind: ConditionType| now.type_ == kind.as_str();
    let was_true = old.is_some_and(|old| old.status == "True");
    if now.status == "True" {
        return match generated {
            Some(secret) if is(ConditionType::MasterKeyReady) => {
                let note = format!("Generated a new master key in Secret {secret}; make a backup. {}", now.message);
                Some(notice(EventType::Normal, now, "KeyGenerated", note))
            }
            // Ready and Stalled repeat other conditions.
            _ if is(ConditionType::Ready) || is(ConditionType::Stalled) => None,
            // A valid new object is the normal case and needs no Event.
            _ if is(ConditionType::Accepted) && (old.is_none() || was_true) => None,
            // The service works. But with the former reason, somebody must act before it stops, and
            // the latter should surprise nobody.
            _ if now.reason == Reason::SigningKeysExpiring.as_str() || is(ConditionType::LocationExposed) => {
                Some(notice(EventType::Warning, now, &now.reason, now.message.clone()))
            }
            _ => Some(notice(EventType::Normal, now, &now.reason, now.message.clone())),
        };
    }
    let reason = Reason::parse(&now.reason);
    let reported_elsewhere = match reason {
        Some(Reason::InvalidSpec) => !is(ConditionType::Accepted),
        Some(Reason::Suspended) => !is(ConditionType::Published),
        // A new service has this reason until an HSDir accepts its first descriptor.
        Some(Reason::NotOnHSDirs) if !was_true => true,
        // A new service has this reason until its first probe ends.
        Some(Reason::NotProbed) if old.is_none() => true,
        _ => is(ConditionType::Ready) && reason != Some(Reason::Forbidden),
    };
    if reported_elsewhere || reason.is_some_and(|reason| QUIET.contains(&reason)) {
        return None;
    }
    let is_wanted = reason.is_some_and(|reason| WANTED.contains(&reason));
    let kind = if is_wanted { EventType::Normal } else { EventType::Warning };
    Some(notice(kind, now, &now.reason, now.message.clone()))
}

fn notice(kind: EventType, condition: &Condition, reason: &str, note: String) -> Notice {
    Notice { kind, condition: condition.type_.clone(), reason: reason.to_owned(), note }
}

/// The maximum length of a note, in bytes. The API server rejects notes of more than 1024 bytes.
const MAX_NOTE: usize = 1000;
/// The timeout for writing an Event. It is short because a reconciliation waits for the write, and
/// Events are not essential.
const DEADLINE: Duration = Duration::from_secs(5);

/// The writer of Kubernetes Events.
pub struct Events {
    recorder: Recorder,
    telemetry: Arc<Telemetry>,
    complaint: Mutex<Complaint>,
}

impl Events {
    /// Creates an Event writer that counts its requests in `telemetry`.
    pub fn new(client: Client, telemetry: Arc<Telemetry>) -> Self {
        // HOSTNAME is the pod's name.
        let reporter = Reporter { controller: OPERATOR_MANAGER.to_owned(), instance: std::env::var("HOSTNAME").ok() };
        Self { recorder: Recorder::new(client, reporter), telemetry, complaint: Mutex::default() }
    }

    /// Writes Events about the object with the given metadata. An Event that cannot be written is
    /// dropped, because the status contains the same information.
    pub async fn publish(&self, object: &ObjectMeta, notices: Vec<Notice>) {
        let about = reference(object);
        for notice in notices {
            self.telemetry.writes.fetch_add(1, Ordering::Relaxed);
            let written = timeout(DEADLINE, self.recorder.publish(&event(notice), &about)).await;
            let problem = match written {
                Ok(Ok(())) => continue,
                // Nobody reads the Events of a namespace that is being deleted.
                Ok(Err(kube::Error::Api(status))) if namespace_ends(&status) => continue,
                Ok(Err(error)) => cause(&error),
                Err(elapsed) => elapsed.to_string(),
            };
            self.complaint.lock().unwrap_or_else(PoisonError::into_inner).utter("could not write an Event", &problem);
        }
    }
}

/// Returns a reference to the object without its resource version. With the version, the recorder
/// would not aggregate identical Events.
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
    // The recorder aggregates Events that have the same action and reason, and keeps the first
    // note. Events with different notes therefore need different actions.
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
