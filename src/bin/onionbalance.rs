//! The `onionbalance` program: the stand-alone daemon, with the command line of Python
//! Onionbalance's daemon.

fn main() -> std::process::ExitCode {
    onionbalance_operator::cli::onionbalance::main()
}
