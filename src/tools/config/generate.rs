//! Writes the files.

use std::io::Write;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::common::{secret_file, tor_directories};
use crate::config;
use crate::onion::{KeyFile, MasterKey, OnionAddress, Seed};
use crate::tools::key::write_tor_directory;
use crate::tools::{Failure, generator};

/// What to make.
pub(super) struct Plan {
    pub(super) output: PathBuf,
    pub(super) services: Vec<PlannedService>,
    pub(super) instance_keys: bool,
}

pub(super) struct PlannedService {
    /// A key that is there; None makes one.
    pub(super) key: Option<PathBuf>,
    pub(super) instances: u32,
    /// The instances' addresses, where they are known.
    pub(super) addresses: Vec<OnionAddress>,
    pub(super) tag: String,
    pub(super) port: u16,
    pub(super) target: String,
}

/// A master key, and the bytes of its file.
struct Key {
    address: OnionAddress,
    file: Zeroizing<Vec<u8>>,
}

impl Plan {
    /// Nothing is written before all keys are read, and `config.yaml` comes last: a run that failed can be repeated.
    pub(super) fn carry_out(self, out: &mut impl Write) -> Result<(), Failure> {
        let config_file = self.output.join("config.yaml");
        if config_file.exists() {
            return Err(format!("{} is there: remove it, or give another --output", config_file.display()).into());
        }
        let keys = self.services.iter().map(PlannedService::master_key).collect::<Result<Vec<_>, _>>()?;
        for (index, key) in keys.iter().enumerate() {
            if keys.iter().take(index).any(|other| other.address == key.address) {
                return Err(format!("two services cannot have one key: both would be {}", key.address).into());
            }
        }
        if !self.output.is_dir() {
            tor_directories::make_private(&self.output)?;
        }

        let mut services = Vec::new();
        for (service, key) in self.services.iter().zip(&keys) {
            let name = format!("{}.key", key.address.identifier());
            secret_file::write(&self.output.join(&name), &key.file, false)?;
            let directory = self.output.join(key.address.identifier());
            tor_directories::make_private(&directory)?;
            let instances = service.write_instances(&directory, &key.address, self.instance_keys)?;
            writeln!(out, "{}", key.address)?;
            services.push((name, instances));
        }
        secret_file::write(&config_file, config::write(&services)?.as_bytes(), false)?;
        self.say_what_to_do(&config_file, out)
    }

    fn say_what_to_do(&self, config_file: &Path, out: &mut impl Write) -> Result<(), Failure> {
        let config_file = config_file.display();
        writeln!(out, "Wrote {config_file}.")?;
        if self.instance_keys {
            writeln!(
                out,
                "Move each instance's directory to its machine, and set up its tor by the torrc that lies in it."
            )?;
        } else {
            writeln!(
                out,
                "Set up the instances by the torrc and ob_config that lie beside it, in the service's directory."
            )?;
            if self.services.iter().any(|service| service.addresses.is_empty()) {
                writeln!(out, "Then put their addresses into {config_file}.")?;
            }
        }
        Ok(writeln!(out, "Run: onionbalance-operator frontend --config {config_file}")?)
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

    /// Each instance's address (or the placeholder) and name.
    fn write_instances(
        &self,
        directory: &Path,
        master: &OnionAddress,
        with_keys: bool,
    ) -> Result<Vec<(String, String)>, Failure> {
        if !with_keys {
            self.write_torrc(directory, master)?;
            let open = || vec![config::PLACEHOLDER.to_owned(); usize::try_from(self.instances).unwrap_or_default()];
            let known: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
            let addresses = if known.is_empty() { open() } else { known };
            let named = |(index, address)| (address, format!("{}{}", self.tag, index + 1));
            return Ok(addresses.into_iter().enumerate().map(named).collect());
        }
        let make = |index| {
            let name = format!("{}{index}", self.tag);
            let directory = directory.join(&name);
            let key = MasterKey::generate(&mut generator());
            write_tor_directory(&directory, &key, false)?;
            self.write_torrc(&directory, master)?;
            Ok((key.address().to_string(), name))
        };
        (1..=self.instances).map(make).collect()
    }

    /// `ob_config`, which belongs into the HiddenServiceDir, and `torrc`, whose lines belong into the instance's.
    fn write_torrc(&self, directory: &Path, master: &OnionAddress) -> Result<(), Failure> {
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
