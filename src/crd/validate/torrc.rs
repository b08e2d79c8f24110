//! `extraTorrc`: which lines a user may add to a torrc of ours.

/// Which tor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::crd) enum Place {
    Backend,
    Frontend,
}

/// Refused with a hint of its own: the agent must know, since it reads the line that tor then writes.
pub(in crate::crd) const CIRCUIT_ID: &str = "HiddenServiceExportCircuitID";

/// Options that would break the design: where tor keeps its data and how it is controlled, what it publishes, which ports
/// it opens, whether it goes to sleep, the kind of descriptors that the publisher reads, and programs that it starts (they
/// would run beside the master key).
pub(in crate::crd) const DENIED: &[&str] = &[
    "CacheDirectory",
    "ClientTransportPlugin",
    "ControlPort",
    "ControlPortFileGroupReadable",
    "ControlPortWriteToFile",
    "ControlSocket",
    "ControlSocketsGroupWritable",
    "CookieAuthentication",
    "CookieAuthFile",
    "CookieAuthFileGroupReadable",
    "DataDirectory",
    "DataDirectoryGroupReadable",
    "DirPort",
    "DisableNetwork",
    "DNSPort",
    "DormantOnFirstStartup",
    "DormantTimeoutEnabled",
    "ExtORPort",
    "ExtORPortCookieAuthFile",
    "GeoIPFile",
    "GeoIPv6File",
    "HashedControlPassword",
    "HiddenServiceDir",
    "HiddenServiceEnableIntroDoSBurstPerSec",
    "HiddenServiceEnableIntroDoSDefense",
    "HiddenServiceEnableIntroDoSRatePerSec",
    CIRCUIT_ID,
    "HiddenServiceNumIntroductionPoints",
    "HiddenServiceOnionBalanceInstance",
    "HiddenServicePoWDefensesEnabled",
    "HiddenServicePort",
    "HiddenServiceVersion",
    "HTTPTunnelPort",
    "KeyDirectory",
    "MetricsPort",
    "MetricsPortPolicy",
    "NATDPort",
    "ORPort",
    "OwningControllerProcess",
    "PidFile",
    "PublishHidServDescriptors",
    "RunAsDaemon",
    "Sandbox",
    "ServerTransportPlugin",
    "SocksPort",
    "SyslogIdentityTag",
    "TransPort",
    "UseMicrodescriptors",
    "User",
];

/// What is wrong with each line that cannot stay.
pub(super) fn check(text: &str, place: Place) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| Some(format!("line {}: {}", index + 1, refusal(line, place)?)))
        .collect()
}

fn refusal(line: &str, place: Place) -> Option<String> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Some("has a control character; remove it".to_owned());
    }
    let line = line.trim();
    // Would take in our own next line.
    if line.ends_with('\\') {
        return Some("ends with \"\\\"; write the option on one line".to_owned());
    }
    let key = line.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default();
    let option = key.trim_start_matches(['+', '/']);
    if option.starts_with('%') {
        return Some(format!("\"{key}\" is not allowed; write the lines themselves"));
    }
    if option.len() > "HiddenServiceE".len() && abbreviates(option, CIRCUIT_ID) {
        return Some(format!("instead of \"{option}\" set proxyProtocol: v1 on the ports that want it"));
    }
    if option.starts_with('_') || DENIED.iter().any(|denied| abbreviates(option, denied)) {
        return Some(format!("the operator sets or needs \"{option}\" itself; remove the line"));
    }
    let of_a_service = option.get(..13).is_some_and(|start| start.eq_ignore_ascii_case("HiddenService"));
    (of_a_service && place == Place::Frontend)
        .then(|| format!("\"{option}\" belongs to an onion service, a frontend has none; use spec.backends.extraTorrc"))
}

/// tor takes option names in any case, and a unique beginning for the whole name.
fn abbreviates(option: &str, denied: &str) -> bool {
    !option.is_empty() && denied.get(..option.len()).is_some_and(|start| start.eq_ignore_ascii_case(option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_lines_pass() {
        let lines = "# comment\n\nHiddenServiceMaxStreams 100\nMaxMemInQueues 200 MB\nLog info stdout\nUseBridges 1\n\
            Bridge 192.0.2.1:443 0123456789012345678901234567890123456789\nNumCPUs 1\n";
        assert_eq!(check(lines, Place::Backend), [] as [String; 0]);
    }

    #[test]
    fn each_denied_option_is_refused_in_every_spelling_that_tor_takes() {
        for denied in DENIED {
            let abbreviated = denied.get(..denied.len() - 1).unwrap();
            for spelling in [
                format!("{denied} 1"),
                denied.to_uppercase(),
                format!("\t{} x", denied.to_lowercase()),
                format!("+{denied} 1"),
                format!("/{denied}"),
                format!("{denied}#c"),
                abbreviated.to_owned(),
            ] {
                assert_eq!(check(&spelling, Place::Backend).len(), 1, "{spelling:?}");
            }
        }
    }

    #[test]
    fn whoever_wants_circuit_ids_is_told_how() {
        assert_eq!(
            check("HiddenServiceExportCircuitID haproxy", Place::Backend),
            ["line 1: instead of \"HiddenServiceExportCircuitID\" set proxyProtocol: v1 on the ports that want it"]
        );
    }

    #[test]
    fn lines_that_reach_beyond_themselves_are_refused() {
        assert_eq!(
            check("Log info \\\n%include /etc/passwd\n__ControlPort 1\nNumCPUs \u{0} 1", Place::Backend),
            [
                "line 1: ends with \"\\\"; write the option on one line",
                "line 2: \"%include\" is not allowed; write the lines themselves",
                "line 3: the operator sets or needs \"__ControlPort\" itself; remove the line",
                "line 4: has a control character; remove it",
            ]
        );
    }

    #[test]
    fn a_frontend_has_no_onion_service() {
        let line = "hiddenserviceMaxStreams 10";
        assert_eq!(check(line, Place::Backend), [] as [String; 0]);
        assert_eq!(check(line, Place::Frontend).len(), 1);
    }
}
