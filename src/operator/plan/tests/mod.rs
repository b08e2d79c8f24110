//! Tests of the plan. Each test changes a healthy service and checks the steps, the conclusion or
//! the status.

mod clients;
mod conditions;
mod fuzzed;
mod key;
mod steps;
pub mod support;
mod targets;
