//! The rows of the table of invalid objects that are about `extraTorrc`.

use serde_json::json;

use super::Refused;

/// Options that are refused in both places, and the reason.
const REFUSED_OPTIONS: [(&str, &str); 19] = [
    ("ControlPort", "is controlled by the operator; remove the line"),
    ("User", "is controlled by the operator; remove the line"),
    ("HiddenServiceDir", "is controlled by the operator; remove the line"),
    ("__OwningControllerProcess", "is controlled by the operator; remove the line"),
    ("HiddenServicePoWDefensesEnabled", PROOF_OF_WORK),
    ("HiddenServicePoWQueueRate", PROOF_OF_WORK),
    ("CompiledProofOfWorkHash", PROOF_OF_WORK),
    ("HiddenServiceExportCircuitID", "is not allowed; set proxyProtocol: v1 on the port instead"),
    ("HiddenServiceEnableIntroDoSDefense", "is not allowed; set spec.backends.introDosDefense instead"),
    ("HiddenServiceNumIntroductionPoints", "is not allowed; set spec.backends.introductionPoints instead"),
    ("HiddenServicePort", "is not allowed; list the port in spec.ports instead"),
    (
        "UseMicrodescriptors",
        "must keep its default value, because the publisher needs microdescriptors; remove the line",
    ),
    ("HardwareAccel", "would make tor load a library or start a program; remove the line"),
    (
        "ClientTransportPlugin",
        "would make tor start a program, which only the flag --tor-extra-config of the operator may do (docs/bridges.md); \
         remove the line",
    ),
    ("ORPort", "would open a port or make tor a relay; remove the line"),
    ("UseEntryGuards", "would weaken the protection of the service and its clients; remove the line"),
    (
        "DirAuthority",
        "selects the Tor network, which only the flag --tor-extra-config of the operator may do; remove the line",
    ),
    ("ExitNodes", NOT_ALLOWED),
    ("NoSuchOption", NOT_ALLOWED),
];

const PROOF_OF_WORK: &str = "cannot work with a merged descriptor, because each tor checks a proof of work against its own \
                             descriptor; use spec.backends.introDosDefense instead";
const NOT_ALLOWED: &str = "is not allowed; write the full name of an option that docs/reference.md lists";

/// Returns the rows of both places.
pub(super) fn rows() -> Vec<Refused> {
    let mut all = Vec::new();
    for part in ["backends", "frontend"] {
        let torrc = |lines: &str| Refused::spec(json!({part: {"extraTorrc": lines}}));
        let field = format!("spec.{part}.extraTorrc");
        let named = |lines: &str, line: usize, option: &str, because: &str| {
            torrc(lines)
                .operator(format!("{field}: line {line}: \"{option}\" {because}"))
                .rule(format!("{field}: \"{option}\" {because}"))
        };
        all.extend(REFUSED_OPTIONS.map(|(option, because)| named(&format!("{option} 1"), 1, option, because)));
        let controlled = "is controlled by the operator; remove the line";
        all.extend([
            named("NumCPUs 1\n  socksport\t9050\n", 2, "socksport", controlled),
            named("+DataDirectory /x", 1, "DataDirectory", controlled),
            named("/User#x", 1, "User", controlled),
            named("# é\r\n\r\nNumCPUs 1\r\nNoSuchOption", 4, "NoSuchOption", NOT_ALLOWED),
            // An abbreviation, two prefixes, quotes, and white space that tor does not know.
            named("SocksPor 9050", 1, "SocksPor", NOT_ALLOWED),
            named("NumCPU 1", 1, "NumCPU", NOT_ALLOWED),
            named("\"ControlPort\" 9051", 1, "\"ControlPort\"", NOT_ALLOWED),
            named("NumCPUs\u{a0}1", 1, "NumCPUs\u{a0}1", NOT_ALLOWED),
            torrc("++NumCPUs 1")
                .operator(format!("{field}: line 1: \"+NumCPUs\" {NOT_ALLOWED}"))
                .rule(format!("{field}: \"NumCPUs\" {NOT_ALLOWED}")),
            torrc("%include /x")
                .operator(format!(
                    "{field}: line 1: \"%include\" is not allowed; copy the lines of the included file into this field"
                ))
                .rule(format!(
                    "{field}: \"%include\" is not allowed; copy the lines of the included file into this field"
                )),
            torrc("NumCPUs \\")
                .operator(format!("{field}: line 1: ends with \"\\\"; write the option on one line"))
                .rule(format!("{field}: a line ends with \"\\\"; write the option on one line")),
            torrc("NumCPUs \u{1} 1")
                .operator(format!("{field}: line 1: contains a control character; remove it"))
                .rule(format!("{field}: contains a control character; remove it")),
            torrc(&"# 345678\n".repeat(2000)).schema(&field),
        ]);
        all.extend(values(part));
    }
    let line = "hiddenServiceMaxStreams 10";
    let because = "configures an onion service, but a frontend runs none; use spec.backends.extraTorrc";
    all.push(
        Refused::spec(json!({"frontend": {"extraTorrc": line}}))
            .operator(format!("spec.frontend.extraTorrc: line 1: \"hiddenServiceMaxStreams\" {because}"))
            .rule(format!("spec.frontend.extraTorrc: \"hiddenServiceMaxStreams\" {because}")),
    );
    all
}

