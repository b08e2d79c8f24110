//! Lets tors use the processor for a small part of the time only, so that a few of them together
//! need less than this machine has.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::process::Processes;

/// The times for which a tor may run and must pause.
const RUN: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(190);

/// Tors that are stopped and continued in turn.
#[derive(Debug)]
pub struct Throttle {
    processes: Processes,
    tors: Vec<String>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Throttle {
    /// Throttles these tors until [`Self::end`].
    pub fn start(processes: &Processes, tors: Vec<String>) -> Self {
        let tasks = tors.iter().map(|tor| tokio::spawn(throttle(processes.clone(), tor.clone()))).collect();
        Self { processes: processes.clone(), tors, tasks }
    }

    /// Lets the tors run again.
    pub fn end(self) -> Result<()> {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.tors.iter().try_for_each(|tor| self.processes.signal(tor, Signal::CONT))
    }
}

async fn throttle(processes: Processes, tor: String) -> Result<()> {
    loop {
        processes.signal(&tor, Signal::STOP)?;
        sleep(PAUSE).await;
        processes.signal(&tor, Signal::CONT)?;
        sleep(RUN).await;
    }
}
