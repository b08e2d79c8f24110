//! The publisher, which runs next to a stock tor.
//!
//! ```text
//! pods ──┐                 ┌─► driver ◄──► tor ◄─control socket─► HSPOST, HSFETCH
//! object ┼──► publisher ◄──┤   (the engine and the fetch schedule)
//! tor ───┤                 └─► conduct ◄──► lease
//! agents ┘        └──► status, probes, metrics
//! ```
//!
//! The loop in `publisher` passes all events to `conduct` (pure), which decides whether this
//! publisher is the leader, and to `driver`, which owns the merge engine. Each of the other parts
//! communicates with one peer: Kubernetes (`pods`, `object`, `admission`, `lease`, `status`,
//! `guards`), the agents (`agents`, `sync`) or tor (`tor`; `probe`, as a client). `cluster`
//! connects the parts in a frontend pod; `fixed` does so without Kubernetes, for tests.
//! `standalone` is the daemon for servers without Kubernetes, with a driver for each service in its
//! `config.yaml`.

mod admission;
mod agents;
mod args;
mod backends;
mod check;
mod circuits;
mod clock;
mod cluster;
// Public, because the simulation of months drives the leadership, too.
pub mod conduct;
mod directory;
mod driver;
mod external;
mod fixed;
mod guard_view;
mod guards;
mod guards_secret;
mod http;
mod kits;
mod lease;
mod master_key;
mod metrics;
mod object;
mod pause;
mod pods;
mod probe;
mod publisher;
mod standalone;
mod status;
mod sync;
mod targets;
mod tor;
mod vanguard_stage;
mod vanguards;
mod view;
mod watch_backoff;

use std::error::Error;

pub use self::args::{Args, PublisherArgs};
use self::args::{Command, Mode};
pub use self::fixed::{FixedBackend, FixedBackends, run_fixed};
pub use self::standalone::Options as StandaloneOptions;

/// The error that ended the publisher or the daemon.
pub type RunError = Box<dyn Error + Send + Sync>;

/// Runs the selected program. The publisher and the daemon run until SIGTERM or SIGINT; `init` ends
/// by itself.
pub async fn run(args: Args) -> Result<(), RunError> {
    match args.mode() {
        Mode::Command(Command::Init, paths) => Ok(paths.make()?),
        Mode::Standalone(options) => run_standalone(options).await,
        Mode::Cluster(args) => cluster::run(args).await,
    }
}

/// Runs the stand-alone daemon until SIGTERM or SIGINT.
pub async fn run_standalone(options: StandaloneOptions) -> Result<(), RunError> {
    standalone::run(options, std::env::var_os(standalone::POD_VARIABLE).as_deref()).await
}
