//! Tests the whole path from `kubectl apply` to the page that a client gets, on a real cluster and
//! a private Tor network. `make test-e2e` runs these tests.

mod app;
mod bad_parts;
mod children;
mod delegated;
mod external;
mod faults;
mod gitops;
mod keys;
mod pipeline;
mod prometheus;
mod refusals;
mod restricted;
mod scale;
mod scene;
mod steady;
#[path = "../private_network/target.rs"]
mod target;
