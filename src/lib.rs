//! Load-balanced Tor onion services on Kubernetes.
//!
//! One `.onion` address (v3) is served by many Tor backends: a publisher merges the backends' introduction points into
//! one descriptor, signs it with the master key and uploads it to the responsible HSDirs. `docs/architecture.md` tells how
//! the layers meet; an import goes down only:
//!
//! ```text
//! operator   frontend   backend   tools   status   IO: Kubernetes, HTTP, Tor's control port; the commands for people
//! crd  link  config  control  common      types, the publisher-agent protocol, the daemon's file, the control protocol,
//!                                         what the programs share
//!            merge                     pure: what to publish when, where
//!            consensus                 pure: the HSDir ring
//!            onion                     pure: keys, descriptors
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
