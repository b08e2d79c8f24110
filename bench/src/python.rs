//! Python Onionbalance in a process that times its own work.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A running `bench/py/engine.py`, which answers each line of input with a line of output.
#[derive(Debug)]
pub struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Starts the script. The Python interpreter must have the package `onionbalance`.
    pub fn start(interpreter: &Path) -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/py/engine.py");
        let mut child = Command::new(interpreter)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", interpreter.display()))?;
        let input = child.stdin.take().context("the process has no standard input")?;
        let output = BufReader::new(child.stdout.take().context("the process has no standard output")?);
        Ok(Self { child, input, output })
    }

    /// Sends a command and returns the response.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.input.flush()?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            bail!("Python ended: {}", self.child.wait()?);
        }
        Ok(answer.trim_end().to_owned())
    }

    /// Sends a command and returns the time that it took, as measured by Python.
    pub fn time(&mut self, line: &str) -> Result<Duration> {
        let answer = self.ask(line)?;
        let seconds = answer.parse().with_context(|| format!("unexpected answer to {line:?}: {answer:?}"))?;
        Ok(Duration::from_secs_f64(seconds))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // The process may have ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
