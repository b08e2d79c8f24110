//! What a process keeps in memory.

use std::fs;

use anyhow::{Context as _, Result};

/// A process's resident memory in MiB: now, and the most that it ever was.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// `VmRSS`
    pub now: f64,
    /// `VmHWM`
    pub most: f64,
}

/// Asks the kernel.
pub fn resident(pid: u32) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let mib = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("the kernel tells it")?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    };
    Ok(Resident { now: mib("VmRSS")?, most: mib("VmHWM")? })
}
