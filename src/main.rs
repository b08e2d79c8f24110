//! The `onionbalance-operator` program.

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    onionbalance_operator::cli::Cli::parse().run()
}
