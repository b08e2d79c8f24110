//! What the benchmarks have in common: inputs, and Python Onionbalance as a process that measures itself.

pub mod daemons;
pub mod descriptor;
pub mod forwarder;
pub mod memory;
pub mod network;
pub mod plane;
pub mod publisher;
pub mod python;
pub mod replay;
pub mod rounds;
pub mod scale;
