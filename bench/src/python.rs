//! Python Onionbalance as a process that measures itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// `bench/py/engine.py`: a line in, a line out.
#[derive(Debug)]
pub struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Starts it under an interpreter that has `onionbalance`.
    pub fn start(interpreter: &Path) -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/py/engine.py");
        let mut child = Command::new(interpreter)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", interpreter.display()))?;
        let input = child.stdin.take().context("it has a standard input")?;
        let output = BufReader::new(child.stdout.take().context("it has a standard output")?);
        Ok(Self { child, input, output })
    }

    /// Has it do something; returns what it answers.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.input.flush()?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            bail!("Python ended: {}", self.child.wait()?);
        }
        Ok(answer.trim_end().to_owned())
    }

    /// Has it do something; returns how long that took by its own clock.
    pub fn time(&mut self, line: &str) -> Result<Duration> {
        let answer = self.ask(line)?;
        let seconds = answer.parse().with_context(|| format!("{line}: {answer}"))?;
        Ok(Duration::from_secs_f64(seconds))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
