use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

const PLACES: [Place; 2] = [Place::Backend, Place::Frontend];

/// Options that would break the design. Names the options itself instead of reading the lists, so
/// that no option can become allowed unnoticed. The values are those that do the damage.
const HARMFUL: [&str; 66] = [
    // They run other code.
    "AccelDir /etc/onionbalance/config",
    "AccelName e",
    "ClientTransportPlugin obfs4 exec /x",
    "HardwareAccel 1",
    "ServerTransportPlugin obfs4 exec /x",
    // They open ports.
    "ControlPort 9051",
    "ControlSocket /x",
    "DirPort 9030",
    "DNSPort 53",
    "ExtORPort 9002",
    "HTTPTunnelPort 8118",
    "MetricsPort 9035",
    "MetricsPortPolicy accept *",
    "NATDPort 9041",
    "ORPort 9001",
    "SocksPort 9050",
    "TransPort 9040",
    "__ControlPort 9051",
    "__SocksPort 9050",
    // They read or write files.
    "CacheDirectory /x",
    "ClientOnionAuthDir /x",
    "ControlPortWriteToFile /x",
    "CookieAuthFile /x",
    "DataDirectory /x",
    "DirPortFrontPage /x",
    "GeoIPFile /x",
    "GuardfractionFile /x",
    "HiddenServiceDir /x",
    "KeyDirectory /x",
    "Log debug file /var/lib/tor/data/log",
    "PidFile /x",
    "ServerDNSResolvConfFile /x",
    "TruncateLogFile 1",
    "V3BandwidthsFile /x",
    // They weaken anonymity, isolation or authentication.
    "CircuitPadding 0",
    "ConnectionPadding 0",
    "CookieAuthentication 0",
    "DisableDebuggerAttachment 0",
    "EnforceDistinctSubnets 0",
    "GuardLifetime 1 day",
    "HashedControlPassword 16:x",
    "HiddenServiceNonAnonymousMode 1",
    "HiddenServiceSingleHopMode 1",
    "Log info stdout",
    "NumEntryGuards 20",
    "PathsNeededToBuildCircuits 0.25",
    "ReducedConnectionPadding 1",
    "SafeLogging 0",
    "UseEntryGuards 0",
    "VanguardsLiteEnabled 0",
    // They change what the operator sets or relies on.
    "DirAuthority x 192.0.2.1:80 0123456789012345678901234567890123456789",
    "DisableNetwork 1",
    "DormantTimeoutEnabled 1",
    "ExitRelay 1",
    "FetchHidServDescriptors 0",
    "HiddenServiceExportCircuitID haproxy",
    "HiddenServiceNumIntroductionPoints 3",
    "HiddenServiceOnionBalanceInstance 0",
    "HiddenServicePoWDefensesEnabled 1",
    "HiddenServicePort 80",
    "PublishHidServDescriptors 1",
    "RunAsDaemon 1",
    "Sandbox 1",
    "TestingTorNetwork 1",
    "UseMicrodescriptors 0",
    "User root",
];

#[test]
fn options_that_would_break_the_design_are_refused() {
    for line in HARMFUL {
        for place in PLACES {
            assert_eq!(check(line, place).len(), 1, "{line} in {place:?}");
        }
    }
}

/// The administrator may also select the Tor network and start a transport, but not break the
/// design.
#[test]
fn lines_for_all_pods_may_select_the_network_and_nothing_harmful() {
    let network = "TestingTorNetwork 1\ntestingauthkeylifetime 1 day\nPathsNeededToBuildCircuits 0.67\n\
        DirAuthority x 192.0.2.1:80 0123456789012345678901234567890123456789\nFallbackDir 192.0.2.1:80\n\
        ClientTransportPlugin obfs4 exec /usr/bin/obfs4proxy\nUseBridges 1\n";
    assert_eq!(check(network, Place::AllPods), [] as [String; 0]);
    for line in HARMFUL {
        let option = option_of(line);
        let selects = covers_network(option);
        assert_eq!(check(line, Place::AllPods).is_empty(), selects, "{line}");
    }
    assert_eq!(
        check("NumCPUs 2\nControlPort 9051\nHiddenServiceMaxStreams 9\nControlPor 9051", Place::AllPods),
        [
            "line 2: \"ControlPort\" is controlled by the operator; remove the line",
            "line 3: \"HiddenServiceMaxStreams\" configures an onion service, but a frontend runs none; \
             use spec.backends.extraTorrc",
            "line 4: \"ControlPor\" is controlled by the operator; remove the line",
        ]
    );
}

