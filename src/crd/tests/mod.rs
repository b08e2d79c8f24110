//! Test data that several test modules share.

pub mod refused;