/// Returns the rows with allowed options whose values are not allowed. Only the operator rejects
/// them.
fn values(part: &str) -> Vec<Refused> {
    let log = "may write only messages of the levels notice, warn and err, and only to stdout or stderr, because more detailed \
               messages reveal what a service must hide; write for example \"Log notice stdout\"";
    let countries = "has a country code, which would have no effect, because this tor has no GeoIP table; list fingerprints or \
                     addresses";
    let entries = "must name at least two relays and no country code, because tor starts no onion service with a single guard, \
                   and this tor has no GeoIP table; list more fingerprints, or addresses";
    let location = "must not be off, because it protects the location of the service; set it to 1 or auto";
    let guards = "must be 1 or 2, because each guard sees the address of the node; correct the value";
    let bridge = "must be followed by [TRANSPORT] ADDRESS:PORT FINGERPRINT [KEY=VALUE …], with a known transport and 40 \
                  hexadecimal digits as the fingerprint; copy the whole line that you got (docs/bridges.md)";
    let rows = [
        ("Bridge 192.0.2.1:443", "Bridge", bridge),
        ("+bridge obfs9 192.0.2.1:443 0123456789012345678901234567890123456789 cert=a", "bridge", bridge),
        // Tor would read a part of the line as a comment.
        ("Bridge obfs4 192.0.2.1:443 0123456789#2345678901234567890123456789 cert=a", "Bridge", bridge),
        ("Log debug file /var/lib/tor/data/log", "Log", log),
        ("Log info stdout", "Log", log),
        ("log notice file /x # stdout", "log", log),
        ("Log \"notice stdout\"", "Log", log),
        ("Log", "Log", log),
        ("VanguardsLiteEnabled 0", "VanguardsLiteEnabled", location),
        ("ConnectionPadding \"0\"", "ConnectionPadding", location),
        ("NumEntryGuards 20", "NumEntryGuards", guards),
        ("EntryNodes gabelmoo", "EntryNodes", entries),
        ("EntryNodes {de},{fr}", "EntryNodes", entries),
        ("ExcludeNodes {de}, 192.0.2.0/24", "ExcludeNodes", countries),
    ];
    let refused = |(line, option, because): (&str, &str, &str)| {
        Refused::spec(json!({part: {"extraTorrc": line}}))
            .operator(format!("spec.{part}.extraTorrc: line 1: \"{option}\" {because}"))
    };
    rows.map(refused).into()
}
