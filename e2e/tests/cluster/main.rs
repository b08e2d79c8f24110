//! Tests the whole path on a real cluster and a real, private Tor network. `make test-e2e` runs
//! them.

mod chaos;
mod children;
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
