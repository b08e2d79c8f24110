//! A process that others of its user cannot look into.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Takes this process's memory, environment and files (`/proc/<pid>/mem`, `environ`, `root`, `fd`, …) away from other processes
/// of the same user, and leaves no core dump. tor runs beside the agent with its user ID and sees its process ID.
pub fn hide() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
