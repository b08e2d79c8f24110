//! Inputs and measurements of the benchmarks, and a wrapper that runs Python Onionbalance in a
//! process that times itself.

pub mod agent;
pub mod crowd;
pub mod daemons;
pub mod descriptor;
pub mod forwarder;
pub mod guards;
pub mod memory;
pub mod network;
pub mod plane;
pub mod publisher;
pub mod python;
#[path = "../../tests/torrc_real_tor/render.rs"]
mod render;
pub mod replay;
pub mod report;
pub mod rounds;
pub mod scale;
pub mod sizing;
pub mod strangers;
pub mod targets;
