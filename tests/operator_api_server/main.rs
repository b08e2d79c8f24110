//! Tests of the operator against a real API server and etcd, with exactly the permissions that
//! `deploy/` grants. No Kubernetes controllers run; the tests make the writes that the Deployment
//! controller, the garbage collector and the publisher would make.
//!
//! The tests in `crd_server` check the CRD on a current API server for custom resources.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a panic reports the failure of a test")]
#![allow(clippy::needless_pass_by_value, reason = "json! creates owned values")]

mod admission_policy;
mod bad_parts;
mod children;
mod crd_server;
mod delegated;
mod doctor_command;
mod events;
mod explain;
mod fields;
mod gitops;
mod guards;
mod keys;
mod leader;
mod lease;
mod needles;
mod permissions;
mod policy;
mod program;
mod recipes;
mod refusals;
mod refused_objects;
mod restored;
mod restricted;
mod roles;
mod scene;
mod secrecy;
mod server;
mod shared_guards;
mod status;
mod status_command;
mod table;
mod targets;
mod user_ids;
mod variants;
mod wait;
mod webhook;
