//! Tests of the plan: a healthy service is changed, and its steps, conclusion or status are
//! checked.

mod conditions;
mod fuzzed;
mod key;
mod steps;
pub mod support;
mod targets;
