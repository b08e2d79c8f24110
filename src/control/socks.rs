//! A client of tor's SOCKS port (RFC 1928, RFC 1929), with tor's extended error codes (proposal
//! 304).
//!
//! The port needs the flag `ExtendedErrors`. Without the flag, tor answers every failure that
//! concerns an onion service with a general code.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The version of the SOCKS protocol.
const VERSION: u8 = 5;
/// The authentication method with a user name and a password.
const BY_PASSWORD: u8 = 2;
/// The version of the authentication by password.
const PASSWORD_VERSION: u8 = 1;
/// The command that opens a stream.
const CONNECT: u8 = 1;
/// The type of an address that is a host name.
const HOST_NAME: u8 = 3;

/// The reason why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocksError {
    /// Tor answered with an error code.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer does not speak SOCKS5, or it rejects the authentication.
    #[error("the peer sent no valid SOCKS5 answer; is this tor's SOCKS port?")]
    NotSocks,
    /// The host name, the user name or the password is empty or longer than 255 bytes.
    #[error("a field of the SOCKS request is empty or longer than 255 bytes")]
    Length,
    /// The connection to the SOCKS port failed.
    #[error("the connection to tor's SOCKS port failed: {0}")]
    Io(#[from] io::Error),
}

/// An error code in tor's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No HSDir has the descriptor (`F0`).
    #[error("tor found no descriptor")]
    DescriptorNotFound,
    /// The descriptor cannot be parsed or its signature is wrong (`F1`).
    #[error("tor rejects the descriptor as invalid")]
    DescriptorInvalid,
    /// No introduction point accepted the introduction (`F2`).
    #[error("no introduction point accepted an introduction")]
    IntroductionFailed,
    /// The service did not come to the rendezvous point (`F3`).
    #[error("the backend did not come to the rendezvous point")]
    RendezvousFailed,
    /// The descriptor is for authorized clients, and tor has no key (`F4`).
    #[error("tor has no client key for the descriptor")]
    AuthorizationMissing,
    /// The descriptor is for other authorized clients (`F5`).
    #[error("the client key does not open the descriptor")]
    AuthorizationWrong,
    /// The address is not a valid onion address (`F6`).
    #[error("tor rejects the onion address")]
    AddressInvalid,
    /// The introduction points did not answer in time (`F7`).
    #[error("no introduction point answered in time")]
    IntroductionTimedOut,
    /// The service refused the stream (`05`).
    #[error("the backend refused the stream")]
    ConnectionRefused,
    /// Another code, which does not say where the failure occurred.
    #[error("tor answered with the SOCKS code {0:#04x}")]
    Other(u8),
}

impl Refusal {
    fn of(code: u8) -> Self {
        match code {
            0xf0 => Self::DescriptorNotFound,
            0xf1 => Self::DescriptorInvalid,
            0xf2 => Self::IntroductionFailed,
            0xf3 => Self::RendezvousFailed,
            0xf4 => Self::AuthorizationMissing,
            0xf5 => Self::AuthorizationWrong,
            0xf6 => Self::AddressInvalid,
            0xf7 => Self::IntroductionTimedOut,
            0x05 => Self::ConnectionRefused,
            other => Self::Other(other),
        }
    }
}

/// Opens a stream to `host:port` through tor. `isolation` is the user name and the password: tor
/// never lets streams with different ones share a circuit. On success, the stream carries the data
/// of the connection; no byte of this data has been read.
pub async fn connect<S>(stream: &mut S, isolation: &str, host: &str, port: u16) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (login, request) = (login(isolation)?, request(host, port)?);
    stream.write_all(&[VERSION, 1, BY_PASSWORD]).await?;
    expect_answer(stream, [VERSION, BY_PASSWORD]).await?;
    stream.write_all(&login).await?;
    expect_answer(stream, [PASSWORD_VERSION, 0]).await?;
    stream.write_all(&request).await?;
    let mut reply = Vec::new();
    loop {
        let missing = missing(&reply)?;
        if missing == 0 {
            return parse_reply(&reply)?.unwrap_or(Err(Refusal::Other(0))).map_err(SocksError::from);
        }
        let start = reply.len();
        reply.resize(start + missing, 0);
        stream.read_exact(&mut reply[start..]).await?;
    }
}

/// Parses tor's reply to a request. Returns None while bytes are missing, and otherwise whether the
/// stream is open. Fails if the bytes are not a reply or if bytes follow the reply.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<Result<(), Refusal>>, SocksError> {
    if missing(bytes)? > 0 {
        return Ok(None);
    }
    match (bytes.get(1), length(bytes)?) {
        (Some(&code), length) if length == bytes.len() => {
            Ok(Some(if code == 0 { Ok(()) } else { Err(Refusal::of(code)) }))
        }
        _ => Err(SocksError::NotSocks),
    }
}

/// Returns the number of bytes that certainly follow the beginning of a reply. The result is 0 if
/// the reply is complete.
fn missing(bytes: &[u8]) -> Result<usize, SocksError> {
    Ok(length(bytes)?.saturating_sub(bytes.len()))
}

