//! The `onionbalance-config` program: the generator of configurations for the stand-alone daemon,
//! with the command line of Python Onionbalance's generator.

fn main() -> std::process::ExitCode {
    onionbalance_operator::cli::onionbalance_config::main()
}
