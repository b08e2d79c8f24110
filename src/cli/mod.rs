//! The command lines of the four programs.
//!
//! `onionbalance-operator` is the program in the images: the operator, the publisher, the agent and
//! the stand-alone daemon. `kubectl-onionbalance` has the commands for people. `tests/layers.rs`
//! keeps the code behind these commands out of the program in the images.
//!
//! `onionbalance` and `onionbalance-config` have the names and the command lines of Python
//! Onionbalance's programs, for servers without Kubernetes. They are in no image.

mod crd_command;
mod examples;
mod exit;
pub mod kubectl_onionbalance;
pub mod onionbalance;
pub mod onionbalance_config;
pub mod onionbalance_operator;
mod python_options;
mod version;
