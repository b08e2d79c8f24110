//! Benchmark inputs and measurements, and a wrapper for Python Onionbalance, which runs in a
//! process that times itself.

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
