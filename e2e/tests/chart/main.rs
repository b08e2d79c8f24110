//! Tests the Helm chart with real Helm and without a cluster: the objects that it renders, the
//! values that it rejects, and its equivalence with `deploy/`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "test helpers fail like tests")]
#![allow(clippy::needless_pass_by_value, reason = "json! creates owned values")]

mod copies;
mod deploy;
mod helm;
mod matrix;
mod monitoring;
mod operator_pod;
mod pages;
mod promtool;
mod readme;
mod release;
mod render;
mod runbooks;
mod tenants;
mod typed;
mod values;
