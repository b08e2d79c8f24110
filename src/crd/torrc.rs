//! The torrc options that a user may add to a generated torrc, and the reasons why others are
//! refused. The CEL rules and `validate` share these lists.
//!
//! Only listed options are allowed. Tor has hundreds of options, some of which load native code,
//! write files, open ports or weaken anonymity, and each version of tor may add more. A list of
//! harmful options would always be incomplete. Tor also accepts any unambiguous beginning of an
//! option's name, but a listed name must be written in full, because a beginning can mean another
//! option in the next version of tor.

use super::bridge;

/// The torrc files that receive the additional lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The pods with the onion service.
    Backend,
    /// The pods with the publisher.
    Frontend,
    /// The pods of all services. The administrator of the operator sets these lines.
    AllPods,
}

/// The options that are allowed in every place. They tune bandwidth, circuits and connections,
/// choose relays and proxies, and control tor's log.
const EVERYWHERE: &[&str] = &[
    "AvoidDiskWrites",
    "BandwidthBurst",
    "BandwidthRate",
    "Bridge",
    "CircuitBuildTimeout",
    "CircuitPriorityHalflife",
    "CircuitsAvailableTimeout",
    "ClientPreferIPv6ORPort",
    "ClientUseIPv4",
    "ClientUseIPv6",
    "ConnectionPadding",
    "ConstrainedSockets",
    "ConstrainedSockSize",
    "EntryNodes",
    "ExcludeNodes",
    "FascistFirewall",
    "FetchDirInfoEarly",
    "FetchDirInfoExtraEarly",
    "HeartbeatPeriod",
    "HSLayer2Nodes",
    "HSLayer3Nodes",
    "HTTPSProxy",
    "HTTPSProxyAuthenticator",
    "KeepalivePeriod",
    "KISTSchedRunInterval",
    "KISTSockBufSizeFactor",
    "LearnCircuitBuildTimeout",
    "Log",
    "LogMessageDomains",
    "LogTimeGranularity",
    "MaxClientCircuitsPending",
    "MaxMemInQueues",
    "NodeFamily",
    "NumCPUs",
    "NumEntryGuards",
    "ProtocolWarnings",
    "ReachableAddresses",
    "ReachableORAddresses",
    "Socks4Proxy",
    "Socks5Proxy",
    "Socks5ProxyPassword",
    "Socks5ProxyUsername",
    "StrictNodes",
    "TCPProxy",
    "TokenBucketRefillInterval",
    "UseBridges",
    "VanguardsLiteEnabled",
];

/// The options that are allowed only in backends, because they configure an onion service.
const IN_BACKENDS: &[&str] =
    &["HiddenServiceAllowUnknownPorts", "HiddenServiceMaxStreams", "HiddenServiceMaxStreamsCloseCircuit"];

/// The options that only the administrator of the operator may set, because they select the Tor
/// network or start a program of the administrator's own image of tor. A name that ends with `*`
/// stands for all options that begin with the text before the `*`.
const IN_ALL_PODS: &[&str] = &[
    "AlternateBridgeAuthority",
    "AlternateDirAuthority",
    "ClientTransportPlugin",
    "DirAuthority",
    "FallbackDir",
    "PathsNeededToBuildCircuits",
    "Testing*",
];

/// Returns the options that are allowed in a place.
pub fn allowed(place: Place) -> impl Iterator<Item = &'static str> {
    let more = match place {
        Place::Backend => IN_BACKENDS,
        Place::Frontend => &[],
        Place::AllPods => IN_ALL_PODS,
    };
    EVERYWHERE.iter().chain(more).copied()
}

/// A group of options that are refused for the same reason.
pub(super) struct Refusal {
    /// The names of the options. A name that ends with `*` stands for all options that begin with
    /// the text before the `*`.
    pub options: &'static [&'static str],
    /// The reason and the remedy. The text follows the option's name and contains no `'`.
    pub because: &'static str,
}

