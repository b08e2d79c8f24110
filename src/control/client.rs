//! A handle that sends commands over a control connection.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXUPPER;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use super::codec::Message;
use super::connection::{Connection, EVENT_CAPACITY, QueuedCommand};
use super::text::{is_argument, push_data, push_quoted};
use super::{ControlError, Event};
use crate::onion::{ClientSecretKey, OnionAddress};

/// The maximum number of commands that wait to be written.
const COMMAND_CAPACITY: usize = 32;

/// A handle to a control connection. Clones share the connection, and tor replies to commands in
/// order. The connection ends when its last handle is dropped.
#[derive(Clone)]
pub struct Client {
    commands: mpsc::Sender<QueuedCommand>,
    closed: watch::Receiver<Option<ControlError>>,
}

impl Client {
    /// Starts a connection over any unbuffered stream, without authenticating. The connection ends
    /// if tor does not reply to a command within `command_timeout`. The stream is owned by a task,
    /// so this function requires a tokio runtime.
    pub fn over<S>(stream: S, command_timeout: Duration) -> (Self, mpsc::Receiver<Event>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (commands, commands_out) = mpsc::channel(COMMAND_CAPACITY);
        let (events_in, events) = mpsc::channel(EVENT_CAPACITY);
        let (closed_in, closed) = watch::channel(None);
        tokio::spawn(Connection::new(stream, commands_out, events_in, command_timeout).run(closed_in));
        (Self { commands, closed }, events)
    }

