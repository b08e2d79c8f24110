//! Writes the files of a generated configuration.

use std::io::Write;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::common::{secret_file, tor_directories};
use crate::config;
use crate::onion::{KeyFile, MasterKey, OnionAddress, Seed};
use crate::tools::key::write_tor_directory;
use crate::tools::{Failure, generator};

/// The configuration to generate.
pub(super) struct Plan {
    pub(super) output: PathBuf,
    pub(super) services: Vec<PlannedService>,
    pub(super) instance_keys: bool,
}

pub(super) struct PlannedService {
    /// The file of an existing key. If None, a new key is generated.
    pub(super) key: Option<PathBuf>,
    pub(super) instances: u32,
    /// The addresses of the instances. Empty if they are still unknown.
    pub(super) addresses: Vec<OnionAddress>,
    pub(super) tag: String,
    /// The port in the instances' torrc lines. If None, no files are written for the instances.
    pub(super) torrc: Option<TorrcPort>,
}

/// The `HiddenServicePort` line of an instance.
pub(super) struct TorrcPort {
    pub(super) port: u16,
    pub(super) target: String,
}

/// A master key: its address and the content of its file.
struct Key {
    address: OnionAddress,
    file: Zeroizing<Vec<u8>>,
}

impl Plan {
    /// Writes all files of the configuration.
    ///
    /// All keys are read before anything is written, and `config.yaml` is written last, so a failed
    /// run can be repeated.
    pub(super) fn carry_out(self, out: &mut impl Write) -> Result<(), Failure> {
        let config_file = self.output.join("config.yaml");
        if config_file.exists() {
            return Err(format!(
                "{} already exists; remove the file or choose another --output",
                config_file.display()
            )
            .into());
        }
        let keys = self.services.iter().map(PlannedService::master_key).collect::<Result<Vec<_>, _>>()?;
        for (index, key) in keys.iter().enumerate() {
            if keys.iter().take(index).any(|other| other.address == key.address) {
                return Err(format!(
                    "two services cannot have the same key: both would have the address {}; give each service its own --key",
                    key.address
                )
                .into());
            }
        }
        tor_directories::create_private(&self.output)?;

        let mut services = Vec::new();
        for (service, key) in self.services.iter().zip(&keys) {
            let name = format!("{}.key", key.address.identifier());
            key.write(&self.output.join(&name))?;
            let directory = self.output.join(key.address.identifier());
            let instances = service.write_instances(&directory, &key.address, self.instance_keys)?;
            writeln!(out, "{}", key.address)?;
            services.push((name, instances));
        }
        secret_file::write(&config_file, config::write(&services).as_bytes(), false)?;
        if self.services.iter().all(|service| service.torrc.is_none()) {
            return print_next_steps_without_torrc(&config_file, out);
        }
        self.print_next_steps(&config_file, out)
    }

    fn print_next_steps(&self, config_file: &Path, out: &mut impl Write) -> Result<(), Failure> {
        let config_file = config_file.display();
        writeln!(out, "Wrote {config_file}.")?;
        if self.instance_keys {
            writeln!(
                out,
                "Move each instance's directory to its machine, and configure its tor with the torrc in the directory."
            )?;
        } else {
            writeln!(
                out,
                "Configure each instance's tor with the torrc and the ob_config in the service's directory."
            )?;
            if self.services.iter().any(|service| service.addresses.is_empty()) {
                writeln!(out, "Then enter the instances' addresses in {config_file}.")?;
            }
        }
        Ok(writeln!(out, "Run: onionbalance-operator frontend --config {config_file}")?)
    }
}

fn print_next_steps_without_torrc(config_file: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let config_file = config_file.display();
    writeln!(out, "Done! Successfully generated {config_file}.")?;
    writeln!(out, "Then enter the instances' addresses in this file. In each instance's torrc, add the line")?;
    writeln!(out, "HiddenServiceOnionBalanceInstance 1, and put a file ob_config with the line MasterOnionAddress")?;
    writeln!(out, "and the address above into its HiddenServiceDir.")?;
    Ok(writeln!(out, "Run: onionbalance --config {config_file}")?)
}

impl Key {
    /// Writes the file of the key. A file that already contains this key is left as it is.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        if path.exists() && secret_file::read(path)? == self.file {
            return Ok(());
        }
        Ok(secret_file::write(path, &self.file, false)?)
    }
}

impl PlannedService {
    fn master_key(&self) -> Result<Key, Failure> {
        let Some(path) = &self.key else {
            let seed = Seed::generate(&mut generator());
            return Ok(Key { address: seed.address(), file: Zeroizing::new(seed.to_pem()?.as_bytes().to_vec()) });
        };
        let file = secret_file::read(path)?;
        let key = KeyFile::read(&file).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Key { address: key.address(), file })
    }

    /// Writes the instances' files into `directory`. Returns the address (or a placeholder) and the
    /// name of each instance.
    fn write_instances(
        &self,
        directory: &Path,
        master: &OnionAddress,
        with_keys: bool,
    ) -> Result<Vec<(String, String)>, Failure> {
        let Some(torrc) = &self.torrc else { return Ok(self.without_keys()) };
        tor_directories::create_private(directory)?;
        if !with_keys {
            torrc.write(directory, master)?;
            return Ok(self.without_keys());
        }
        let make = |index| {
            let name = format!("{}{index}", self.tag);
            let directory = directory.join(&name);
            let key = MasterKey::generate(&mut generator());
            write_tor_directory(&directory, &key, false)?;
            torrc.write(&directory, master)?;
            Ok((key.address().to_string(), name))
        };
        (1..=self.instances).map(make).collect()
    }

    /// Returns the address (or a placeholder) and the name of each instance.
    fn without_keys(&self) -> Vec<(String, String)> {
        let open = || vec![config::PLACEHOLDER.to_owned(); usize::try_from(self.instances).unwrap_or_default()];
        let known: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let addresses = if known.is_empty() { open() } else { known };
        let named = |(index, address)| (address, format!("{}{}", self.tag, index + 1));
        addresses.into_iter().enumerate().map(named).collect()
    }
}

impl TorrcPort {
    /// Writes `ob_config`, which belongs in the HiddenServiceDir, and `torrc`, whose lines belong
    /// in the torrc of the instance.
    fn write(&self, directory: &Path, master: &OnionAddress) -> Result<(), Failure> {
        let torrc = format!(
            "# An instance of {master}.\n\
             # Put the file ob_config into this directory before tor starts.\n\
             HiddenServiceDir /var/lib/tor/onionbalance\n\
             HiddenServicePort {} {}\n\
             HiddenServiceOnionBalanceInstance 1\n",
            self.port, self.target
        );
        secret_file::write(&directory.join("torrc"), torrc.as_bytes(), true)?;
        secret_file::write(&directory.join("ob_config"), format!("MasterOnionAddress {master}\n").as_bytes(), true)?;
        Ok(())
    }
}
