//! Benchmark inputs and measurements, including Python Onionbalance as a process that times itself.

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
