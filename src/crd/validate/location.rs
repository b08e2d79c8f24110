//! Validation of `spec.anonymity.serverLocation`.

use super::vanguards::sets;
use super::{Problem, Problems};
use crate::crd::{OnionBalancedServiceSpec, ServerLocation, VanguardMode, messages};

/// The field that these checks are about.
const FIELD: &str = "spec.anonymity.serverLocation";
/// The options that tor refuses or ignores in single-hop mode, although their purpose is to choose
/// the relays that see the node's address.
const OPTIONS: [&str; 2] = ["UseBridges", "EntryNodes"];

/// Checks that nothing in a spec contradicts an exposed location.
pub(super) fn location(problems: &mut Problems, spec: &OnionBalancedServiceSpec) {
    let anonymity = &spec.anonymity;
    if anonymity.server_location == ServerLocation::Hidden {
        return;
    }
    if (2..=3).contains(&anonymity.guards_in_use) {
        problems.add("spec.anonymity.guardsInUse", messages::GUARDS_OF_EXPOSED);
    }
    if anonymity.vanguards == VanguardMode::Full {
        problems.add("spec.anonymity.vanguards", messages::VANGUARDS_OF_EXPOSED);
    }
    if let Some(option) = entry_option(&spec.backends.extra_torrc) {
        problems.add(
            "spec.backends.extraTorrc",
            format!(
                "\"{option}\" cannot be combined with serverLocation: Exposed, because the backends then connect to \
                 introduction points directly; remove the line"
            ),
        );
    }
}

/// Returns the option in some torrc lines that chooses the relays that see the node's address, if
/// there is one.
fn entry_option(lines: &str) -> Option<&'static str> {
    OPTIONS.into_iter().find(|option| sets(lines, option))
}

/// Returns the problem of an exposed location in a cluster with these lines for every tor.
pub fn exposed_beside(lines: &str, location: ServerLocation) -> Option<Problem> {
    let option = entry_option(lines).filter(|_| location == ServerLocation::Exposed)?;
    let message = format!(
        "\"Exposed\" cannot be combined with \"{option}\" in the operator's --tor-extra-config, because the backends then \
         connect to introduction points directly; remove this field, or ask the cluster's administrator to remove the line"
    );
    Some(Problem { field: FIELD.to_owned(), message })
}

/// Returns the problem of a location that differs from the one with which the pods run.
pub fn changed_location(before: ServerLocation, now: ServerLocation) -> Option<Problem> {
    (before != now).then(|| Problem { field: FIELD.to_owned(), message: messages::LOCATION_CHANGED.to_owned() })
}
