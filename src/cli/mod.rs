//! The command lines of the two programs.
//!
//! `onionbalance-operator` is the program in the images: the operator, the publisher, the agent and
//! the stand-alone daemon. `kubectl-onionbalance` has the commands for people. `tests/layers.rs`
//! keeps the code behind these commands out of the program in the images.

mod crd_command;
mod exit;
pub mod kubectl_onionbalance;
pub mod onionbalance_operator;
