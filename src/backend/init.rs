//! Creates the files and directories that tor needs before it starts. The agent does this at
//! startup. The command `backend init` does only this.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::CryptoRng;

use super::AgentError;
use super::paths::RunDir;
use crate::common::tor_directories;
use crate::link::AgentConfig;
use crate::onion::MasterKey;

const SECRET_KEY: &str = "hs_ed25519_secret_key";
const PUBLIC_KEY: &str = "hs_ed25519_public_key";
const OB_CONFIG: &str = "ob_config";

/// Creates the directories, the onion key and the files next to the key. An existing key is kept,
/// even if another process created it only a moment ago.
pub fn init(
    run_dir: &RunDir,
    tor_data_dir: &Path,
    config: &AgentConfig,
    rng: &mut impl CryptoRng,
) -> Result<(), AgentError> {
    let service = run_dir.onion_service();
    tor_directories::make(run_dir.path(), tor_data_dir)?;
    tor_directories::make_private(&run_dir.forward())?;
    tor_directories::make_private(&service)?;
    let key = read_or_create_key(&service.join(SECRET_KEY), rng)?;
    let address = key.address();
    write_private(&service.join(PUBLIC_KEY), &key.to_tor_public_key_file())?;
    write_private(&run_dir.hostname(), format!("{address}\n").as_bytes())?;
    let instance_of = format!("MasterOnionAddress {}\n", config.master_onion_address);
    write_private(&service.join(OB_CONFIG), instance_of.as_bytes())?;
    tracing::info!(%address, master = %config.master_onion_address, "prepared the files for tor");
    Ok(())
}

fn read_or_create_key(path: &Path, rng: &mut impl CryptoRng) -> Result<MasterKey, AgentError> {
    match fs::read(path).map(zeroize::Zeroizing::new) {
        Ok(bytes) => MasterKey::from_tor_secret_key_file(&bytes).map_err(|error| failed_to("read", path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = MasterKey::generate(rng);
            match place(path, &key.to_tor_secret_key_file(), |new| fs::hard_link(new, path)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_or_create_key(path, rng),
                placed => placed.map(|()| key).map_err(|error| failed_to("create", path, &error)),
            }
        }
        Err(error) => Err(failed_to("read", path, &error)),
    }
}

/// Writes a file with mode 0600 atomically, so that a container that is killed midway leaves no
/// partial file.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
    place(path, bytes, |new| fs::rename(new, path)).map_err(|error| failed_to("write", path, &error))
}

fn failed_to(action: &str, path: &Path, error: &dyn Display) -> AgentError {
    format!("cannot {action} {}: {error}", path.display()).into()
}

/// Writes a file with mode 0600 next to `path`, under a name that no other writer uses, and calls
/// `put` to move or link it into place.
fn place(path: &Path, bytes: &[u8], put: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let new = path.with_extension(format!("{}.{count}.new", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let placed = file.write_all(bytes).and_then(|()| put(&new));
    // After a rename the temporary file no longer exists.
    let _ = fs::remove_file(&new);
    placed
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::backend::system::rng;

    const MASTER: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

    fn config() -> AgentConfig {
        let yaml = format!(
            "masterOnionAddress: {MASTER}\nports: [{{port: 80, target: web:80}}]\n\
             introductionPoints: 3\ndrainTimeoutSeconds: 1\nlingerSeconds: 1\n"
        );
        AgentConfig::from_yaml(&yaml).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn init_creates_the_files_for_tor_and_keeps_an_existing_key() {
        let dir = tempfile::tempdir().unwrap();
        // A volume with an fsGroup has this mode.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o2777)).unwrap();
        let (run_dir, data) = (RunDir::new(dir.path().join("run")), dir.path().join("tor/data"));
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::set_permissions(dir.path().join("run"), Permissions::from_mode(0o2777)).unwrap();

        init(&run_dir, &data, &config(), &mut rng()).unwrap();
        let service = run_dir.onion_service();
        for directory in [&run_dir.path().join("control"), &run_dir.forward(), &service, &data] {
            assert_eq!(mode(directory), 0o700, "{}", directory.display());
        }
        for file in [SECRET_KEY, PUBLIC_KEY, "hostname", OB_CONFIG] {
            assert_eq!(mode(&service.join(file)), 0o600, "{file}");
        }
        assert_eq!(fs::read(dir.path().join("run/empty")).unwrap(), b"");
        assert_eq!(fs::read_to_string(service.join(OB_CONFIG)).unwrap(), format!("MasterOnionAddress {MASTER}\n"));
        let address = run_dir.read_hostname().unwrap();
        let key = fs::read(service.join(SECRET_KEY)).unwrap();
        assert_eq!(MasterKey::from_tor_secret_key_file(&key).unwrap().address(), address);

        fs::remove_file(run_dir.hostname()).unwrap();
        init(&run_dir, &data, &config(), &mut rng()).unwrap();
        assert_eq!(fs::read(service.join(SECRET_KEY)).unwrap(), key);
        assert_eq!(run_dir.read_hostname().unwrap(), address);
    }

    #[test]
    fn two_processes_that_create_the_key_at_once_use_the_same_key() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("hs")).unwrap();
            let path = &dir.path().join("hs").join(SECRET_KEY);
            let keys = std::thread::scope(|scope| {
                let makers = [(); 2].map(|()| scope.spawn(|| read_or_create_key(path, &mut rng()).unwrap().address()));
                makers.map(|maker| maker.join().unwrap())
            });
            assert_eq!(keys[0], keys[1]);
        }
    }

    #[test]
    fn an_invalid_key_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path().to_owned());
        fs::create_dir(run_dir.onion_service()).unwrap();
        let path = run_dir.onion_service().join(SECRET_KEY);
        fs::write(&path, b"something else").unwrap();
        let error = init(&run_dir, &dir.path().join("data"), &config(), &mut rng()).unwrap_err().to_string();
        assert!(error.contains(SECRET_KEY), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"something else");
    }
}