/// Returns true for the options in [`HARMFUL`] that the administrator may set.
fn covers_network(option: &str) -> bool {
    ["ClientTransportPlugin", "DirAuthority", "PathsNeededToBuildCircuits", "TestingTorNetwork"].contains(&option)
}

#[test]
fn useful_lines_pass() {
    let lines = "# comment\n\nMaxMemInQueues 200 MB\nLog notice stdout # more\nUseBridges 1\n  +Bridge 192.0.2.1:443 \
        0123456789012345678901234567890123456789\n\tNumCPUs 1\nBandwidthRate 10 MBytes\nlearncircuitbuildtimeout 0\n\
        Bridge obfs4 [2001:db8::1]:443 0123456789012345678901234567890123456789 cert=a/b+c iat-mode=0 # mine\n\
        Socks5Proxy proxy:1080\nExcludeNodes 192.0.2.0/24,$0123456789012345678901234567890123456789\n";
    for place in PLACES {
        assert_eq!(check(lines, place), [] as [String; 0]);
    }
    let of_a_service = "HiddenServiceMaxStreams 100\nHiddenServiceMaxStreamsCloseCircuit 1";
    assert_eq!(check(of_a_service, Place::Backend), [] as [String; 0]);
    assert_eq!(check(of_a_service, Place::Frontend).len(), 2);
}

#[test]
fn lines_that_affect_other_lines_are_refused() {
    assert_eq!(
        check(
            "NumCPUs 1 \\\n%include /etc/passwd\n__ControlPort 1\nNumCPUs \u{0} 1\nNumCPUs 1 \\\u{a0}",
            Place::Backend
        ),
        [
            "line 1: ends with \"\\\"; write the option on one line",
            "line 2: \"%include\" is not allowed; copy the lines of the included file into this field",
            "line 3: \"__ControlPort\" is controlled by the operator; remove the line",
            "line 4: contains a control character; remove it",
            "line 5: ends with \"\\\"; write the option on one line",
        ]
    );
}

