//! The memory use and the processor time of a process.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The resident memory of a process in MiB.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// The current resident memory (`VmRSS`).
    pub now: f64,
    /// The peak resident memory (`VmHWM`).
    pub most: f64,
}

/// Reads the resident memory of a process from `/proc`.
pub fn resident(pid: u32) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let mib = |name: &str| -> Result<f64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("/proc/{pid}/status has no {name}"))?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    };
    Ok(Resident { now: mib("VmRSS")?, most: mib("VmHWM")? })
}

/// Returns the processor time that a process has used so far, in steps of 10 ms.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // `utime` and `stime`, in ticks of 10 ms, come after the program's name, which may contain
    // spaces.
    let (_, fields) = stat.rsplit_once(") ").with_context(|| format!("/proc/{pid}/stat has no program name"))?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}
