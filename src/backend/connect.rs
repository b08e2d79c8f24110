//! Connects to targets, unless their addresses are refused. The operator checks the targets that a
//! spec names, but only the agent knows the addresses to which a name resolves.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpStream, lookup_host};

use crate::link::RefusedTargets;

/// Connects to targets whose addresses are permitted.
#[derive(Debug)]
pub struct Connector {
    refused: RefusedTargets,
    /// The address of the API server, if it is known.
    api_server: Option<IpAddr>,
}

/// The reason why the agent does not connect to an address.
#[derive(Debug)]
struct Refused {
    address: IpAddr,
    item: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, item } = self;
        write!(f, "its address {address} is not allowed, because the operator's --refused-targets contains {item}")
    }
}

impl std::error::Error for Refused {}

impl Connector {
    /// Creates a connector that refuses the addresses on a list. `api_server` is the address of the
    /// API server, if it is known.
    pub fn new(refused: RefusedTargets, api_server: Option<IpAddr>) -> Self {
        Self { refused, api_server }
    }

    /// Connects to a target, which is a host name or an address, and a port. The name is resolved
    /// now, and its addresses are tried in their order. Refused addresses are skipped. If no
    /// connection succeeds, an error about a refused address takes precedence.
    pub async fn connect(&self, target: &str) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for address in lookup_host(target).await? {
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) if failure.kind() != io::ErrorKind::PermissionDenied => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.check(address.ip(), address.ip())?;
        let stream = TcpStream::connect(address).await?;
        // A connection from an address to itself stays in the pod, like a connection to a loopback
        // address.
        if stream.local_addr()?.ip() == address.ip() {
            let loopback = match address.ip().to_canonical() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            self.check(loopback, address.ip())?;
        }
        Ok(stream)
    }

    /// Returns an error about `address` if the list refuses `meaning`: the same address or, for a
    /// connection that stays in the pod, the loopback address.
    fn check(&self, meaning: IpAddr, address: IpAddr) -> io::Result<()> {
        match self.refused.refusal(meaning, self.api_server) {
            None => Ok(()),
            Some(item) => Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused { address, item })),
        }
    }
}

impl Default for Connector {
    /// Returns a connector that refuses no address.
    fn default() -> Self {
        Self::new(RefusedTargets::none(), None)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn connector(list: &str, api_server: Option<&str>) -> Connector {
        Connector::new(list.parse().unwrap(), api_server.map(|address| address.parse().unwrap()))
    }

    /// Returns a listener on a loopback address, and its port.
    async fn listener(address: &str) -> (TcpListener, u16) {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// Returns the item that refuses a connection, or `None` if the connection succeeds.
    async fn refusal(connector: &Connector, target: &str) -> Option<String> {
        let error = connector.connect(target).await.err()?;
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        let refused = error.get_ref().and_then(|error| error.downcast_ref::<Refused>()).unwrap();
        Some(refused.item.clone())
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_refused_address_is_refused() {
        let (listener, port) = listener("127.0.0.1").await;
        for list in ["", "127.0.0.0/8,::1", "127.0.0.1,::1"] {
            let item = refusal(&connector(list, None), &format!("localhost:{port}")).await;
            assert!(item.is_some(), "{list}");
        }
        // The resolver accepts abbreviated addresses and numbers, which no check of the text knows.
        for host in ["127.1", "2130706433", "0x7f.1", "127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            assert!(refusal(&connector("", None), &format!("{host}:{port}")).await.is_some(), "{host}");
        }
        // A refused connection is not even attempted.
        let accepted = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
        assert!(accepted.is_err(), "{accepted:?}");
    }

    #[tokio::test]
    async fn a_permitted_address_is_connected_to() {
        let (listener, port) = listener("127.0.0.1").await;
        for connector in [Connector::default(), connector("none", None), connector("10.0.0.0/8,api-server", None)] {
            connector.connect(&format!("localhost:{port}")).await.unwrap();
            listener.accept().await.unwrap();
        }
        let error = connector("127.0.0.1", None).connect(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "its address 127.0.0.1 is not allowed, because the operator's --refused-targets contains 127.0.0.1"
        );
    }

    #[tokio::test]
    async fn the_address_of_the_api_server_is_refused_under_any_name() {
        let (_listener, port) = listener("127.0.0.1").await;
        let targets = [format!("localhost:{port}"), format!("127.0.0.1:{port}")];
        for target in &targets {
            let item = refusal(&connector("api-server", Some("127.0.0.1")), target).await;
            assert_eq!(item.as_deref(), Some("api-server"), "{target}");
        }
        assert_eq!(refusal(&connector("api-server", Some("127.0.0.2")), &targets[1]).await, None);
        assert_eq!(refusal(&connector("none", Some("127.0.0.1")), &targets[1]).await, None);
    }

    /// Returns an address of this machine that is not a loopback address, if it has one.
    fn own_address() -> Option<IpAddr> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        // The kernel chooses the source address without sending anything.
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
    }

    /// Both the pod's own address and its loopback address lead to the agent's ports.
    #[tokio::test]
    async fn a_connection_to_the_pod_itself_is_refused_like_a_loopback_address() {
        let Some(own) = own_address() else { return };
        let (_listener, port) = listener(&own.to_string()).await;
        let target = format!("{own}:{port}");
        assert_eq!(refusal(&connector("127.0.0.0/8", None), &target).await.as_deref(), Some("127.0.0.0/8"));
        assert_eq!(refusal(&connector("::1", None), &target).await, None);
    }
}
