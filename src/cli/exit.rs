//! Results of commands, which become the exit code of the process.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

/// The error that ends a command.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// Returns exit code 0 for a success. Prints an error with its causes to standard error and returns
/// exit code 1 otherwise.
pub(super) fn finish(result: Result<(), Failure>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        eprint!(": {inner}");
        cause = inner.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

/// Writes the text to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
