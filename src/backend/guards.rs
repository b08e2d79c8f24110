//! The shared entry guards: before tor's first start, `init` writes them into tor's state file.
//! Later, the agent reports the guards of its tor to the publisher.

use std::convert::Infallible;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::common::complaint::Complaint;
use crate::common::tor_gate::Gate;
use crate::common::tor_state;
use crate::link::{AgentToken, GuardReport, GuardSample, MAC_ENTRY, SAMPLE_ENTRY, guards_of_data};

/// The interval at which the agent reads tor's state file. Tor writes a change of its guards within
/// 30 s.
const INTERVAL: Duration = Duration::from_secs(10);

/// The guard of one pod, if the pods spread over several of the shared guards.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// The number of guards over which the pods spread.
    pub guards_in_use: usize,
    /// The UID of this pod.
    pub pod_uid: String,
}

impl Turn {
    /// Lets tor start with the shared guards that a publisher sends, if it still waits at the gate.
    pub fn offer(&self, gate: &Gate, lines: &str) {
        if !gate.is_closed() {
            return;
        }
        match GuardSample::parse(lines) {
            Ok(sample) => gate.offer(&self.of(&sample).to_string()),
            Err(error) => {
                tracing::warn!(%error, "could not use the shared guards, so tor chooses its own");
                gate.open();
            }
        }
    }

    fn of(&self, shared: &GuardSample) -> GuardSample {
        shared.spread(self.guards_in_use, &self.pod_uid)
    }
}

/// Writes the shared guards into the state file of a tor that has never run. If there are no usable
/// shared guards, tor draws its own, as it would without the operator. The log then says why.
pub fn adopt(guards_dir: &Path, token_file: &Path, data_dir: &Path, turn: &Turn) {
    match try_adopt(guards_dir, token_file, data_dir, turn) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "tor starts with the shared guards"),
        Err(error) => tracing::warn!(error, "could not use the shared guards, so tor chooses its own"),
    }
}

/// Returns the number of guards that were written. It is 0 if tor has run before or there are no
/// shared guards yet.
fn try_adopt(guards_dir: &Path, token_file: &Path, data_dir: &Path, turn: &Turn) -> Result<usize, String> {
    let entry = |name: &str| tor_state::read_optional(&guards_dir.join(name)).map_err(|error| error.to_string());
    let (lines, mac) = (entry(SAMPLE_ENTRY)?, entry(MAC_ENTRY)?);
    if lines.is_none() && mac.is_none() {
        return Ok(0);
    }
    let with_path = |error: &dyn Display| format!("{}: {error}", token_file.display());
    let token = std::fs::read(token_file).map(zeroize::Zeroizing::new).map_err(|error| with_path(&error))?;
    let token = AgentToken::from_hex(&token).map_err(|error| with_path(&error))?;
    let sample = guards_of_data(lines.as_deref(), mac.as_deref(), &token).map_err(|error| error.to_string())?;
    if sample.is_empty() {
        return Ok(0);
    }
    let is_new = tor_state::write_first(data_dir, &turn.of(&sample).to_string()).map_err(|error| error.to_string())?;
    Ok(if is_new { sample.guards().len() } else { 0 })
}

/// The task that keeps track of the guards of the agent's tor.
#[derive(Debug)]
pub struct GuardReporter {
    data_dir: PathBuf,
    report: watch::Sender<Option<GuardReport>>,
    complaint: Complaint,
}

