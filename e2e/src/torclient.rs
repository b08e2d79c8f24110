//! Real Tor clients, and fetches through them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use onionbalance_operator::onion::ClientSecretKey;

use crate::process::Processes;
use crate::torcontrol::Control;
use crate::tornet::{Tor, make_private_dir};
use crate::wait::{Seen, until};

/// A tor process that acts only as a client.
#[derive(Debug)]
pub struct TorClient {
    tor: Tor,
    socks: String,
}

impl TorClient {
    /// Starts a client with empty state in the network that `torrc_lines` describes, and waits
    /// until it has bootstrapped. Its SOCKS port is `port`, or any free port if `port` is `None`.
    pub async fn fresh(
        processes: &Processes,
        name: &str,
        dir: &Path,
        torrc_lines: &str,
        port: Option<u16>,
    ) -> Result<Self> {
        let tor = Tor::open(processes, name, dir);
        tor.remove().await?;
        let port = port.map_or("auto".to_owned(), |port| port.to_string());
        tor.start(Command::new("tor"), &format!("{torrc_lines}SocksPort 127.0.0.1:{port} ExtendedErrors\n"))?;
        tor.wait_bootstrapped().await?;
        let socks = tor.socks_address()?;
        Ok(Self { tor, socks })
    }

    /// Returns the client's tor process, whose control socket accepts HSFETCH.
    pub fn tor(&self) -> &Tor {
        &self.tor
    }

    /// Returns the address of the client's SOCKS port, for [`connect`].
    pub fn socks(&self) -> &str {
        &self.socks
    }

    /// Sends `GET /` to port 80 of an onion address. Fetches with different `isolation` values
    /// share no circuit, so each picks its own introduction point.
    pub async fn fetch(&self, onion: &str, isolation: &str) -> Result<String> {
        fetch(&self.socks, onion, isolation).await
    }

    /// Makes the client drop its descriptor of an onion address, so that the next fetch must get
    /// the descriptor from an HSDir.
    pub async fn forget(&self, onion: &str) -> Result<()> {
        let control = async || Control::open(&self.tor.control_socket(), &self.tor.cookie()).await;
        ensure!(control().await?.command("SIGNAL NEWNYM").await?, "tor rejected NEWNYM");
        let cached = format!("GETINFO hs/client/desc/id/{}", onion.trim_end_matches(".onion"));
        until("the client has dropped the descriptor", Duration::from_secs(30), async || {
            let is_there = control().await?.command(&cached).await?;
            Ok(if is_there { Seen::not_yet("it is still in the cache") } else { Seen::Yes(()) })
        })
        .await
    }

    /// Opens a stream to a port of an onion address. Streams with different `isolation` values
    /// share no circuit.
    pub async fn connect(&self, onion: &str, port: u16, isolation: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.socks).await?;
        socks5(&mut stream, onion, port, isolation).await?;
        Ok(stream)
    }

    /// Stops the client and removes its state.
    pub async fn remove(self) -> Result<()> {
        self.tor.remove().await
    }
}

/// Writes a client's key for an onion address to `dir` and returns the torrc line that makes a
/// client use it.
pub fn key_line(dir: &Path, key: &ClientSecretKey, onion: &str) -> Result<String> {
    make_private_dir(dir)?;
    fs::write(dir.join("key.auth_private"), &*key.to_auth_private(&onion.parse()?))?;
    Ok(format!("ClientOnionAuthDir {}\n", dir.display()))
}

/// Sends `GET /` to port 80 of an onion address through a SOCKS port that isolates streams by user
/// name.
pub(crate) async fn fetch(socks: &str, onion: &str, isolation: &str) -> Result<String> {
    const LIMIT: Duration = Duration::from_secs(60);
    let fetch = async {
        let mut stream = connect(socks, onion, isolation).await?;
        get(&mut stream, onion, "/").await
    };
    timeout(LIMIT, fetch).await.with_context(|| format!("no answer within {} s", LIMIT.as_secs()))?
}

/// Opens a stream to port 80 of an onion address through a SOCKS port that isolates streams by user
/// name.
pub async fn connect(socks: &str, onion: &str, isolation: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(socks).await?;
    socks5(&mut stream, onion, 80, isolation).await?;
    Ok(stream)
}

/// Performs the SOCKS 5 handshake (RFC 1928) with a user name (RFC 1929). tor isolates streams by
/// this user name.
async fn socks5(stream: &mut TcpStream, host: &str, port: u16, user: &str) -> Result<()> {
    let one_byte_long = |text: &str| -> Result<Vec<u8>> {
        let mut bytes = vec![u8::try_from(text.len()).context("SOCKS allows at most 255 bytes")?];
        bytes.extend(text.as_bytes());
        Ok(bytes)
    };
    stream.write_all(&[5, 1, 2]).await?;
    ensure!(read_array(stream).await? == [5, 2], "the SOCKS port does not accept user names");
    stream.write_all(&[&[1], &*one_byte_long(user)?, &*one_byte_long("x")?].concat()).await?;
    ensure!(read_array(stream).await? == [1, 0], "the SOCKS port refused the user name");
    stream.write_all(&[&[5, 1, 0, 3], &*one_byte_long(host)?, &port.to_be_bytes()].concat()).await?;
    let [_, code, _, kind]: [u8; 4] = read_array(stream).await?;
    match code {
        0 => {}
        1..=8 => bail!("SOCKS error {code}"),
        0xf0 => bail!("the onion service's descriptor was not found"),
        0xf2 => bail!("introduction failed"),
        0xf3 => bail!("rendezvous failed"),
        0xf4 => bail!("the onion service requires a client key"),
        0xf5 => bail!("the onion service does not know this client's key"),
        0xf6 => bail!("not a valid onion address"),
        0xf7 => bail!("introduction timed out"),
        other => bail!("SOCKS error {other:#x}"),
    }
    match kind {
        1 => drop::<[u8; 6]>(read_array(stream).await?),
        4 => drop::<[u8; 18]>(read_array(stream).await?),
        other => bail!("the SOCKS port answered with an address of type {other}"),
    }
    Ok(())
}

async fn read_array<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Sends an HTTP/1.0 request and returns the response body. Any status except 200 is an error.
pub async fn get(stream: &mut TcpStream, host: &str, path: &str) -> Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not an HTTP response: {answer:?}"))?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the web server answered {status:?}");
    Ok(body.to_owned())
}