/// The options that are refused for a reason of their own. An option that is neither listed here
/// nor allowed is refused with [`NOT_ALLOWED`].
const REFUSALS: &[Refusal] = &[
    Refusal {
        options: &["HiddenServicePoW*", "CompiledProofOfWorkHash"],
        because: "cannot work with a merged descriptor, because each tor checks a proof of work against its own descriptor; \
                  use spec.backends.introDosDefense instead",
    },
    Refusal {
        options: &["HiddenServiceExportCircuitID"],
        because: "is not allowed; set proxyProtocol: v1 on the port instead",
    },
    Refusal {
        options: &["HiddenServiceEnableIntroDoS*"],
        because: "is not allowed; set spec.backends.introDosDefense instead",
    },
    Refusal {
        options: &["HiddenServiceNumIntroductionPoints"],
        because: "is not allowed; set spec.backends.introductionPoints instead",
    },
    Refusal { options: &["HiddenServicePort"], because: "is not allowed; list the port in spec.ports instead" },
    Refusal {
        options: &["UseMicrodescriptors"],
        because: "must keep its default value, because the publisher needs microdescriptors; remove the line",
    },
    Refusal {
        options: &["ClientTransportPlugin"],
        because: "would make tor start a program, which only the flag --tor-extra-config of the operator may do \
                  (docs/bridges.md); remove the line",
    },
    Refusal {
        options: &["Accel*", "HardwareAccel", "ServerTransport*"],
        because: "would make tor load a library or start a program; remove the line",
    },
    Refusal {
        options: &[
            "BridgeRelay",
            "DirPort*",
            "DNSPort",
            "ExitRelay",
            "ExtORPort*",
            "HTTPTunnelPort",
            "NATDPort",
            "ORPort",
            "TransPort",
        ],
        because: "would open a port or make tor a relay; remove the line",
    },
    Refusal {
        options: &[
            "CircuitPadding",
            "DisableDebuggerAttachment",
            "EnforceDistinctSubnets",
            "HiddenServiceNonAnonymousMode",
            "HiddenServiceSingleHopMode",
            "Reduced*Padding",
            "SafeLogging",
            "UseEntryGuards",
        ],
        because: "would weaken the protection of the service and its clients; remove the line",
    },
    Refusal {
        options: &["Alternate*Authority", "DirAuthority*", "FallbackDir", "Testing*"],
        because: "selects the Tor network, which only the flag --tor-extra-config of the operator may do; remove the line",
    },
    Refusal {
        options: &[
            "_*",
            "CacheDirectory*",
            "Control*",
            "Cookie*",
            "DataDirectory*",
            "DisableNetwork",
            "Dormant*",
            "GeoIP*",
            "HashedControlPassword",
            "HiddenServiceDir*",
            "HiddenServiceOnionBalanceInstance",
            "HiddenServiceVersion",
            "KeyDirectory*",
            "MetricsPort*",
            "PidFile",
            "PublishHidServDescriptors",
            "RunAsDaemon",
            "Sandbox",
            "SocksPort",
            "SyslogIdentityTag",
            "User",
        ],
        because: "is controlled by the operator; remove the line",
    },
];

/// The refusal, in all places but backends, of the options that are allowed only in backends.
const ONLY_IN_BACKENDS: Refusal = Refusal {
    options: IN_BACKENDS,
    because: "configures an onion service, but a frontend runs none; use spec.backends.extraTorrc",
};

/// The reason for refusing an option that is not listed anywhere. The text follows the option's
/// name.
pub(super) const NOT_ALLOWED: &str = "is not allowed; write the full name of an option that docs/reference.md lists";

/// Returns the groups of options that are refused in a place for a reason of their own.
pub(super) fn refusals(place: Place) -> impl Iterator<Item = &'static Refusal> {
    REFUSALS.iter().chain((place != Place::Backend).then_some(&ONLY_IN_BACKENDS))
}

/// A restriction of the values of allowed options.
///
/// A regular expression cannot express that a line has a certain option but not one of some values.
/// Therefore, only `validate` checks values.
pub(super) struct Restriction {
    /// The names of the options.
    pub options: &'static [&'static str],
    /// The accepted values.
    pub accepts: Values,
    /// A description of the accepted values, for the reference.
    pub described: &'static str,
    /// The reason and the remedy. The text follows the option's name.
    pub because: &'static str,
}

/// The accepted values of an option.
pub(super) enum Values {
    /// These values only, in lower case and with single spaces.
    OneOf(&'static [&'static str]),
    /// A list of relays without country codes.
    Relays,
    /// A list of relays without country codes, with which tor starts next to an onion service: it
    /// names no relay, several relays, or addresses (C tor's `options_validate_cb`).
    EntryRelays,
    /// A complete bridge line.
    Bridge,
}

/// The restrictions of values.
pub(super) const RESTRICTIONS: &[Restriction] = &[
    Restriction {
        options: &["Log"],
        accepts: Values::OneOf(&[
            "notice stdout",
            "notice stderr",
            "warn stdout",
            "warn stderr",
            "err stdout",
            "err stderr",
        ]),
        described: "`notice`, `warn` or `err`, followed by `stdout` or `stderr`",
        because: "may write only messages of the levels notice, warn and err, and only to stdout or stderr, because more \
                  detailed messages reveal what a service must hide; write for example \"Log notice stdout\"",
    },
    Restriction {
        options: &["ConnectionPadding", "VanguardsLiteEnabled"],
        accepts: Values::OneOf(&["1", "auto"]),
        described: "`1` or `auto`",
        because: "must not be off, because it protects the location of the service; set it to 1 or auto",
    },
    Restriction {
        options: &["Bridge"],
        accepts: Values::Bridge,
        described: "`[TRANSPORT] ADDRESS:PORT FINGERPRINT [KEY=VALUE …]` with the transport `meek_lite`, `obfs4`, \
                    `snowflake` or `webtunnel`, or without a transport and its arguments",
        because: "must be followed by [TRANSPORT] ADDRESS:PORT FINGERPRINT [KEY=VALUE …], with a known transport and 40 \
                  hexadecimal digits as the fingerprint; copy the whole line that you got (docs/bridges.md)",
    },
    Restriction {
        options: &["NumEntryGuards"],
        accepts: Values::OneOf(&["1", "2"]),
        described: "`1` or `2`",
        because: "must be 1 or 2, because each guard sees the address of the node; correct the value",
    },
    Restriction {
        options: &["EntryNodes"],
        accepts: Values::EntryRelays,
        described: "at least two fingerprints or nicknames, or addresses, but no country codes",
        because: "must name at least two relays and no country code, because tor starts no onion service with a single \
                  guard, and this tor has no GeoIP table; list more fingerprints, or addresses",
    },
    Restriction {
        options: &["ExcludeNodes", "HSLayer2Nodes", "HSLayer3Nodes", "NodeFamily"],
        accepts: Values::Relays,
        described: "fingerprints, nicknames and addresses, but no country codes",
        because: "has a country code, which would have no effect, because this tor has no GeoIP table; list fingerprints or \
                  addresses",
    },
];

