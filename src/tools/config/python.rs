//! The program `onionbalance-config`: the same generator with the command line, the questions and
//! the files of Python Onionbalance's `onionbalance-config`.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};

use super::generate::{Plan, PlannedService};
use super::questions::Questions;
use crate::common::log;
use crate::tools::Failure;

/// The flags of Python Onionbalance's `onionbalance-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The output directory, created if it does not exist
    #[arg(long, default_value = "config/")]
    output: PathBuf,
    /// The number of instances per service
    #[arg(short = 'n', default_value_t = 2, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    instances: u32,
    /// The number of services; with --key, there is one
    #[arg(short = 's', default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    services: u32,
    /// The prefix of the instances' names
    #[arg(short, long, default_value = "node")]
    tag: String,
    /// A file with an existing master key, in PEM or as tor's `hs_ed25519_secret_key` [default: a
    /// new key]
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    key: Option<PathBuf>,
    /// Accepted and ignored: keys are not encrypted
    #[arg(short, long, value_parser = ignored())]
    password: Option<Ignored>,
    /// Accepted and ignored: the port is not part of the generated files
    #[arg(long, value_name = "PORT", value_parser = ignored())]
    service_virtual_port: Option<Ignored>,
    /// Accepted and ignored: the target is not part of the generated files
    #[arg(long, value_name = "TARGET", value_parser = ignored())]
    service_target: Option<Ignored>,
    /// Ask no questions, even without other options
    #[arg(long)]
    no_interactive: bool,
    /// The lowest level of messages: debug, info, warning (also warn, notset), error or critical
    /// (also fatal)
    #[arg(short = 'v', default_value = "info", value_name = "LEVEL", value_parser = log_level)]
    verbosity: &'static str,
    /// Onion service version; only v3 exists
    #[arg(long, default_value = "v3", value_parser = ["v3"], hide = true)]
    hs_version: String,
}

/// The value of an option that has no effect. The value itself is not kept, because it can be a
/// password.
#[derive(Debug, Clone)]
struct Ignored;

fn ignored() -> impl TypedValueParser<Value = Ignored> {
    OsStringValueParser::new().map(|_| Ignored)
}

fn log_level(text: &str) -> Result<&'static str, String> {
    log::level_of_python(text).ok_or_else(|| "use debug, info, warning, error or critical".to_owned())
}

/// Generates a configuration. If `asks` is true, the user gave no options, so the program asks
/// questions on `out` and reads the answers from `input`. `messages` receives the messages whose
/// level the user wants.
pub fn run(
    args: Args,
    asks: bool,
    input: &mut impl BufRead,
    out: &mut impl Write,
    messages: &mut impl Write,
) -> Result<(), Failure> {
    let (informs, warns) = (matches!(args.verbosity, "debug" | "info"), args.verbosity != "error");
    if args.password.is_some() && warns {
        writeln!(messages, "warning: --password has no effect; protect the key file with its permissions")?;
    }
    let plan = if asks && !args.no_interactive {
        if informs {
            writeln!(messages, "No options were given: entering interactive mode.")?;
        }
        ask(&mut Questions { input, out }, &args)?
    } else {
        plan(args)
    };
    if informs { plan.carry_out(messages) } else { plan.carry_out(&mut std::io::sink()) }
}

fn plan(args: Args) -> Plan {
    let key = args.key.filter(|key| !key.as_os_str().is_empty());
    // Services with the same key would be one service.
    let count = if key.is_some() { 1 } else { args.services };
    let service = |_| service(key.clone(), args.instances, args.tag.clone());
    Plan { output: args.output, services: (0..count).map(service).collect(), instance_keys: false }
}

/// Asks the questions of Python Onionbalance's generator in the same order.
fn ask<R: BufRead, W: Write>(questions: &mut Questions<'_, R, W>, defaults: &Args) -> Result<Plan, Failure> {
    let output =
        questions.answer("Directory to store generated config files in", &defaults.output.display().to_string())?;
    let count: usize = questions.number("Number of services", &defaults.services.to_string(), 1..=100)?;
    let mut services = Vec::new();
    for index in 1..=count {
        let of = |question: &str| format!("Service {index}: {question}");
        let key = questions.answer(&of("path to master service private key (leave empty for a new key)"), "")?;
        let key = Some(key).filter(|key| !key.is_empty()).map(PathBuf::from);
        let instances =
            questions.number(&of("Number of instance services"), &defaults.instances.to_string(), 1..=1000)?;
        let tag = questions.answer(&of("Provide a tag name, the prefix of the instances' names"), &defaults.tag)?;
        services.push(service(key, instances, tag));
    }
    Ok(Plan { output: output.into(), services, instance_keys: false })
}

fn service(key: Option<PathBuf>, instances: u32, tag: String) -> PlannedService {
    PlannedService { key, instances, addresses: Vec::new(), tag, torrc: None }
}
