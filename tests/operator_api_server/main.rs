//! The operator against a real API server and etcd, with exactly the rights that `deploy/` gives it. No controllers run
//! there: what the Deployment controller, the garbage collector and the publisher would write, the tests write.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]
#![allow(clippy::needless_pass_by_value, reason = "json! makes values")]

mod children;
mod events;
mod gitops;
mod guards;
mod keys;
mod leader;
mod lease;
mod needles;
mod program;
mod recipes;
mod refusals;
mod refused_objects;
mod restricted;
mod roles;
mod scene;
mod secrecy;
mod server;
mod status;
mod status_command;
mod targets;
mod variants;
mod wait;