impl Refusal {
    /// Returns true if this group contains an option.
    pub fn concerns(&self, option: &str) -> bool {
        self.options.iter().any(|pattern| covers(pattern, option))
    }
}

impl Values {
    /// Returns true if the value is accepted. The value has single spaces and no comment.
    pub fn accept(&self, value: &str) -> bool {
        match self {
            Self::OneOf(values) => values.contains(&value),
            Self::Relays => !value.contains('{'),
            Self::EntryRelays => Self::Relays.accept(value) && !is_single_relay(value),
            Self::Bridge => bridge::is_bridge(value),
        }
    }
}

/// Returns true if a list of relays names exactly one, by fingerprint or nickname. Tor takes an
/// entry with one of the characters `.:*` for addresses (C tor's `routerset_parse`).
fn is_single_relay(list: &str) -> bool {
    let relays: Vec<_> = list.trim_matches('"').split(',').map(str::trim).filter(|relay| !relay.is_empty()).collect();
    matches!(relays[..], [only] if !only.contains(['.', ':', '*']))
}

/// Returns true if a name in one of the lists stands for this option. Tor ignores the case of
/// names.
pub(super) fn covers(pattern: &str, option: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else { return pattern.eq_ignore_ascii_case(option) };
    let inner = option.get(..start.len()).filter(|found| found.eq_ignore_ascii_case(start));
    let rest = inner.and_then(|_| option.get(start.len()..)).unwrap_or_default();
    inner.is_some()
        && rest.len() >= end.len()
        && rest.get(rest.len() - end.len()..).is_some_and(|found| found.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_of_an_object_is_both_allowed_and_refused() {
        for place in [Place::Backend, Place::Frontend] {
            for option in allowed(place) {
                assert!(!refusals(place).any(|refusal| refusal.concerns(option)), "{option}");
            }
        }
        assert!(!allowed(Place::Frontend).any(|option| option.starts_with("HiddenService")));
    }

    #[test]
    fn no_option_is_refused_for_two_reasons() {
        let groups: Vec<_> = refusals(Place::Frontend).collect();
        for (number, group) in groups.iter().enumerate() {
            for option in group.options.iter().map(|option| option.replace('*', "")) {
                let concerned = groups.iter().position(|group| group.concerns(&option));
                assert_eq!(concerned, Some(number), "{option}");
                assert_eq!(groups.iter().filter(|group| group.concerns(&option)).count(), 1, "{option}");
            }
        }
    }

    #[test]
    fn restrictions_are_about_allowed_options() {
        let all: Vec<_> = allowed(Place::Frontend).collect();
        let restricted: Vec<_> =
            RESTRICTIONS.iter().flat_map(|restriction| restriction.options.iter().copied()).collect();
        for option in &restricted {
            assert!(all.contains(option), "{option}");
            assert_eq!(restricted.iter().filter(|other| *other == option).count(), 1, "{option}");
        }
    }

    #[test]
    fn a_reason_fits_into_a_cel_string() {
        for because in refusals(Place::Frontend).map(|refusal| refusal.because).chain([NOT_ALLOWED]) {
            assert!(!because.contains(['\'', '\\', '\n']), "{because}");
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, option) in [
            ("User", "user"),
            ("Control*", "ControlPort"),
            ("Control*", "control"),
            ("_*", "__DirPort"),
            ("Reduced*Padding", "ReducedCircuitPADDING"),
        ] {
            assert!(covers(pattern, option), "{pattern} {option}");
        }
        for (pattern, option) in [
            ("User", "Users"),
            ("User", "Use"),
            ("Control*", "Contro"),
            ("Control*", "MyControl"),
            ("Reduced*Padding", "ReducedPaddin"),
            ("Reduced*Padding", "Reduced"),
            ("Control*", "é"),
            ("Reduced*Padding", "Reducedé"),
        ] {
            assert!(!covers(pattern, option), "{pattern} {option}");
        }
    }
}
