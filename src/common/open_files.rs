//! The limit on open files, and how the parts of a program share it.
//!
//! A connection from a stranger takes an open file, and so does a stream of the forwarder. Each
//! kind has a share of its own, so that connections of one kind cannot use up the files of another.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The largest number of connections to one HTTP listener. The kubelet, Prometheus and the
/// publishers together need about ten.
const MAX_CONNECTIONS: u64 = 64;
/// The smallest number of connections to one HTTP listener, however low the limit is.
const MIN_CONNECTIONS: u64 = 8;
/// The largest number of concurrent streams, however high the limit is.
const MAX_STREAMS: u64 = 16_384;
/// The number of HTTP listeners of an agent: the API, the probes and the metrics.
const LISTENERS: u64 = 3;
/// The number of open files reserved for other purposes: listening sockets, connections to tor and
/// to the API server, and name lookups.
const OTHER_FILES: u64 = 128;

/// The shares of the limit on open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// The maximum number of connections to one HTTP listener. A connection takes one open file.
    pub connections: usize,
    /// The maximum number of concurrent streams of the forwarder. A stream takes two open files.
    pub streams: usize,
}

impl Shares {
    /// Returns the shares of this process's present limit.
    pub fn of_this_process() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(files: u64) -> Self {
        let connections = (files / 16).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        let streams = files.saturating_sub(OTHER_FILES + LISTENERS * connections) / 2;
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self { connections: number(connections), streams: number(streams.clamp(1, MAX_STREAMS)) }
    }
}

/// Raises the soft limit on open files to the hard limit. Container runtimes often start a program
/// with a soft limit of 1024.
pub fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "could not raise the limit on open files; fewer connections are possible");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
        let Shares { connections, streams } = Shares::of_this_process();
        assert!(connections >= 8 && (1..=16_384).contains(&streams), "{connections} {streams}");
    }

    #[test]
    fn each_share_is_reserved() {
        let shares = |files| (Shares::of(files).connections, Shares::of(files).streams);
        assert_eq!(shares(1024), (64, 352));
        assert_eq!(shares(400), (25, 98));
        assert_eq!(shares(1_048_576), (64, 16_384));
        assert_eq!(shares(u64::MAX), (64, 16_384));
        assert_eq!(shares(0), (8, 1));
        for files in 256..5000 {
            let (connections, streams) = shares(files);
            let used = 3 * connections + 2 * streams;
            assert!(used + 64 <= usize::try_from(files).unwrap(), "{used} of {files}");
        }
    }
}
