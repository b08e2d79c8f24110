//! Runs short commands to completion. If a command fails, the error contains its output.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Creates a command from a program and its arguments.
pub fn command<S: AsRef<std::ffi::OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a command and returns its standard output.
pub async fn output(command: &mut Command) -> Result<String> {
    output_with_input(command, "").await
}

/// Runs a command with the given standard input and returns its standard output.
pub async fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not run {shown}"))?;
    let mut stdin = child.stdin.take().context("the child process has no standard input")?;
    let feed = async move {
        // A program that does not read its input closes the pipe. Its exit code shows whether this
        // was an error.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let ((), done) = tokio::join!(feed, child.wait_with_output());
    let done = done?;
    if !done.status.success() {
        let printed = [String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)].concat();
        bail!("{shown}: {}\n{}", done.status, printed.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
