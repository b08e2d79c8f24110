//! A TCP forwarder that a test can pause, which looks like a network that loses all packets.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A forwarder from a loopback address to a server. It runs until the test ends.
///
/// While it is paused, it accepts connections but passes on neither data nor the end of a
/// connection. Both sides wait for each other and get no error.
pub struct Forwarder {
    address: SocketAddr,
    paused: watch::Sender<bool>,
}

impl Forwarder {
    /// Starts to forward connections to a server.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (paused, state) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, state.clone()));
            }
        });
        Ok(Self { address, paused })
    }

    /// Returns the address at which the forwarder accepts connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds back everything until [`Self::resume`].
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Passes on what was held back, and everything that follows.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }
}

async fn forward(client: TcpStream, server: SocketAddr, paused: watch::Receiver<bool>) -> io::Result<()> {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = TcpStream::connect(server).await?.into_split();
    tokio::try_join!(pass(from_client, to_server, paused.clone()), pass(from_server, to_client, paused))?;
    Ok(())
}

/// Passes on one direction of a connection.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut paused: watch::Receiver<bool>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // The other side must not notice a broken connection during a pause, so an error counts as
        // the end.
        let length = from.read(&mut buffer).await.unwrap_or_default();
        if paused.wait_for(|paused| !paused).await.is_err() || length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}
