//! Helpers for the programs' HTTP servers: listening sockets, and responses with metrics.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};

/// The number of connections that the kernel completes ahead of the program. The kernel limits this
/// number, by default to the same value (`net.core.somaxconn`). When strangers have used it up, the
/// kernel ignores a newcomer, such as a probe of the kubelet. The newcomer tries again after a
/// second.
const BACKLOG: u32 = 4096;

/// Listens on `address`, or on all IPv6 and IPv4 addresses of the machine if `address` is None.
/// Errors name the address and the port. Panics outside a tokio runtime.
pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    let named = |address: IpAddr| listen((address, port).into()).map_err(|error| (address, error));
    let bound = match address {
        Some(address) => named(address),
        // On Linux, a socket on the unspecified IPv6 address also accepts IPv4 connections.
        None => match named(Ipv6Addr::UNSPECIFIED.into()) {
            Err((_, error)) if has_no_ipv6(&error) => named(Ipv4Addr::UNSPECIFIED.into()),
            other => other,
        },
    };
    bound.map_err(|(address, error)| {
        io::Error::new(error.kind(), format!("cannot listen on {address} port {port}: {error}"))
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A program that was restarted can listen although old connections are still closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Returns a response to `/metrics` with this text.
pub fn metrics(text: impl IntoResponse) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::super::open_files;
    use super::*;

    #[tokio::test]
    async fn an_error_names_the_address_and_port_in_use() {
        let taken = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind(Some(Ipv4Addr::LOCALHOST.into()), port).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("cannot listen on 127.0.0.1 port {port}: ")), "{error}");
    }

    #[tokio::test]
    async fn without_an_address_ipv4_connections_are_accepted() {
        let listener = bind(None, 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    }

    #[tokio::test]
    async fn the_kernel_keeps_thousands_of_connections_for_a_busy_program() {
        open_files::raise_limit();
        let kernels = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let listener = bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..kernels.trim().parse().unwrap_or(BACKLOG).min(2000) {
            let connected = timeout(Duration::from_secs(10), TcpStream::connect(address)).await;
            waiting.push(connected.expect("the kernel must not ignore a connection").unwrap());
        }
    }
}
