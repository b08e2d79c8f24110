//! What operator, publisher and agent share as programs in pods: HTTP servers for probes and metrics, the text of metrics,
//! and the directories that tor wants.

pub mod exposition;
pub mod http;
pub mod tor_directories;
