//! What the end-to-end tests and the demo stand on: a one-node Kubernetes, a private Tor network, real Tor clients.
//!
//! The node is a set of namespaces (network, mounts, process ids, host name) of this machine, held by one process: everything
//! in it, with its bridge, firewall rules and mounts, goes when that process ends. Everything that is written stands in one
//! folder, [`state::State`].

pub mod agent;
pub mod articlient;
pub mod bringup;
pub mod chaos;
pub mod cluster;
pub mod command;
pub mod dashboard;
pub mod demo;
pub mod descriptor;
pub mod dns;
pub mod fetches;
pub mod helm;
pub mod images;
pub mod install;
pub mod kubectl;
pub mod machine;
pub mod node;
pub mod onionkey;
pub mod page;
pub mod process;
pub mod prometheus;
pub mod service;
pub mod spread;
pub mod state;
pub mod steps;
pub mod torclient;
pub mod torcontrol;
pub mod tornet;
pub mod wait;
