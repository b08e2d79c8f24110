//! Creates signing kits, with which a publisher works without the master key.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use data_encoding::{BASE64, HEXLOWER};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::input::Input;
use super::output;
use crate::common::secret_file;
use crate::onion::kit::{self, KitError};
use crate::onion::{Kit, PeriodCalendar};
use crate::tools::Failure;

/// The name of the Secret's entry with the kit.
const SIGNING_KIT: &str = "signing.kit";
const MINUTES_PER_DAY: u64 = 24 * 60;
/// The maximum length of a kit in a Secret, whose entries may have 1 MiB together.
const MAX_IN_SECRET: usize = 1_000_000;

/// The arguments of `key delegate`.
#[derive(Debug, clap::Args)]
pub(super) struct Delegate {
    /// The master key: a HiddenServiceDir, a key file or the manifest of a Secret; `-` reads
    /// standard input
    input: PathBuf,
    /// The first day (UTC) of the kit, as YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = start_of)]
    from: Option<SystemTime>,
    /// The number of days that the kit covers
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// The file to write [default: ADDRESS.kit, or standard output for a Secret]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Write the manifest of a Secret with this name instead, for use with kubectl apply
    /// --server-side and spec.masterKey.delegated
    #[arg(long, value_name = "NAME", value_parser = output::secret_name)]
    secret: Option<String>,
    /// The namespace of the Secret
    #[arg(long, requires = "secret", value_parser = output::secret_name)]
    namespace: Option<String>,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
    /// The length of the time periods of a test network in minutes, whose kit covers this number of
    /// periods
    #[arg(long, hide = true, num_args = 2, value_names = ["MINUTES", "PERIODS"])]
    testing: Option<Vec<u32>>,
}

/// Parses the value of `--from`: a day, or a time as test networks need it.
fn start_of(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.into());
    }
    let day = text.parse::<Date>().map_err(|_| "write a day as YYYY-MM-DD, for example 2027-01-31".to_owned())?;
    let start = day.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
    Ok(start.timestamp().into())
}

/// Creates a kit and writes it to a file, or as the manifest of a Secret. Prints the address and
/// the validity to `out`, unless the manifest is printed there.
pub(super) fn run(args: Delegate, out: &mut impl Write) -> Result<(), Failure> {
    let Delegate { input, from, days, output, secret, namespace, force, testing } = args;
    let key = Input::read(&input)?.file.into_key()?;
    let from = from.unwrap_or_else(|| Timestamp::now().into());
    let (calendar, count) = match testing.as_deref() {
        Some([minutes, periods]) => (PeriodCalendar::testing(u64::from(*minutes)), u64::from(*periods)),
        // The service also publishes for the period before.
        _ => (PeriodCalendar::PUBLIC, periods_of(PeriodCalendar::PUBLIC, from, days) + 1),
    };
    let first = calendar.published_at(from)[0].ok_or("--from is before the first time period; choose a later day")?;
    let kit = Kit::issue(&key, calendar, first.number, u32::try_from(count)?)?;
    // A fault of this machine must not be noticed only when the service stops.
    kit.check_all()?;
    let bytes = kit.to_bytes();
    if let Some(name) = secret {
        let manifest = manifest(&kit, &bytes, &name, namespace.as_deref())?;
        match output {
            Some(path) => secret_file::write(&path, manifest.as_bytes(), force)?,
            None => return Ok(out.write_all(manifest.as_bytes())?),
        }
    } else {
        let path = output.unwrap_or_else(|| format!("{}.kit", kit.address().identifier()).into());
        secret_file::write(&path, &bytes, force)?;
    }
    writeln!(out, "{}", kit.address())?;
    Ok(describe(&kit, out)?)
}

/// Reads the signing kit in a file. Returns None if the file cannot be read or is not a kit.
pub(super) fn read_kit(path: &Path) -> Option<Result<Kit, KitError>> {
    if !path.is_file() {
        return None;
    }
    let bytes = secret_file::read_at_most(path, kit::MAX_LEN).ok()?;
    match Kit::parse(&bytes) {
        Err(KitError::Tag | KitError::MasterKey) => None,
        other => Some(other),
    }
}

/// Prints the times at which a kit can be used.
pub(super) fn describe(kit: &Kit, out: &mut impl Write) -> std::io::Result<()> {
    let [from, until] = kit.validity().map(|time| utc(time, "%Y-%m-%d %H:%M UTC"));
    writeln!(out, "signing kit for {} time periods, from {from} until {until}", kit.periods())
}

/// Returns the number of periods that begin to be published between `from` and the end of the last
/// day.
fn periods_of(calendar: PeriodCalendar, from: SystemTime, days: u32) -> u64 {
    let last = from + Duration::from_secs(60 * (MINUTES_PER_DAY * u64::from(days))) - Duration::from_secs(1);
    let newer = |time| calendar.published_at(time)[1].map_or(0, |period| period.number);
    newer(last) - newer(from) + 1
}

fn utc(time: SystemTime, format: &str) -> String {
    Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| time.strftime(format).to_string())
}

/// Returns the manifest of a Secret with a kit. The operator reads only the entry `signing.kit`.
fn manifest(kit: &Kit, bytes: &[u8], name: &str, namespace: Option<&str>) -> Result<Zeroizing<String>, Failure> {
    if bytes.len() > MAX_IN_SECRET {
        let most = MAX_IN_SECRET / (bytes.len() / kit.periods().max(1) + 1) - 1;
        return Err(format!(
            "the signing kit has {} bytes, but a Secret holds at most {MAX_IN_SECRET}; use --days {most} or less",
            bytes.len()
        )
        .into());
    }
    let [from, until] = kit.validity().map(|time| utc(time, "%Y-%m-%d"));
    let hostname = BASE64.encode(format!("{}\n", kit.address()).as_bytes());
    let namespace = namespace.map(|namespace| format!("  namespace: \"{namespace}\"\n")).unwrap_or_default();
    let head = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: \"{name}\"\n{namespace}  annotations:\n    \
         onionbalance.dev/signing-kit-version: \"1\"\n    onionbalance.dev/signing-kit-sha256: \"{}\"\n    \
         onionbalance.dev/onion-address: \"{}\"\n    \
         onionbalance.dev/signing-kit-days: \"{from} to {until}\"\ntype: Opaque\ndata:\n  hostname: {hostname}\n  {SIGNING_KIT}: ",
        HEXLOWER.encode(&Sha256::digest(bytes)),
        kit.address()
    );
    // The buffer never grows, so no unerased copy of the kit is left behind.
    let mut manifest = Zeroizing::new(String::with_capacity(head.len() + BASE64.encode_len(bytes.len()) + 1));
    manifest.push_str(&head);
    BASE64.encode_append(bytes, &mut manifest);
    manifest.push('\n');
    Ok(manifest)
}