/// Returns the length of a reply, as far as its beginning shows the length: the version, the code,
/// a reserved byte, the type of the bound address, the address, and the port.
fn length(bytes: &[u8]) -> Result<usize, SocksError> {
    if bytes.first().is_some_and(|version| *version != VERSION) {
        return Err(SocksError::NotSocks);
    }
    match (bytes.get(3), bytes.get(4)) {
        (None, _) => Ok(4),
        (Some(1), _) => Ok(10),
        (Some(4), _) => Ok(22),
        (Some(&HOST_NAME), None) => Ok(5),
        (Some(&HOST_NAME), Some(name)) => Ok(7 + usize::from(*name)),
        (Some(_), _) => Err(SocksError::NotSocks),
    }
}

async fn expect_answer<S: AsyncRead + Unpin>(stream: &mut S, answer: [u8; 2]) -> Result<(), SocksError> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes).await?;
    if bytes == answer { Ok(()) } else { Err(SocksError::NotSocks) }
}

fn login(isolation: &str) -> Result<Vec<u8>, SocksError> {
    let mut bytes = vec![PASSWORD_VERSION];
    // The user name, and the password.
    push_text(isolation, &mut bytes)?;
    push_text(isolation, &mut bytes)?;
    Ok(bytes)
}

fn request(host: &str, port: u16) -> Result<Vec<u8>, SocksError> {
    let mut bytes = vec![VERSION, CONNECT, 0, HOST_NAME];
    push_text(host, &mut bytes)?;
    bytes.extend(port.to_be_bytes());
    Ok(bytes)
}

/// Appends a text after a byte with the text's length.
fn push_text(text: &str, bytes: &mut Vec<u8>) -> Result<(), SocksError> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length > 0).ok_or(SocksError::Length)?;
    bytes.push(length);
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// Opens a stream through a peer that sends these bytes, and returns the result and the bytes
    /// that the peer received.
    async fn connect_to(peer: &[u8]) -> (Result<(), SocksError>, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(1024);
        theirs.write_all(peer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = connect(&mut ours, "ab", "x.onion", 80).await;
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (result, sent)
    }

    /// Returns what tor sends if it answers the request with this code.
    fn tor(code: u8) -> Vec<u8> {
        [&[5, 2, 1, 0][..], &[5, code, 0, 1, 0, 0, 0, 0, 0, 0]].concat()
    }

    #[tokio::test]
    async fn opens_a_stream() {
        let (result, sent) = connect_to(&tor(0)).await;
        assert!(result.is_ok(), "{result:?}");
        let expected = [&[5, 1, 2][..], b"\x01\x02ab\x02ab", b"\x05\x01\x00\x03\x07x.onion\x00\x50"].concat();
        assert_eq!(sent, expected);
    }

    #[tokio::test]
    async fn leaves_the_data_of_the_connection_unread() {
        let (mut ours, mut theirs) = duplex(1024);
        theirs.write_all(&[&tor(0)[..], b"hello"].concat()).await.unwrap();
        connect(&mut ours, "a", "x.onion", 22).await.unwrap();
        let mut data = [0; 5];
        ours.read_exact(&mut data).await.unwrap();
        assert_eq!(&data, b"hello");
    }

    #[tokio::test]
    async fn reports_tors_extended_errors() {
        for (code, expected) in [
            (0xf0, Refusal::DescriptorNotFound),
            (0xf1, Refusal::DescriptorInvalid),
            (0xf2, Refusal::IntroductionFailed),
            (0xf3, Refusal::RendezvousFailed),
            (0xf4, Refusal::AuthorizationMissing),
            (0xf5, Refusal::AuthorizationWrong),
            (0xf6, Refusal::AddressInvalid),
            (0xf7, Refusal::IntroductionTimedOut),
            (0x05, Refusal::ConnectionRefused),
            (0x01, Refusal::Other(1)),
        ] {
            let (result, _) = connect_to(&tor(code)).await;
            assert!(matches!(result, Err(SocksError::Refused(refusal)) if refusal == expected), "{result:?}");
        }
    }

    #[tokio::test]
    async fn rejects_a_peer_that_is_no_socks_port() {
        for peer in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[5, 0xff], &[5, 2, 1, 1], &[5, 2, 1, 0, 5, 0, 0, 9]] {
            let (result, _) = connect_to(peer).await;
            assert!(matches!(result, Err(SocksError::NotSocks)), "{result:?}");
        }
        for length in 0..14 {
            let (result, _) = connect_to(&tor(0)[..length]).await;
            assert!(matches!(result, Err(SocksError::Io(_))), "{length}: {result:?}");
        }
    }

    #[test]
    fn a_field_that_does_not_fit_is_refused() {
        for host in [String::new(), "x".repeat(256)] {
            assert!(matches!(request(&host, 80), Err(SocksError::Length)));
        }
        assert!(request(&"x".repeat(255), 80).is_ok());
    }

    proptest! {
        #[test]
        fn any_reply_is_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_reply(&bytes);
        }

        #[test]
        fn a_reply_is_complete_at_its_last_byte(code: u8, name in prop::collection::vec(any::<u8>(), 0..256)) {
            let length = u8::try_from(name.len()).unwrap();
            let reply = [&[5, code, 0, 3, length][..], &name, &[0, 80]].concat();
            let expected = if code == 0 { Ok(()) } else { Err(Refusal::of(code)) };
            prop_assert_eq!(parse_reply(&reply).unwrap(), Some(expected));
            prop_assert!(parse_reply(&reply[..reply.len() - 1]).unwrap().is_none());
            prop_assert!(parse_reply(&[&reply[..], &[0]].concat()).is_err());
        }
    }
}
