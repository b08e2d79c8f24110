//! Protection of a process against inspection by other processes of the same user.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Hides this process's memory, environment and files (`/proc/<pid>/mem`, `environ`, `root`, `fd`,
/// …) from other processes of the same user, and disables core dumps. Tor runs next to the agent
/// with the same user ID and can see its process ID. An error says what could not be done.
pub fn hide() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("could not hide the process's memory from other processes: {error}"))
    })
}
