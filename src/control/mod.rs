//! Tor's control protocol (control-spec): a pure codec, and a client over any
//! `AsyncRead + AsyncWrite`.
//!
//! ```text
//! reconnect      keeps a connection open and reports each new one
//! connect        unix socket or TCP, then authentication → a Client
//! authenticate   SAFECOOKIE, COOKIE, password, or nothing
//! client         the handle, with one method per command
//! layers         the second and third hops of tor's onion service circuits
//! connection     the task that owns the stream and delivers replies and events
//! endpoint       unix:/path or host:port      (pure)
//! event          typed events                 (pure)
//! codec          lines → replies and events   (pure)
//! text           arguments, quoting, data     (pure)
//! socks          a client of tor's SOCKS port
//! ```

pub mod authenticate;
pub mod client;
pub mod codec;
pub mod connect;
mod connection;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod layers;
pub mod reconnect;
pub mod socks;
#[cfg(test)]
mod testing;
pub mod text;

pub use authenticate::{Password, PasswordError};
pub use client::Client;
pub use connect::{COMMAND_TIMEOUT, Connected, Connector};
pub use endpoint::ControlEndpoint;
pub use error::{ControlError, NoConnection};
pub use event::{Event, HsDescAction, HsDescContent, HsDescEvent, bootstrap_percent};
pub use layers::{Applied, LayerControl, Layers};
pub use reconnect::{Backoff, Update, supervise};
