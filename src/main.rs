//! The `onionbalance-operator` program: the operator, the publisher, the agent and the stand-alone
//! daemon.

fn main() -> std::process::ExitCode {
    onionbalance_operator::cli::onionbalance_operator::main()
}
