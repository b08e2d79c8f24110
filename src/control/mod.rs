//! Tor's control protocol (control-spec): a pure codec, and a client over any `AsyncRead + AsyncWrite`.
//!
//! ```text
//! reconnect   keeps a connection up, hands out each new one
//! connect     unix socket, cookie → a Client
//! client      the handle: one method per command
//! connection  the task that owns the stream: replies to those who wait, events to their reader, deadlines
//! event       typed events                   (pure)
//! codec       lines → replies and events     (pure)
//! text        arguments, quoting, data       (pure)
//! ```

pub mod client;
pub mod codec;
pub mod connect;
mod connection;
pub mod error;
pub mod event;
pub mod reconnect;
pub mod text;

pub use client::Client;
pub use connect::{COMMAND_TIMEOUT, Connector};
pub use error::ControlError;
pub use event::{Event, HsDescAction, HsDescEvent, bootstrap_percent};
pub use reconnect::{Backoff, Update, supervise};
