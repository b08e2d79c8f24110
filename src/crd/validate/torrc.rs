//! Validation of `extraTorrc`, the lines that a user may add to a generated torrc.

/// The kind of pod whose torrc receives the additional lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::crd) enum Place {
    Backend,
    Frontend,
}

/// The option that makes tor write a PROXY header, which the agent must expect. It is rejected with
/// a message that recommends `proxyProtocol`, which configures both tor and the agent.
pub(in crate::crd) const CIRCUIT_ID: &str = "HiddenServiceExportCircuitID";

/// The options that are rejected because they would break the design.
///
/// These options control tor's data directories, its control connection, the descriptors that it
/// publishes and uses, the ports that it opens, and its dormant mode. Options that make tor start
/// other programs are also included, because such a program would run next to the master key.
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

/// Checks every line. Returns a message for each rejected line.
pub(super) fn check(text: &str, place: Place) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| Some(format!("line {}: {}", index + 1, refusal(line, place)?)))
        .collect()
}

fn refusal(line: &str, place: Place) -> Option<String> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Some("contains a control character; remove it".to_owned());
    }
    let line = line.trim();
    // A trailing backslash would swallow the next line, which may be one of the operator's.
    if line.ends_with('\\') {
        return Some("ends with \"\\\"; write the option on one line".to_owned());
    }
    let key = line.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default();
    let option = key.trim_start_matches(['+', '/']);
    if option.starts_with('%') {
        return Some(format!("\"{key}\" is not allowed; copy the lines of the included file into this field"));
    }
    if option.len() > "HiddenServiceE".len() && abbreviates(option, CIRCUIT_ID) {
        return Some(format!("\"{option}\" is not allowed; set proxyProtocol: v1 on the port instead"));
    }
    if option.starts_with('_') || DENIED.iter().any(|denied| abbreviates(option, denied)) {
        return Some(format!("the operator controls \"{option}\"; remove the line"));
    }
    let of_a_service = option.get(..13).is_some_and(|start| start.eq_ignore_ascii_case("HiddenService"));
    (of_a_service && place == Place::Frontend).then(|| {
        format!("\"{option}\" configures an onion service, but a frontend runs none; use spec.backends.extraTorrc")
    })
}

/// Returns true if tor could interpret `option` as the denied option. Tor ignores case and accepts
/// any unambiguous prefix of an option's name.
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

    /// Names the options itself instead of reading [`DENIED`], so that an option cannot leave that
    /// list unnoticed.
    #[test]
    fn options_that_would_break_the_design_are_refused() {
        for option in [
            "ClientTransportPlugin obfs4 exec /x",
            "ServerTransportPlugin obfs4 exec /x",
            "ControlPort 9051",
            "ControlSocket /x",
            "CookieAuthentication 0",
            "DataDirectory /x",
            "DisableNetwork 1",
            "HiddenServiceDir /x",
            "HiddenServiceNumIntroductionPoints 3",
            "HiddenServiceOnionBalanceInstance 0",
            "HiddenServicePoWDefensesEnabled 1",
            "HiddenServicePort 80",
            "MetricsPort 9035",
            "ORPort 9001",
            "PublishHidServDescriptors 1",
            "SocksPort 9050",
            "UseMicrodescriptors 0",
            "User root",
        ] {
            assert_eq!(check(option, Place::Backend).len(), 1, "{option}");
            assert_eq!(check(option, Place::Frontend).len(), 1, "{option}");
        }
    }

    #[test]
    fn each_denied_option_is_refused_in_every_spelling_that_tor_accepts() {
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
    fn the_circuit_id_option_is_refused_with_the_alternative() {
        assert_eq!(
            check("HiddenServiceExportCircuitID haproxy", Place::Backend),
            ["line 1: \"HiddenServiceExportCircuitID\" is not allowed; set proxyProtocol: v1 on the port instead"]
        );
    }

    #[test]
    fn lines_that_affect_other_lines_are_refused() {
        assert_eq!(
            check("Log info \\\n%include /etc/passwd\n__ControlPort 1\nNumCPUs \u{0} 1", Place::Backend),
            [
                "line 1: ends with \"\\\"; write the option on one line",
                "line 2: \"%include\" is not allowed; copy the lines of the included file into this field",
                "line 3: the operator controls \"__ControlPort\"; remove the line",
                "line 4: contains a control character; remove it",
            ]
        );
    }

    #[test]
    fn a_frontend_rejects_onion_service_options() {
        let line = "hiddenserviceMaxStreams 10";
        assert_eq!(check(line, Place::Backend), [] as [String; 0]);
        assert_eq!(check(line, Place::Frontend).len(), 1);
    }
}
