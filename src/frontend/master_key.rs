//! The mounted master key, which is waited for: who writes the Secret may mend it while the pod runs.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::clock::Clock;
use super::http::Health;
use crate::common::complaint::Complaint;
use crate::onion::{MasterKey, OnionAddress};

/// The pause between two readings; far below what the liveness probe takes for a hang.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads the key (tor's `hs_ed25519_secret_key`) until it is valid, and that of the address where one is expected. Meanwhile the log
/// and the readiness probe say what is wrong with it.
pub(super) async fn wait_for(
    directory: &Path,
    expected: Option<OnionAddress>,
    health: &watch::Sender<Health>,
    clock: Clock,
) -> MasterKey {
    const PROBLEM: &str = "the master key is of no use";
    let mut complaint = Complaint::default();
    loop {
        let read = read(directory, expected);
        let problem = read.as_ref().err().map(|reason| format!("{PROBLEM}: {reason}"));
        health.send_replace(Health { turned: clock.now().elapsed, problem, ..Health::default() });
        match read {
            Ok(key) => return key,
            Err(reason) => complaint.utter(PROBLEM, &reason),
        }
        sleep(PAUSE).await;
    }
}

fn read(directory: &Path, expected: Option<OnionAddress>) -> Result<MasterKey, String> {
    let path = directory.join("hs_ed25519_secret_key");
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let key = MasterKey::from_tor_secret_key_file(&Zeroizing::new(bytes)).map_err(|error| error.to_string())?;
    match expected {
        Some(expected) if expected != key.address() => {
            Err(format!("it is the key of {}, and this service's address is {expected}", key.address()))
        }
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_missing_key_then_a_bad_one_then_anothers_then_the_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hs_ed25519_secret_key");
        let [good, others] = [1, 2].map(|seed| MasterKey::generate(&mut StdRng::from_seed([seed; 32])));
        let (health, mut probes) = watch::channel(Health::default());

        let mend = async {
            probes.changed().await.unwrap();
            let missing = format!("the master key is of no use: {}: No such file", file.display());
            assert!(probes.borrow_and_update().ready().unwrap_err().starts_with(&missing));
            std::fs::write(&file, b"key").unwrap();

            probes.changed().await.unwrap();
            let bad = "the master key is of no use: hs_ed25519_secret_key must have 96 bytes but has 3";
            assert_eq!(probes.borrow_and_update().ready(), Err(bad));
            std::fs::write(&file, others.to_tor_secret_key_file()).unwrap();

            probes.changed().await.unwrap();
            let others = format!("the master key is of no use: it is the key of {}, and this", others.address());
            assert!(probes.borrow_and_update().ready().unwrap_err().starts_with(&others));
            std::fs::write(&file, good.to_tor_secret_key_file()).unwrap();
        };
        let (expected, clock) = (Some(good.address()), Clock::start());
        let (key, ()) = tokio::join!(wait_for(directory.path(), expected, &health, clock), mend);
        assert!(key == good);
        assert_eq!(probes.borrow().problem, None);
    }
}
