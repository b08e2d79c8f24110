//! Decides which part of a connection failed.

use crate::control::socks::Refusal;
use crate::crd::ProbeResult;

/// The reason why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) result: ProbeResult,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(result: ProbeResult, message: impl Into<String>) -> Self {
        Self { result, message: message.into() }
    }

    /// Creates the failure of an attempt that says nothing about the service.
    pub(super) fn not_made(message: impl Into<String>) -> Self {
        Self::new(ProbeResult::NotMade, message)
    }
}

/// The part of an attempt that is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The descriptor is being fetched.
    #[default]
    Descriptor,
    /// Tor connects to the service.
    Connection,
    /// The stream to the target is open.
    Target,
}

/// Returns the failure of an attempt in which no HSDir returned the descriptor. `denials` HSDirs
/// answered that they do not have it, and the requests to the others ended with these errors. Only
/// an HSDir that answers proves that the descriptor is missing: if most do not answer, this
/// frontend may be cut off from the network.
pub(super) fn without_descriptor(denials: usize, errors: &[String]) -> Failure {
    match errors.last() {
        Some(error) if errors.len() >= denials => Failure::not_made(format!(
            "too few HSDirs answered the request for the descriptor; the last error: {error}"
        )),
        None if denials == 0 => Failure::not_made("the network has no HSDir for the descriptor"),
        _ => {
            let message = format!("no HSDir that clients ask has the descriptor ({denials} of them have answered)");
            Failure::new(ProbeResult::DescriptorFailed, message)
        }
    }
}

/// Returns the result that a code from tor proves, given that the descriptor has just been fetched.
/// None if the code does not say which part of the connection failed. This includes tor's code for
/// a missing descriptor: when all introduction points have failed, tor looks for a newer descriptor
/// and finds none.
pub(super) fn of_refusal(refusal: Refusal) -> Option<ProbeResult> {
    Some(match refusal {
        Refusal::DescriptorInvalid
        | Refusal::AuthorizationMissing
        | Refusal::AuthorizationWrong
        | Refusal::AddressInvalid => ProbeResult::DescriptorFailed,
        Refusal::IntroductionFailed | Refusal::IntroductionTimedOut => ProbeResult::IntroductionFailed,
        Refusal::RendezvousFailed => ProbeResult::RendezvousFailed,
        Refusal::ConnectionRefused => ProbeResult::TargetFailed,
        Refusal::DescriptorNotFound | Refusal::Other(_) => return None,
    })
}

/// Returns the result of a connection that is not open yet, judging by tor's circuits (`GETINFO
/// circuit-status`). `isolation` is the user name of the attempt's SOCKS request: circuits of
/// earlier attempts can last for minutes. If a rendezvous circuit waits for the service, an
/// introduction point has accepted the introduction; otherwise, no introduction has succeeded.
pub(super) fn of_circuits(circuits: &str, isolation: &str) -> ProbeResult {
    let user = format!("SOCKS_USERNAME=\"{isolation}\"");
    let is_introduced = |line: &str| {
        let has = |word: &str| line.split_ascii_whitespace().any(|found| found == word);
        let waits = ["HS_STATE=HSCR_ESTABLISHED_WAITING", "HS_STATE=HSCR_JOINED"].into_iter().any(has);
        has("PURPOSE=HS_CLIENT_REND") && has(&user) && waits
    };
    if circuits.lines().any(is_introduced) { ProbeResult::RendezvousFailed } else { ProbeResult::IntroductionFailed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_descriptor_is_proved_only_by_an_hsdir_that_answers() {
        let result = |denials, errors: usize| without_descriptor(denials, &vec!["x".to_owned(); errors]).result;
        for (denials, errors) in [(1, 0), (6, 0), (4, 2)] {
            assert_eq!(result(denials, errors), ProbeResult::DescriptorFailed, "{denials} {errors}");
        }
        for (denials, errors) in [(0, 0), (0, 6), (1, 5), (3, 3)] {
            assert_eq!(result(denials, errors), ProbeResult::NotMade, "{denials} {errors}");
        }
    }

    #[test]
    fn tors_codes_name_the_part_that_failed() {
        assert_eq!(of_refusal(Refusal::AuthorizationWrong), Some(ProbeResult::DescriptorFailed));
        assert_eq!(of_refusal(Refusal::DescriptorNotFound), None, "the descriptor has just been fetched");
        assert_eq!(of_refusal(Refusal::IntroductionTimedOut), Some(ProbeResult::IntroductionFailed));
        assert_eq!(of_refusal(Refusal::RendezvousFailed), Some(ProbeResult::RendezvousFailed));
        assert_eq!(of_refusal(Refusal::ConnectionRefused), Some(ProbeResult::TargetFailed));
        assert_eq!(of_refusal(Refusal::Other(1)), None);
    }

    #[test]
    fn a_waiting_rendezvous_circuit_shows_that_the_introduction_succeeded() {
        let circuit = |purpose: &str, state: &str, user: &str| {
            format!(
                "7 BUILT $A~a,$B~b BUILD_FLAGS=IS_INTERNAL,NEED_CAPACITY PURPOSE={purpose} HS_STATE={state} \
                 REND_QUERY=x TIME_CREATED=2026-01-01T00:00:00.0 SOCKS_USERNAME=\"{user}\" SOCKS_PASSWORD=\"{user}\"\n"
            )
        };
        let of = |purpose, state, user| of_circuits(&circuit(purpose, state, user), "abc");
        for (purpose, state) in [
            ("HS_CLIENT_INTRO", "HSCI_CONNECTING"),
            ("HS_CLIENT_INTRO", "HSCI_INTRO_SENT"),
            ("HS_CLIENT_REND", "HSCR_CONNECTING"),
            ("HS_CLIENT_REND", "HSCR_ESTABLISHED_IDLE"),
        ] {
            assert_eq!(of(purpose, state, "abc"), ProbeResult::IntroductionFailed, "{state}");
        }
        for state in ["HSCR_ESTABLISHED_WAITING", "HSCR_JOINED"] {
            assert_eq!(of("HS_CLIENT_REND", state, "abc"), ProbeResult::RendezvousFailed, "{state}");
            assert_eq!(of("HS_CLIENT_REND", state, "other"), ProbeResult::IntroductionFailed, "another attempt");
        }
        assert_eq!(of_circuits("", "abc"), ProbeResult::IntroductionFailed);
    }
}
