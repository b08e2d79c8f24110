//! Reads the mounted master key or signing kits and waits until they are valid, because the Secret
//! can be repaired while the pod is running.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::clock::Clock;
use super::http::Health;
use super::kits;
use crate::common::complaint::Complaint;
use crate::onion::{MasterKey, OnionAddress, ServiceKey};

/// The pause between two attempts to read the key. It is far shorter than the time after which the
/// liveness probe considers the publisher stuck.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads the key (tor's `hs_ed25519_secret_key`, or signing kits if there is no such file)
/// repeatedly until it is valid and, if an address is expected, belongs to that address. Until
/// then, the log and the readiness probe report the problem.
pub(super) async fn wait_for(
    directory: &Path,
    expected: Option<OnionAddress>,
    health: &watch::Sender<Health>,
    clock: Clock,
) -> ServiceKey {
    const PROBLEM: &str = "the master key cannot be used";
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

/// Reads the key once. If an address is expected, the key must belong to that address.
pub(super) fn read(directory: &Path, expected: Option<OnionAddress>) -> Result<ServiceKey, String> {
    let path = directory.join("hs_ed25519_secret_key");
    let kits = kits::list(directory);
    let key = if kits.is_empty() || path.exists() {
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let key = MasterKey::from_tor_secret_key_file(&Zeroizing::new(bytes)).map_err(|error| error.to_string())?;
        ServiceKey::from(key)
    } else {
        kits::read(&kits, expected)?.into()
    };
    match expected {
        Some(expected) if expected != key.address() => Err(format!(
            "the key belongs to {}, but the address of the service is {expected}; restore the key of that address",
            key.address()
        )),
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_while_the_key_is_missing_malformed_or_of_another_service() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hs_ed25519_secret_key");
        let [good, others] = [1, 2].map(|seed| MasterKey::generate(&mut StdRng::from_seed([seed; 32])));
        let (health, mut probes) = watch::channel(Health::default());

        let mend = async {
            probes.changed().await.unwrap();
            let missing = format!("the master key cannot be used: {}: No such file", file.display());
            assert!(probes.borrow_and_update().ready().unwrap_err().starts_with(&missing));
            std::fs::write(&file, b"key").unwrap();

            probes.changed().await.unwrap();
            let bad = "the master key cannot be used: hs_ed25519_secret_key must be 96 bytes long but is 3 bytes long";
            assert_eq!(probes.borrow_and_update().ready(), Err(bad));
            std::fs::write(&file, others.to_tor_secret_key_file()).unwrap();

            probes.changed().await.unwrap();
            let others = format!("the master key cannot be used: the key belongs to {}, but", others.address());
            assert!(probes.borrow_and_update().ready().unwrap_err().starts_with(&others));
            std::fs::write(&file, good.to_tor_secret_key_file()).unwrap();
        };
        let (expected, clock) = (Some(good.address()), Clock::start());
        let (key, ()) = tokio::join!(wait_for(directory.path(), expected, &health, clock), mend);
        assert_eq!(key.address(), good.address());
        assert_eq!(probes.borrow().problem, None);
    }
}
