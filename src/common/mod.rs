//! What the programs share: the log, hiding from others of the same user, HTTP servers for probes and metrics, the text of metrics, files that hold secrets,
//! the directories that tor wants and its metrics, the election of a leader, and troubles that are logged once.

pub mod complaint;
pub mod election;
pub mod exposition;
pub mod hidden;
pub mod http;
pub mod log;
pub mod secret_file;
pub mod tor_directories;
pub mod tor_metrics;