/// Returns a strategy for an option's name and its beginnings, in any case. Half of the names are
/// complete.
fn name(options: Vec<&'static str>) -> impl Strategy<Value = String> {
    (select(options), any::<bool>(), any::<Index>(), vec(any::<bool>(), 1..8)).prop_map(
        |(option, is_complete, cut, upper)| {
            let length = if is_complete { option.len() } else { cut.index(option.len()) + 1 };
            let letters = option.chars().take(length).zip(upper.iter().cycle());
            letters.map(|(c, upper)| if *upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect()
        },
    )
}

/// Returns the option of a line in [`HARMFUL`].
fn option_of(line: &'static str) -> &'static str {
    line.split_once(' ').unwrap().0
}

/// Returns a strategy for everything that may surround a name or a value: tor's white space, other
/// white space, prefixes, quotes, comments and continuations. Most texts are empty.
fn noise() -> impl Strategy<Value = String> {
    let parts = vec![
        " ", "\t", "\n", "\r", "\r\n", "\u{b}", "\u{c}", "\u{a0}", "\u{2028}", "\u{feff}", "+", "/", "%", "\"", "#",
        "\\", "\\\n", "_", "é",
    ];
    let some = vec(select(parts), 1..3).prop_map(|parts| parts.concat());
    prop_oneof![2 => Just(String::new()), 1 => some]
}

/// Returns what tor reads from a torrc: the options with their values, up to the first syntax
/// error.
///
/// This follows `parse_config_line_from_str_verbose` and `config_get_lines_aux` in tor's source,
/// and not the code under test.
fn read_as_tor(text: &str) -> Vec<(String, String)> {
    let is_space = |c: char| [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'].contains(&c);
    let mut options = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(is_space);
        if rest.starts_with('#') {
            rest = rest.trim_start_matches(|c: char| c != '\n');
            continue;
        }
        if rest.is_empty() {
            return options;
        }
        let end = rest.find(|c: char| is_space(c) || c == '#').unwrap_or(rest.len());
        let end = rest.find("\\\n").map_or(end, |continued| continued.min(end));
        let (key, mut after) = rest.split_at(end);
        while let Some(skipped) = after.strip_prefix([' ', '\t']).or_else(|| after.strip_prefix("\\\n")) {
            after = skipped;
        }
        let Some((value, next)) = value_as_tor(after) else { return options };
        let key = key.strip_prefix(['+', '/']).unwrap_or(key);
        options.push((key.to_owned(), value.trim_end_matches(is_space).to_owned()));
        rest = next;
    }
}

/// Returns the value at the beginning of a text, and the rest of the text. Returns `None` if the
/// value is a malformed string in quotes.
fn value_as_tor(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.find(|c: char| {
            let ends = !escaped && (c == '"' || c == '\n');
            escaped = !escaped && c == '\\';
            ends
        })?;
        let next = quoted.get(end..)?.strip_prefix('"')?.trim_start_matches([' ', '\t']);
        let is_end = next.is_empty() || next.starts_with(['#', '\n', '\r']);
        return is_end.then(|| (quoted.get(..end).unwrap_or_default().to_owned(), next));
    }
    let (mut value, mut rest, mut is_continued) = (String::new(), text, false);
    while let Some(c) = rest.chars().next().filter(|c| *c != '\n' && (*c != '#' || is_continued)) {
        if let Some(next) = rest.strip_prefix("\\\n") {
            (rest, is_continued) = (next, true);
        } else if c == '#' {
            rest = rest.trim_start_matches(|c: char| c != '\n');
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        } else {
            value.push(c);
            rest = rest.strip_prefix(c).unwrap_or_default();
        }
    }
    Some((value, rest))
}

/// Returns the lines as the operator writes them into a torrc, followed by an option of its own.
fn written(text: &str) -> String {
    let lines: String =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect();
    lines + "SocksPort 0\n"
}

#[test]
fn the_reader_reads_as_tor_does() {
    let text =
        "\tNumCPUs 1 # c\n+Bridge a\\\n# c\nb\n\n%include /x\n/Log\nA\\\n B \"c # d\" # e\n\"F\" g\nH#i\nJ \"\nK 1\n";
    let expected = [
        ("NumCPUs", "1"),
        ("Bridge", "ab"),
        ("%include", "/x"),
        ("Log", ""),
        ("A", "B \"c"),
        ("\"F\"", "g"),
        ("H", ""),
    ];
    let found = read_as_tor(text);
    assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

/// Returns a strategy for a line. Most of its names are allowed ones.
fn line() -> impl Strategy<Value = String> {
    let values = vec!["", "1", "auto", "notice stdout", "\"notice stdout\"", "debug file /x", "{de}", "\"a\\\"b\""];
    let allowed: Vec<_> = allowed(Place::Backend).collect();
    let every = [HARMFUL.map(option_of).as_slice(), &allowed].concat();
    let name = prop_oneof![4 => select(allowed).prop_map(str::to_owned), 1 => name(every)];
    (noise(), name, noise(), select(values), noise())
        .prop_map(|(before, name, between, value, after)| format!("{before}{name} {between}{value}{after}"))
}

proptest! {
    /// However an option that would break the design is spelled, it is refused.
    #[test]
    fn no_spelling_of_a_harmful_option_passes(
        spelled in name(HARMFUL.map(option_of).to_vec()),
        (before, between, value, after) in (noise(), noise(), "[0-9 ]{0,6}", noise()),
        is_backend: bool,
    ) {
        let place = if is_backend { Place::Backend } else { Place::Frontend };
        // A harmful option can begin with the name of an allowed one, and some options are harmful
        // only with certain values.
        prop_assume!(!allowed(place).any(|allowed| allowed.eq_ignore_ascii_case(&spelled)));
        // The name would be a part of a comment.
        prop_assume!(!before.contains('#'));
        let text = format!("{before}{spelled}{between}{value}{after}");
        prop_assert!(!check(&text, place).is_empty(), "{text:?} passes");
    }

    /// From lines that pass, tor reads allowed options only. It also reads the operator's line that
    /// follows them.
    #[test]
    fn tor_reads_only_allowed_options_from_lines_that_pass(lines in vec(line(), 0..4), is_backend: bool) {
        let place = if is_backend { Place::Backend } else { Place::Frontend };
        let text = lines.join("\n");
        if !check(&text, place).is_empty() {
            return Ok(());
        }
        let mut options = read_as_tor(&written(&text));
        // A malformed string in quotes makes tor exit, so tor does not read the lines after it.
        if options.last() == Some(&("SocksPort".to_owned(), "0".to_owned())) {
            options.pop();
        } else {
            prop_assert!(text.contains('"'), "a line of the operator is lost after {text:?}");
        }
        for (option, value) in options {
            prop_assert!(allowed(place).any(|allowed| allowed.eq_ignore_ascii_case(&option)), "{option:?} in {text:?}");
            if option.eq_ignore_ascii_case("Log") {
                prop_assert_eq!(value, "notice stdout");
            }
        }
    }
}
