//! Load-balanced Tor onion services on Kubernetes.
//!
//! Many Tor backends serve a single v3 `.onion` address. A publisher merges the introduction points
//! of the backends into one descriptor, signs it with the master key, and uploads it to the
//! responsible HSDirs. `docs/architecture.md` describes how the layers fit together. Each layer
//! imports only from the layers below it:
//!
//! ```text
//! cli                                          the command lines of the four programs
//! operator  frontend  backend  tools  status   IO: Kubernetes, HTTP, Tor's control port; commands
//! crd  link  config  control  common           types, the publisher-agent protocol, the daemon's
//!                                              configuration, the control protocol, shared code
//!            merge                             pure: which descriptors to publish, when and where
//!            consensus                         pure: the HSDir ring
//!            onion                             pure: keys and descriptors
//! ```

pub mod backend;
pub mod cli;
pub mod common;
pub mod config;
pub mod consensus;
pub mod control;
pub mod crd;
pub mod frontend;
pub mod link;
pub mod merge;
pub mod onion;
pub mod operator;
pub mod status;
pub mod tools;
