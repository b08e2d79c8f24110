//! The administrator's settings for the logs of agents and publishers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::common::log;

/// The target of all log messages of our own code, which is the name of its crate.
const OURS: &str = "onionbalance_operator";
/// The most detailed level for messages of libraries. Beyond this level, a library could log what
/// it sends and receives.
const LIBRARIES: Level = Level::Info;

/// The flags that determine the [`DataPlaneLog`].
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names, reason = "the names of the flags come from those of the fields")]
pub struct DataPlaneLogArgs {
    /// Format of the logs of agents and publishers [default: that of the operator's own log]
    #[arg(long, env = "DATA_PLANE_LOG_FORMAT", value_enum)]
    data_plane_log_format: Option<log::Format>,
    /// Length of onion addresses in the logs of agents and publishers
    #[arg(long, env = "DATA_PLANE_LOG_ADDRESSES", value_enum, default_value_t = log::Addresses::Short)]
    data_plane_log_addresses: log::Addresses,
    /// Filter of the logs of agents and publishers, separated by commas: a level (off, error, warn,
    /// info, debug or trace), and `onionbalance_operator::MODULE=LEVEL` for single modules
    /// [default: info]
    #[arg(long, env = "DATA_PLANE_LOG_FILTER", value_name = "FILTER", default_value = "", hide_default_value = true)]
    data_plane_log_filter: Filter,
}

impl DataPlaneLogArgs {
    /// Returns the settings that these flags specify. `own` is the format of the operator's own
    /// log.
    pub fn settings(&self, own: log::Format) -> DataPlaneLog {
        DataPlaneLog {
            format: self.data_plane_log_format.unwrap_or(own),
            addresses: self.data_plane_log_addresses,
            filter: self.data_plane_log_filter.clone(),
        }
    }
}

/// The settings for the logs of agents and publishers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlaneLog {
    /// The format of log lines.
    pub format: log::Format,
    /// The form of onion addresses.
    pub addresses: log::Addresses,
    /// The messages to log.
    pub filter: Filter,
}

impl Default for DataPlaneLog {
    fn default() -> Self {
        Self { format: log::Format::Text, addresses: log::Addresses::Short, filter: Filter::default() }
    }
}

impl DataPlaneLog {
    /// Returns the environment variables for the programs in the pods. Default values are left out,
    /// so that an upgrade replaces no pods.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let format = (self.format == log::Format::Json).then(|| ("LOG_FORMAT", "json".to_owned()));
        let addresses = (self.addresses == log::Addresses::Full).then(|| ("LOG_ADDRESSES", "full".to_owned()));
        let filter = (self.filter != Filter::default()).then(|| ("RUST_LOG", self.filter.to_string()));
        [format, addresses, filter].into_iter().flatten().collect()
    }
}

/// A filter for log messages. Unlike a filter of the `tracing` crate, it applies to our own code
/// only, and it rejects unknown names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The level of all modules that are not named.
    level: Level,
    /// The levels of single modules, by their paths.
    modules: BTreeMap<String, Level>,
}

/// The levels, from the least to the most detailed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    const ALL: [Self; 6] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self { level: Level::Info, modules: BTreeMap::new() }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        if text.is_empty() {
            return Ok(filter);
        }
        for item in text.split(',') {
            if let Some(level) = Level::of(item) {
                filter.level = level;
            } else if let Some((module, level)) = of_module(item) {
                filter.modules.insert(module.to_owned(), level);
            } else {
                let levels = Level::ALL.map(Level::name).join(", ");
                return Err(format!("{item:?} is neither a level ({levels}) nor {OURS}::MODULE=LEVEL"));
            }
        }
        Ok(filter)
    }
}

/// Returns the module and the level in an item such as `onionbalance_operator::merge=debug`.
fn of_module(item: &str) -> Option<(&str, Level)> {
    let (module, level) = item.split_once('=').filter(|(module, _)| is_ours(module))?;
    Some((module, Level::of(level)?))
}

