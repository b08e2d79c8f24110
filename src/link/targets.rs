//! The addresses that no target may have. The operator checks the addresses in a spec, and the
//! agent checks the address of every connection, because a name can resolve to any address.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// The environment variable that passes the operator's list to the agents. It is not part of
/// `agent.yaml`, because an older agent rejects an unknown field there.
pub const REFUSED_TARGETS: &str = "REFUSED_TARGETS";

/// The item of a list that stands for the API server.
const API_SERVER: &str = "api-server";
/// The list that refuses no target.
const NONE: &str = "none";

/// The networks that are refused by default.
const DEFAULT: [(IpAddr, u32); 10] = [
    // Linux connects to the unspecified address as if it were a loopback address.
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    // Link-local addresses. Most cloud providers serve a node's credentials at 169.254.169.254.
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    // The metadata services of Alibaba Cloud, and of Azure's hosts.
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    // The metadata services of AWS and Google Cloud.
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 128),
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), 128),
];

/// A list of addresses that no target may have. The default refuses the pod itself, link-local
/// addresses, the metadata services of cloud providers, and the API server.
///
/// The text of a list consists of addresses, networks such as `10.0.0.0/8` and the word
/// `api-server`, separated by commas. An empty text stands for the default, and `none` for a list
/// that refuses nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedTargets {
    networks: Vec<Network>,
    api_server: bool,
}

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    first: IpAddr,
    bits: u32,
}

/// The error about an invalid item of a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address, a network such as 10.0.0.0/8 or fd00::/8, or \"api-server\"; to refuse no target, write only \
     \"none\""
)]
pub struct RefusedTargetsError(String);

impl RefusedTargets {
    /// Returns the list that refuses no target.
    pub fn none() -> Self {
        Self { networks: Vec::new(), api_server: false }
    }

    /// Returns true if the API server is refused under all of its names.
    pub fn refuses_api_server(&self) -> bool {
        self.api_server
    }

    /// Returns the item of the list that refuses an address, or `None` if the list permits the
    /// address. `api_server` is the address of the API server, if it is known.
    pub fn refusal(&self, address: IpAddr, api_server: Option<IpAddr>) -> Option<String> {
        let is_api_server =
            |address: IpAddr| self.api_server && api_server.map(|server| server.to_canonical()) == Some(address);
        meanings(address).into_iter().flatten().find_map(|address| {
            if is_api_server(address) {
                return Some(API_SERVER.to_owned());
            }
            self.networks.iter().find(|network| network.contains(address)).map(ToString::to_string)
        })
    }
}

impl Default for RefusedTargets {
    fn default() -> Self {
        let networks = DEFAULT.into_iter().map(|(first, bits)| Network { first, bits });
        Self { networks: networks.collect(), api_server: true }
    }
}

impl FromStr for RefusedTargets {
    type Err = RefusedTargetsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        if items.is_empty() {
            return Ok(Self::default());
        }
        let mut list = Self::none();
        if items == [NONE] {
            return Ok(list);
        }
        for item in items {
            if item == API_SERVER {
                list.api_server = true;
            } else {
                list.networks.push(item.parse().map_err(|()| RefusedTargetsError(item.to_owned()))?);
            }
        }
        Ok(list)
    }
}

impl fmt::Display for RefusedTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        items.extend(self.api_server.then(|| API_SERVER.to_owned()));
        if items.is_empty() { f.write_str(NONE) } else { f.write_str(&items.join(",")) }
    }
}

impl Network {
    /// Creates the network that an address belongs to.
    fn new(address: IpAddr, bits: u32) -> Self {
        let first = masked(address, bits);
        let first = match address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(first >> 96).unwrap_or_default()).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(first).into(),
        };
        Self { first, bits }
    }

    fn contains(self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == bits_of(self.first)
    }
}

impl FromStr for Network {
    type Err = ();

    /// Parses an address or a network. Bits of the address beyond the network are cleared.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let bits = match bits {
            // `u32::from_str` also accepts a leading plus sign.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(|_| ())?,
            Some(_) => return Err(()),
            None => width(address),
        };
        if bits > width(address) {
            return Err(());
        }
        // A connection to an IPv4-mapped address is an IPv4 connection.
        match address.to_canonical() {
            IpAddr::V4(mapped) if address.is_ipv6() && bits >= 96 => Ok(Self::new(mapped.into(), bits - 96)),
            _ => Ok(Self::new(address, bits)),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.bits < width(self.first) { write!(f, "/{}", self.bits) } else { Ok(()) }
    }
}

/// Returns the addresses that a connection to this address may reach: the address itself, and the
/// IPv4 address to which a NAT64 gateway translates it (RFC 6052, section 2.1).
fn meanings(address: IpAddr) -> [Option<IpAddr>; 2] {
    let address = address.to_canonical();
    let translated = match address {
        IpAddr::V6(six) => match six.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)).into())
            }
            _ => None,
        },
        IpAddr::V4(_) => None,
    };
    [Some(address), translated]
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Returns the bits of an address, beginning at the most significant bit.
fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(four.to_bits()) << 96,
        IpAddr::V6(six) => six.to_bits(),
    }
}

