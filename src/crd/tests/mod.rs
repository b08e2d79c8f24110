//! Test data shared by several test modules.

pub mod refused;