/// Returns true if the path is that of our crate or of a module in it.
fn is_ours(module: &str) -> bool {
    let mut names = module.split("::");
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    names.next() == Some(OURS) && names.all(is_name)
}

/// Writes the filter as the `tracing` crate reads it.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&log::filter(self.level.min(LIBRARIES).name()))?;
        if self.level > LIBRARIES {
            write!(f, ",{OURS}={}", self.level.name())?;
        }
        self.modules.iter().try_for_each(|(module, level)| write!(f, ",{module}={}", level.name()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: DataPlaneLogArgs,
    }

    fn variables(flags: &[&str], own: log::Format) -> Vec<(&'static str, String)> {
        let program = Program::try_parse_from([&["operator"], flags].concat());
        program.unwrap_or_else(|error| panic!("{error}")).args.settings(own).variables()
    }

    fn filter(text: &str) -> String {
        let found = variables(&["--data-plane-log-filter", text], log::Format::Text);
        found.into_iter().find(|(name, _)| *name == "RUST_LOG").map(|(_, value)| value).unwrap_or_default()
    }

    #[test]
    fn default_values_need_no_variables() {
        assert_eq!(variables(&[], log::Format::Text), []);
        let explicit = ["--data-plane-log-format=text", "--data-plane-log-addresses=short"];
        assert_eq!(variables(&explicit, log::Format::Text), []);
        for text in ["", "info"] {
            assert_eq!(filter(text), "");
        }
    }

    #[test]
    fn the_operators_own_format_is_the_default() {
        let json = || ("LOG_FORMAT", "json".to_owned());
        assert_eq!(variables(&[], log::Format::Json), [json()]);
        assert_eq!(variables(&["--data-plane-log-format=text"], log::Format::Json), []);
        let full = ("LOG_ADDRESSES", "full".to_owned());
        let both = ["--data-plane-log-format=json", "--data-plane-log-addresses=full"];
        assert_eq!(variables(&both, log::Format::Text), [json(), full]);
    }

    #[test]
    fn a_filter_never_shows_more_of_the_libraries() {
        for (text, expected) in [
            ("warn", "warn,kube_client=off,kube_runtime=off"),
            ("off", "off,kube_client=off,kube_runtime=off"),
            ("debug", "info,kube_client=off,kube_runtime=off,onionbalance_operator=debug"),
            (
                "onionbalance_operator::merge=off,trace,onionbalance_operator::frontend::driver=debug",
                "info,kube_client=off,kube_runtime=off,onionbalance_operator=trace,\
                 onionbalance_operator::frontend::driver=debug,onionbalance_operator::merge=off",
            ),
            ("onionbalance_operator=debug,error", "error,kube_client=off,kube_runtime=off,onionbalance_operator=debug"),
        ] {
            assert_eq!(filter(text), expected);
            let written = tracing_subscriber::EnvFilter::try_new(expected);
            assert!(written.is_ok(), "{expected}: {written:?}");
        }
    }

    #[test]
    fn an_error_names_the_flag_and_the_bad_item() {
        for item in [
            "inof",
            "DEBUG",
            " debug",
            "4",
            "kube_client=debug",
            "hyper=trace",
            "onionbalance_operator",
            "onionbalance_operator=",
            "onionbalance_operator=loud",
            "onionbalance_operator_x=debug",
            "onionbalance_operator::=debug",
            "onionbalance_operator::a[b]=debug",
            "[a{b=c}]=trace",
        ] {
            let text = format!("debug,{item}");
            let refusal = Program::try_parse_from(["operator", "--data-plane-log-filter", &text]).err();
            let expected = format!(
                "'{text}' for '--data-plane-log-filter <FILTER>': {item:?} is neither a level (off, error, warn, info, \
                 debug, trace) nor onionbalance_operator::MODULE=LEVEL"
            );
            let refusal = refusal.map(|error| error.to_string()).unwrap_or_default();
            assert!(refusal.contains(&expected), "{refusal}");
        }
        for text in ["debug,", ",", "info,,warn"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}
