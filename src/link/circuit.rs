//! The address by which the app knows a client's circuit: the source address of the PROXY header.

use core::fmt;
use core::net::Ipv6Addr;
use core::str::FromStr;

use crate::onion::OnionAddress;

/// The prefix of the address, which tor chooses.
const PREFIX: [u16; 4] = [0xfc00, 0xdead, 0xbeef, 0x4dad];

/// The address of a circuit. After tor's prefix of 64 bits come the mark of the backend, which is
/// the beginning of the backend's onion key, and tor's number of the circuit, with 32 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitAddress {
    mark: u32,
    /// Tor's number of the circuit.
    pub circuit: u32,
}

/// The error for an address that the PROXY header of an agent cannot contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the address of a circuit; send the source address of the PROXY header, such as fc00:dead:beef:4dad:d1b3:8b83:0:2a"
)]
pub struct NoCircuitAddress;

impl CircuitAddress {
    /// Returns true if the circuit may belong to this backend. Two backends have the same mark with
    /// a probability of 1 in 4 billion.
    pub fn is_of(self, backend: &OnionAddress) -> bool {
        self.mark == mark(backend)
    }
}

/// Returns the mark of a backend, the first four bytes of its onion key.
fn mark(backend: &OnionAddress) -> u32 {
    let [m0, m1, m2, m3, ..] = *backend.public_key();
    u32::from_be_bytes([m0, m1, m2, m3])
}

impl FromStr for CircuitAddress {
    type Err = NoCircuitAddress;

    fn from_str(text: &str) -> Result<Self, NoCircuitAddress> {
        let address: Ipv6Addr = text.parse().map_err(|_| NoCircuitAddress)?;
        let [p0, p1, p2, p3, m0, m1, c0, c1] = address.segments();
        if [p0, p1, p2, p3] != PREFIX {
            return Err(NoCircuitAddress);
        }
        let joined = |high: u16, low: u16| (u32::from(high) << 16) | u32::from(low);
        Ok(Self { mark: joined(m0, m1), circuit: joined(c0, c1) })
    }
}

impl fmt::Display for CircuitAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m0, m1, m2, m3] = self.mark.to_be_bytes();
        let [c0, c1, c2, c3] = self.circuit.to_be_bytes();
        let [p0, p1, p2, p3] = PREFIX;
        let pair = |high, low| u16::from_be_bytes([high, low]);
        let address = Ipv6Addr::new(p0, p1, p2, p3, pair(m0, m1), pair(m2, m3), pair(c0, c1), pair(c2, c3));
        write!(f, "{address}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_address_names_the_backend_and_the_circuit() {
        let backend = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion".parse().unwrap();
        let address: CircuitAddress = "fc00:dead:beef:4dad:d1b3:8b83:1:2a".parse().unwrap();
        assert_eq!(address.circuit, 0x0001_002a);
        assert!(address.is_of(&backend));
        assert!(!"fc00:dead:beef:4dad:d1b3:8b84:1:2a".parse::<CircuitAddress>().unwrap().is_of(&backend));
    }

    #[test]
    fn other_addresses_are_rejected() {
        for text in
            ["", "::1", "192.0.2.1", "fc00:dead:beef:4dae:d1b3:8b83:0:2a", "fc00:dead:beef:4dad:d1b3:8b83:0:2a "]
        {
            assert_eq!(text.parse::<CircuitAddress>(), Err(NoCircuitAddress), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_parsed_as_it_was_written(mark: u32, circuit: u32) {
            let address = CircuitAddress { mark, circuit };
            prop_assert_eq!(address.to_string().parse::<CircuitAddress>(), Ok(address));
        }
    }
}
