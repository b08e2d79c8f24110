//! Tests of the plan. Each test changes a healthy service and checks the steps, the conclusion or
//! the status.

mod accepted;
mod adoption;
mod clients;
mod conditions;
mod faults;
mod fuzzed;
mod key;
mod names;
mod rejected;
mod scaling;
mod steps;
pub mod support;
mod targets;
