//! The `onionbalance-operator` program.

fn main() -> std::process::ExitCode {
    onionbalance_operator::cli::main()
}