    /// Sends GETINFO for one key and returns its value. A data reply is returned in full,
    /// dot-unstuffed and with `\n` line endings.
    pub async fn get_info(&self, key: &str) -> Result<String, ControlError> {
        let message = self.command(line("GETINFO", &[key])?).await?;
        let line = message.lines.into_iter().next().unwrap_or_default();
        match line.text.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')) {
            Some(value) => Ok(line.data.unwrap_or_else(|| value.to_owned())),
            None => Err(ControlError::Protocol(format!("the reply to GETINFO has no value for {key}"))),
        }
    }

    /// Sends GETCONF for one option and returns all its values. An option that is not set has its
    /// default value, or no value if it has no default. This method does not work for
    /// `HiddenServiceOptions`, because tor's reply lists other option names.
    pub async fn get_conf(&self, option: &str) -> Result<Vec<String>, ControlError> {
        let message = self.command(line("GETCONF", &[option])?).await?;
        let mut values = Vec::new();
        for line in message.lines {
            let (name, value) = line.text.split_once('=').map_or((line.text.as_str(), None), |(n, v)| (n, Some(v)));
            if !name.eq_ignore_ascii_case(option) {
                return Err(ControlError::Protocol(format!("the reply to GETCONF {option} names another option")));
            }
            values.extend(value.map(str::to_owned));
        }
        Ok(values)
    }

    /// Sends SETEVENTS to subscribe to these events and no others.
    pub async fn set_events(&self, events: &[&str]) -> Result<(), ControlError> {
        self.command(line("SETEVENTS", events)?).await.map(drop)
    }

    /// Sends HSPOST, which uploads a descriptor to the HSDirs with these fingerprints. Success
    /// means that tor accepted the command; the result of each upload arrives as `HS_DESC` events.
    /// Tor replies with 552 and uploads nothing if it does not know one of the HSDirs, and with 554
    /// if the descriptor is invalid.
    pub async fn hs_post(
        &self,
        servers: &[[u8; 20]],
        address: &OnionAddress,
        descriptor: &str,
    ) -> Result<(), ControlError> {
        // Without a SERVER argument, tor would choose the HSDirs itself, for the current period.
        if servers.is_empty() {
            return Err(ControlError::Argument("no HSDir to upload to".to_owned()));
        }
        let mut arguments: Vec<_> =
            servers.iter().map(|server| format!("SERVER={}", HEXUPPER.encode(server))).collect();
        // Without HSADDRESS, tor 0.4.8 and 0.4.9 do not reply at all.
        arguments.push(format!("HSADDRESS={}", address.identifier()));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut bytes = line("+HSPOST", &arguments)?;
        push_data(descriptor, &mut bytes);
        self.command(bytes).await.map(drop)
    }

    /// Sends HSFETCH, which fetches a v3 descriptor from the HSDirs with these fingerprints. Tor
    /// fetches the descriptor of the time period that clients currently use. Success means that tor
    /// accepted the command; the result of each fetch arrives as an `HS_DESC` FAILED or an
    /// `HS_DESC_CONTENT` event, or is never reported. Tor replies with 552 if it does not know one
    /// of the HSDirs.
    pub async fn hs_fetch(&self, address: &OnionAddress, servers: &[[u8; 20]]) -> Result<(), ControlError> {
        let address = address.identifier();
        let servers: Vec<_> = servers.iter().map(|server| format!("SERVER={}", HEXUPPER.encode(server))).collect();
        let arguments: Vec<_> = std::iter::once(&address).chain(&servers).map(String::as_str).collect();
        self.command(line("HSFETCH", &arguments)?).await.map(drop)
    }

    /// Sends EXTENDCIRCUIT 0 and returns the id of the new circuit. Tor builds the circuit through
    /// these relays or, if there are none, through relays and an exit of its choice. Tor replies
    /// with 551 if it cannot start a circuit and with 552 if it does not know a relay.
    pub async fn build_circuit(&self, relays: &[&str]) -> Result<String, ControlError> {
        let path = relays.join(",");
        let arguments = ["0", &path];
        let arguments = if relays.is_empty() { &arguments[..1] } else { &arguments };
        let message = self.command(line("EXTENDCIRCUIT", arguments)?).await?;
        let text = message.lines.first().map_or("", |line| line.text.as_str());
        match text.strip_prefix("EXTENDED ") {
            Some(id) if is_argument(id) => Ok(id.to_owned()),
            _ => Err(ControlError::Protocol("the reply to EXTENDCIRCUIT names no circuit".to_owned())),
        }
    }

    /// Sends CLOSECIRCUIT with the `IfUnused` flag, so that a circuit in use stays open. Tor
    /// replies with 552 if the circuit no longer exists.
    pub async fn close_circuit(&self, id: &str) -> Result<(), ControlError> {
        self.command(line("CLOSECIRCUIT", &[id, "IfUnused"])?).await.map(drop)
    }

    /// Sends CLOSECIRCUIT without a flag, which closes the circuit with all its streams. Tor
    /// replies with 552 if the circuit no longer exists.
    pub async fn close_used_circuit(&self, id: &str) -> Result<(), ControlError> {
        self.command(line("CLOSECIRCUIT", &[id])?).await.map(drop)
    }

    /// Sends `ONION_CLIENT_AUTH_ADD`, which makes tor use a client key for the descriptor of an
    /// onion service. Tor keeps the key in memory, and forgets it when it ends. The key replaces an
    /// earlier one for the same address.
    pub async fn add_client_key(&self, address: &OnionAddress, key: &ClientSecretKey) -> Result<(), ControlError> {
        let (address, key) = (address.identifier(), key.to_control_key());
        self.command(line("ONION_CLIENT_AUTH_ADD", &[address.as_str(), key.as_str()])?).await.map(drop)
    }

    /// Sends SIGNAL with the name of a signal.
    pub async fn signal(&self, signal: &str) -> Result<(), ControlError> {
        self.command(line("SIGNAL", &[signal])?).await.map(drop)
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        // An error means that the task has ended, and the connection with it.
        _ = self.closed.clone().wait_for(Option::is_some).await;
    }

    /// Returns the reason why the connection ended, or None while the connection is open.
    pub fn close_reason(&self) -> Option<ControlError> {
        self.closed.borrow().clone()
    }

    /// Sends PROTOCOLINFO, which is allowed before authentication.
    pub(super) async fn protocol_info(&self) -> Result<Message, ControlError> {
        self.command(line("PROTOCOLINFO", &["1"])?).await
    }

    /// Sends AUTHENTICATE with a cookie, with the proof for a challenge, or without an argument if
    /// `proof` is empty.
    pub(super) async fn authenticate(&self, proof: &[u8]) -> Result<(), ControlError> {
        let digits = Zeroizing::new(HEXUPPER.encode(proof));
        let argument = [digits.as_str()];
        let arguments = if proof.is_empty() { [].as_slice() } else { &argument };
        self.command(line("AUTHENTICATE", arguments)?).await.map(drop)
    }

    /// Sends AUTHENTICATE with a password.
    pub(super) async fn authenticate_by_password(&self, password: &[u8]) -> Result<(), ControlError> {
        // A single allocation leaves no copy of the secret behind. In the worst case every byte is
        // escaped.
        let mut bytes = Vec::with_capacity("AUTHENTICATE \"\"\r\n".len() + 2 * password.len());
        bytes.extend_from_slice(b"AUTHENTICATE ");
        push_quoted(password, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        self.command(bytes).await.map(drop)
    }

    /// Sends AUTHCHALLENGE SAFECOOKIE with this nonce.
    pub(super) async fn auth_challenge(&self, nonce: &[u8]) -> Result<Message, ControlError> {
        self.command(line("AUTHCHALLENGE", &["SAFECOOKIE", &HEXUPPER.encode(nonce)])?).await
    }

    /// Sends a complete command and returns the reply if it reports success.
    pub(super) async fn command(&self, bytes: Vec<u8>) -> Result<Message, ControlError> {
        let bytes = Zeroizing::new(bytes);
        let (answer, reply) = oneshot::channel();
        self.commands.send(QueuedCommand { bytes, answer }).await.map_err(|_| ControlError::Closed)?;
        let message = reply.await.map_err(|_| ControlError::Closed)??;
        match message.code {
            200..=299 => Ok(message),
            code @ 400..=599 => {
                let texts: Vec<_> = message.lines.into_iter().map(|line| line.text).collect();
                Err(ControlError::Refused { code, message: texts.join("; ") })
            }
            code => Err(ControlError::Protocol(format!("tor replied with the unexpected status {code}"))),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("close_reason", &self.close_reason()).finish_non_exhaustive()
    }
}

/// Formats the line of a command. The line is a single allocation, so that a secret among the
/// arguments leaves no copy behind.
pub(super) fn line(command: &str, arguments: &[&str]) -> Result<Vec<u8>, ControlError> {
    let length: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    let mut line = Vec::with_capacity(command.len() + length + 2);
    line.extend_from_slice(command.as_bytes());
    for argument in arguments {
        if !is_argument(argument) {
            return Err(ControlError::Argument((*argument).to_owned()));
        }
        line.push(b' ');
        line.extend_from_slice(argument.as_bytes());
    }
    line.extend_from_slice(b"\r\n");
    Ok(line)
}

#[cfg(test)]
mod tests;
