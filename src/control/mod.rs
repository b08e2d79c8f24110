//! Tor's control protocol (control-spec): a pure codec, and a client over any `AsyncRead + AsyncWrite`.

pub mod client;
pub use client::{Client, ControlError, Event, HsDescAction, HsDescEvent};