impl GuardReporter {
    /// Creates the task for the tor with this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), report: watch::Sender::new(None), complaint: Complaint::default() }
    }

    /// Returns a receiver that yields the newest report. There is none until tor has guards.
    pub fn watch(&self) -> watch::Receiver<Option<GuardReport>> {
        self.report.subscribe()
    }

    /// Reads tor's state file forever.
    pub async fn run(mut self) -> Infallible {
        loop {
            match self.read() {
                Ok(sample) => {
                    self.complaint.settle();
                    let report = (!sample.is_empty()).then(|| GuardReport::new(&sample));
                    self.report.send_if_modified(|known| {
                        let changed = *known != report;
                        *known = report;
                        changed
                    });
                }
                Err(error) => self.complaint.utter("could not read the guards of tor", &error),
            }
            sleep(INTERVAL).await;
        }
    }

    fn read(&self) -> Result<GuardSample, String> {
        let lines = tor_state::guard_lines(&self.data_dir).map_err(|error| error.to_string())?;
        GuardSample::parse(&lines).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::tor_gate;
    use crate::link::{Guard, guards_to_data};

    /// The directories of a pod, with the mounted Secret of the guards.
    struct Pod {
        dir: tempfile::TempDir,
    }

    impl Pod {
        fn new(digit: u8) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["guards", "data"] {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
            std::fs::write(dir.path().join("token"), [digit; 64]).unwrap();
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn mount(&self, sample: &GuardSample, digit: u8) {
            let token = AgentToken::from_hex(&[digit; 64]).unwrap();
            for (name, content) in guards_to_data(sample, &token) {
                std::fs::write(self.path("guards").join(name), content).unwrap();
            }
        }

        fn adopted(&self) -> String {
            self.adopted_by(&Turn::default())
        }

        fn adopted_by(&self, turn: &Turn) -> String {
            adopt(&self.path("guards"), &self.path("token"), &self.path("data"), turn);
            tor_state::guard_lines(&self.path("data")).unwrap()
        }
    }

    fn guard(number: u8) -> Guard {
        Guard {
            identity: [number; 20],
            nickname: "seven".to_owned(),
            sampled_on: 1_790_000_000,
            sampled_by: "0.4.9.11".to_owned(),
            unlisted_since: None,
            confirmed_on: None,
        }
    }

    fn sample() -> GuardSample {
        GuardSample::new(vec![guard(7)]).unwrap()
    }

    /// Returns the turn of a pod that prefers the second of three guards.
    fn second_of_three(shared: &GuardSample) -> Turn {
        let turns = (0..).map(|number| Turn { guards_in_use: 3, pod_uid: format!("pod {number}") });
        turns.into_iter().find(|turn| turn.of(shared).guards()[0] == shared.guards()[1]).unwrap()
    }

    #[tokio::test]
    async fn a_pod_tries_its_own_one_of_the_guards_in_use_first() {
        let shared = GuardSample::new((1..=5).map(guard).collect()).unwrap();
        let turn = second_of_three(&shared);
        let pod = Pod::new(b'7');
        pod.mount(&shared, b'7');
        let order = |lines: &str| {
            let sample = GuardSample::parse(lines).unwrap();
            sample.guards().iter().map(|guard| guard.identity[0]).collect::<Vec<_>>()
        };
        assert_eq!(order(&pod.adopted_by(&turn)), [2, 3, 1, 4, 5]);

        // A pod that waits for the first guards gets them from a publisher.
        let (pod, run_dir) = (Pod::new(b'7'), tempfile::tempdir().unwrap());
        tor_gate::close(run_dir.path(), &pod.path("guards"), &pod.path("data")).unwrap();
        let gate = Gate::new(run_dir.path(), &pod.path("data")).unwrap();
        assert!(gate.is_closed());
        turn.offer(&gate, &shared.to_string());
        turn.offer(&gate, "anything");
        assert!(!gate.is_closed());
        assert_eq!(order(&tor_state::guard_lines(&pod.path("data")).unwrap()), [2, 3, 1, 4, 5]);
    }

    #[tokio::test]
    async fn damaged_guards_do_not_keep_tor_from_starting() {
        let (pod, run_dir) = (Pod::new(b'7'), tempfile::tempdir().unwrap());
        tor_gate::close(run_dir.path(), &pod.path("guards"), &pod.path("data")).unwrap();
        let gate = Gate::new(run_dir.path(), &pod.path("data")).unwrap();
        Turn::default().offer(&gate, "Guard in=default\n");
        assert!(!gate.is_closed() && !tor_state::exists(&pod.path("data")).unwrap());
    }

    #[test]
    fn a_new_tor_starts_with_the_shared_guards() {
        let pod = Pod::new(b'7');
        pod.mount(&sample(), b'7');
        assert_eq!(pod.adopted(), sample().to_string());
    }

    #[test]
    fn a_tor_that_has_run_keeps_its_guards() {
        let pod = Pod::new(b'7');
        std::fs::write(pod.path("data/state"), "TorVersion Tor 0.4.9.11\n").unwrap();
        pod.mount(&sample(), b'7');
        assert_eq!(pod.adopted(), "");
    }

    #[test]
    fn without_usable_shared_guards_tor_has_no_state_and_chooses_its_own() {
        let pod = Pod::new(b'7');
        assert_eq!(pod.adopted(), "", "there are no shared guards yet");
        pod.mount(&sample(), b'8');
        assert_eq!(pod.adopted(), "", "the guards of another service");
        std::fs::write(pod.path("guards/guards"), [0xff; 3000]).unwrap();
        assert_eq!(pod.adopted(), "", "a damaged Secret");
        std::fs::remove_file(pod.path("token")).unwrap();
        assert_eq!(pod.adopted(), "", "without a token nothing can be checked");
        assert!(!pod.path("data/state").exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_tors_guards_is_reported() {
        let pod = Pod::new(b'7');
        let reporter = GuardReporter::new(&pod.path("data"));
        let mut reports = reporter.watch();
        tokio::spawn(reporter.run());
        sleep(INTERVAL).await;
        assert_eq!(*reports.borrow_and_update(), None);
        std::fs::write(pod.path("data/state"), format!("{}TorVersion Tor 0.4.9.11\n", sample())).unwrap();
        reports.changed().await.unwrap();
        assert_eq!(reports.borrow().as_ref().unwrap().lines, sample().to_string());
    }
}
