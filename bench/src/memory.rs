//! What a process takes: memory, and time of the processors.

use std::fs;
use std::time::Duration;

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

/// The processors' time that it has taken so far, to hundredths of a second.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // After the program's name, which may itself hold blanks: `utime` and `stime`, in ticks of 10 ms.
    let (_, fields) = stat.rsplit_once(") ").context("the kernel tells its name")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}
