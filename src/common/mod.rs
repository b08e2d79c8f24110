//! Code shared by the programs: logging, process hiding, the limit on open files, HTTP servers, the
//! metrics text format and its histograms, secret files, tor's directories, its state file, its
//! first start and its own metrics, and leader election.

pub mod complaint;
pub mod election;
pub mod exposition;
pub mod hidden;
pub mod histogram;
pub mod http;
pub mod http_server;
pub mod log;
pub mod log_limit;
pub mod open_files;
pub mod secret_file;
pub mod tor_directories;
pub mod tor_gate;
pub mod tor_metrics;
pub mod tor_state;
