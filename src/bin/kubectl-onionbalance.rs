//! The `kubectl-onionbalance` program: the commands for people, as a kubectl plugin.

fn main() -> std::process::ExitCode {
    onionbalance_operator::cli::kubectl_onionbalance::main()
}