/// Returns the first bits of an address, followed by zeros.
fn masked(address: IpAddr, bits: u32) -> u128 {
    bits_of(address) & u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the item that refuses an address. The API server has the address 10.96.0.1.
    fn refusal(list: &str, address: &str) -> Option<String> {
        let list: RefusedTargets = list.parse().unwrap();
        list.refusal(address.parse().unwrap(), Some(Ipv4Addr::new(10, 96, 0, 1).into()))
    }

    /// Writes out the addresses, so that a network cannot leave the list unnoticed.
    #[test]
    fn the_default_refuses_the_pod_metadata_services_and_the_api_server() {
        for (address, item) in [
            ("0.0.0.0", "0.0.0.0/8"),
            ("127.0.0.1", "127.0.0.0/8"),
            ("127.255.255.254", "127.0.0.0/8"),
            ("169.254.169.254", "169.254.0.0/16"),
            ("100.100.100.200", "100.100.100.200"),
            ("168.63.129.16", "168.63.129.16"),
            ("::", "::"),
            ("::1", "::1"),
            ("fe80::1", "fe80::/10"),
            ("febf::1", "fe80::/10"),
            ("fd00:ec2::254", "fd00:ec2::254"),
            ("fd20:ce::254", "fd20:ce::254"),
            ("10.96.0.1", "api-server"),
        ] {
            assert_eq!(refusal("", address).as_deref(), Some(item), "{address}");
            assert_eq!(refusal("none", address), None, "{address}");
        }
        for address in
            ["10.96.0.2", "10.0.0.1", "192.0.2.1", "126.255.255.255", "2001:db8::1", "fd00:ec2::253", "fec0::1"]
        {
            assert_eq!(refusal("", address), None, "{address}");
        }
    }

    #[test]
    fn another_spelling_of_a_refused_address_is_refused_too() {
        for (address, item) in [
            ("::ffff:127.0.0.1", "127.0.0.0/8"),
            ("::ffff:a9fe:a9fe", "169.254.0.0/16"),
            ("::ffff:10.96.0.1", "api-server"),
            ("64:ff9b::169.254.169.254", "169.254.0.0/16"),
            ("64:ff9b::10.96.0.1", "api-server"),
        ] {
            assert_eq!(refusal("", address).as_deref(), Some(item), "{address}");
        }
        assert_eq!(refusal("::ffff:10.0.0.0/104", "10.1.2.3").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(refusal("64:ff9b::/96", "64:ff9b::c000:201").as_deref(), Some("64:ff9b::/96"));
    }

    #[test]
    fn a_list_replaces_the_default() {
        assert_eq!(refusal("10.1.2.3/8, fd00::/8", "10.200.0.1").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(refusal("10.0.0.0/8,fd00::/8", "fdff::1").as_deref(), Some("fd00::/8"));
        for address in ["127.0.0.1", "11.0.0.1", "10.96.0.1"] {
            assert_eq!(refusal("fd00::/8,192.0.2.7", address), None, "{address}");
        }
        assert_eq!(refusal("0.0.0.0/0", "192.0.2.1").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(refusal("0.0.0.0/0", "2001:db8::1"), None, "another family");
        let unknown = "api-server".parse::<RefusedTargets>().unwrap();
        assert!(unknown.refuses_api_server());
        assert_eq!(unknown.refusal(Ipv4Addr::new(10, 96, 0, 1).into(), None), None);
    }

    #[test]
    fn an_error_names_the_item() {
        for (list, item) in [
            ("127.0.0.0/33", "127.0.0.0/33"),
            ("10.0.0.0/8,example.org", "example.org"),
            ("10.0.0.0/+8", "10.0.0.0/+8"),
            ("10.0.0.0/", "10.0.0.0/"),
            ("::/129", "::/129"),
            ("none,10.0.0.0/8", "none"),
            ("API-SERVER", "API-SERVER"),
        ] {
            let error = list.parse::<RefusedTargets>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{item:?} is not an address, a network such as 10.0.0.0/8")), "{error}");
        }
    }

    #[test]
    fn the_text_of_a_list_can_be_parsed() {
        for list in [RefusedTargets::default(), RefusedTargets::none(), "::/0,10.0.0.0/8".parse().unwrap()] {
            assert_eq!(list.to_string().parse(), Ok(list));
        }
        assert_eq!(RefusedTargets::none().to_string(), "none");
        assert_eq!("".parse(), Ok(RefusedTargets::default()));
        assert_eq!(" , ".parse(), Ok(RefusedTargets::default()));
    }

    proptest! {
        #[test]
        fn a_network_contains_exactly_the_addresses_with_its_first_bits(first: u128, other: u128, bits in 0_u32..=128) {
            let network = Network::new(Ipv6Addr::from_bits(first).into(), bits);
            prop_assert!(network.contains(Ipv6Addr::from_bits(first).into()));
            let same = (first ^ other).leading_zeros() >= bits;
            prop_assert_eq!(network.contains(Ipv6Addr::from_bits(other).into()), same);
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }

        #[test]
        fn parsing_never_panics(text in "[0-9a-f.:/, -]{0,40}|\\PC{0,20}") {
            if let Ok(list) = text.parse::<RefusedTargets>() {
                prop_assert_eq!(list.to_string().parse(), Ok(list));
            }
        }
    }
}
