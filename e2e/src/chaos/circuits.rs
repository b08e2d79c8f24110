//! Counts the circuits to HSDirs that a tor could not complete, as its control port reports them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::torcontrol::Control;

/// The purpose of a circuit on which a service uploads its descriptor (control-spec, "CIRC").
const PURPOSE: &str = "PURPOSE=HS_SERVICE_HSDIR";

/// A task that listens to the events of one tor.
#[derive(Debug)]
pub struct FailedCircuits {
    failed: Arc<Mutex<Vec<Instant>>>,
    listening: JoinHandle<Result<()>>,
}

impl FailedCircuits {
    /// Starts to listen to the tor with this control socket.
    pub async fn watch(socket: &Path, cookie: &Path) -> Result<Self> {
        let mut control = Control::open(socket, cookie).await?;
        ensure!(control.command("SETEVENTS CIRC CIRC_MINOR").await?, "tor rejected SETEVENTS");
        let failed = Arc::<Mutex<Vec<Instant>>>::default();
        let shared = Arc::clone(&failed);
        let listening = tokio::spawn(async move {
            let mut circuits = Circuits::default();
            loop {
                if circuits.take(&control.next_event().await?) {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
            }
        });
        Ok(Self { failed, listening })
    }

    /// Returns the times at which circuits have failed. Returns an error if the tor has ended.
    pub fn times(&self) -> Result<Vec<Instant>> {
        ensure!(!self.listening.is_finished(), "a tor ended while its circuits were counted");
        Ok(self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for FailedCircuits {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The circuits of a tor that are or were meant for uploads. A circuit that takes too long changes
/// its purpose before tor reports that it failed.
#[derive(Debug, Default)]
struct Circuits {
    uploads: BTreeSet<String>,
}

impl Circuits {
    /// Processes an event. Returns true if it reports that a circuit for an upload has failed.
    fn take(&mut self, event: &str) -> bool {
        let mut words = event.split(' ');
        let (Some("CIRC" | "CIRC_MINOR"), Some(circuit), Some(status)) = (words.next(), words.next(), words.next())
        else {
            return false;
        };
        match status {
            "FAILED" => self.uploads.remove(circuit) || words.any(|word| word == PURPOSE),
            "CLOSED" => {
                self.uploads.remove(circuit);
                false
            }
            _ => {
                if words.any(|word| word == PURPOSE) {
                    self.uploads.insert(circuit.to_owned());
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuits_that_were_meant_for_uploads_and_failed_are_counted() {
        let mut circuits = Circuits::default();
        let events = [
            ("CIRC 3 LAUNCHED BUILD_FLAGS=NEED_CAPACITY PURPOSE=HS_SERVICE_HSDIR TIME_CREATED=2026", false),
            ("CIRC 3 FAILED $A~one BUILD_FLAGS=NEED_CAPACITY PURPOSE=HS_SERVICE_HSDIR REASON=DESTROYED", true),
            ("CIRC 4 LAUNCHED BUILD_FLAGS=NEED_CAPACITY PURPOSE=HS_SERVICE_INTRO", false),
            ("CIRC 4 FAILED BUILD_FLAGS=NEED_CAPACITY PURPOSE=HS_SERVICE_INTRO REASON=TIMEOUT", false),
            ("CIRC 5 BUILT $A~one PURPOSE=HS_VANGUARDS", false),
            ("CIRC_MINOR 5 PURPOSE_CHANGED $A~one PURPOSE=HS_SERVICE_HSDIR OLD_PURPOSE=HS_VANGUARDS", false),
            ("CIRC_MINOR 5 PURPOSE_CHANGED $A~one PURPOSE=MEASURE_TIMEOUT OLD_PURPOSE=HS_SERVICE_HSDIR", false),
            ("CIRC 5 FAILED $A~one PURPOSE=MEASURE_TIMEOUT REASON=TIMEOUT", true),
            ("CIRC 6 BUILT $A~one PURPOSE=HS_SERVICE_HSDIR", false),
            ("CIRC 6 CLOSED $A~one PURPOSE=HS_SERVICE_HSDIR REASON=FINISHED", false),
            ("BW 1 2", false),
        ];
        for (event, counts) in events {
            assert_eq!(circuits.take(event), counts, "{event}");
        }
    }
}
