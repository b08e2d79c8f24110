//! The foundation of the end-to-end tests and the demo: a one-node Kubernetes cluster, a private
//! Tor network and real Tor clients.
//!
//! The node is a set of namespaces (network, mounts, process ids, host name) on this machine. One
//! process holds them. When that process ends, the kernel removes everything in them, including the
//! bridge, the firewall rules and the mounts. All files are written to one folder,
//! [`state::State`].

pub mod agent;
pub mod articlient;
pub mod bringup;
pub mod chance;
pub mod chaos;
pub mod cluster;
pub mod command;
pub mod dashboard;
pub mod demo;
pub mod descriptor;
pub mod dns;
pub mod fetch_table;
pub mod fetches;
pub mod flood;
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
pub mod user_cluster;
pub mod wait;
