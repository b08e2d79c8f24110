//! The command `crd`, which both programs have: the program in an image prints the definition that
//! belongs to its version.

use clap::ValueEnum;

use super::exit::{Failure, print};
use crate::crd;

/// The arguments of the command `crd`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Yaml)]
    format: Format,
    /// Omit the validation rules (CEL), which API servers before Kubernetes 1.28 reject
    #[arg(long)]
    without_rules: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// The manifest, as `kubectl apply --server-side -f -` expects it
    Yaml,
    /// A reference of all fields with their types, defaults, limits and validation rules
    Markdown,
}

/// Prints the definition in the requested format to standard output.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match (args.format, args.without_rules) {
        (Format::Yaml, without_rules) => print(&crd::manifest(!without_rules)?),
        (Format::Markdown, false) => print(&crd::reference()),
        (Format::Markdown, true) => {
            Err("--without-rules applies only to --format yaml; remove one of the two flags".into())
        }
    }
}
