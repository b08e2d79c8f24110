//! Validation of `spec.anonymity.vanguards`.

use super::Problems;
use crate::crd::{OnionBalancedServiceSpec, VanguardMode};

/// The options that decide about the second and third hops.
const OPTIONS: [&str; 3] = ["HSLayer2Nodes", "HSLayer3Nodes", "ExcludeNodes"];

/// Checks that no torrc line contradicts the shared vanguards.
pub(super) fn vanguards(problems: &mut Problems, spec: &OnionBalancedServiceSpec) {
    if spec.anonymity.vanguards == VanguardMode::Lite {
        return;
    }
    for (field, lines) in [
        ("spec.backends.extraTorrc", &spec.backends.extra_torrc),
        ("spec.frontend.extraTorrc", &spec.frontend.extra_torrc),
    ] {
        for option in OPTIONS.into_iter().filter(|option| sets(lines, option)) {
            problems.add(
                "spec.anonymity.vanguards",
                format!(
                    "\"Full\" cannot be combined with \"{option}\" in {field}, because the publisher chooses the \
                         relays of the second and third hops; remove the line, or set vanguards: Lite"
                ),
            );
        }
    }
}

/// Returns true if a line sets the option. Tor ignores case. Abbreviations are refused.
pub(super) fn sets(lines: &str, option: &str) -> bool {
    let names = lines.lines().filter_map(|line| line.trim().split([' ', '\t', '#']).next());
    names.map(|name| name.trim_start_matches(['+', '/'])).any(|name| name.eq_ignore_ascii_case(option))
}
