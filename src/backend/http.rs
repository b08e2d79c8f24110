//! The agent's HTTP servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Failure;

/// Listens on `address`; without one, on all addresses of both families where the machine has both.
pub async fn bind(address: Option<IpAddr>, port: u16) -> Result<TcpListener, Failure> {
    let named =
        |address: IpAddr| async move { TcpListener::bind((address, port)).await.map_err(|error| (address, error)) };
    let bound = match address {
        Some(address) => named(address).await,
        // On Linux, the unspecified IPv6 address takes IPv4 connections too.
        None => match named(Ipv6Addr::UNSPECIFIED.into()).await {
            Err((_, error)) if has_no_ipv6(&error) => named(Ipv4Addr::UNSPECIFIED.into()).await,
            other => other,
        },
    };
    bound.map_err(|(address, error)| format!("listen on {address} port {port}: {error}").into())
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> Result<(), Failure> {
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?)
}
