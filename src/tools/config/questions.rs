//! Asks the questions that `onionbalance-config` of Python Onionbalance asks.

use std::io::{BufRead, Write};
use std::str::FromStr;

use super::Generate;
use super::generate::{Plan, PlannedService, TorrcPort};
use crate::tools::Failure;

pub(super) struct Questions<'a, R, W> {
    pub(super) input: &'a mut R,
    pub(super) out: &'a mut W,
}

impl<R: BufRead, W: Write> Questions<'_, R, W> {
    /// Asks all questions and returns the resulting plan. An empty answer selects the default.
    pub(super) fn ask(&mut self, defaults: &Generate) -> Result<Plan, Failure> {
        let output =
            self.answer("Directory to write the configuration into", &defaults.output.display().to_string())?;
        let services: usize = self.number("Number of services", &defaults.services.to_string(), 1..=100)?;
        let services = (1..=services).map(|index| self.service(index, defaults)).collect::<Result<_, _>>()?;
        Ok(Plan { output: output.into(), services, instance_keys: false })
    }

    fn service(&mut self, index: usize, defaults: &Generate) -> Result<PlannedService, Failure> {
        let of = |question: &str| format!("Service {index}: {question}");
        let key = self.answer(&of("file of its master key (leave empty for a new key)"), "")?;
        let instances = self.number(&of("number of instances"), &defaults.instances.to_string(), 1..=1000)?;
        let tag = self.answer(&of("prefix of the instances' names"), &defaults.tag)?;
        let port = &defaults.service_virtual_port.to_string();
        let port: u16 = self.number(&of("port that clients connect to"), port, 1..=u16::MAX)?;
        let target = self.answer(&of("host and port at which the instances reach it"), &format!("127.0.0.1:{port}"))?;
        let key = Some(key).filter(|key| !key.is_empty()).map(Into::into);
        let torrc = Some(TorrcPort { port, target });
        Ok(PlannedService { key, instances, addresses: Vec::new(), tag, torrc })
    }

    /// Asks for a number until the answer is in the range.
    pub(super) fn number<N>(
        &mut self,
        question: &str,
        default: &str,
        range: std::ops::RangeInclusive<N>,
    ) -> Result<N, Failure>
    where
        N: FromStr + PartialOrd + std::fmt::Display,
    {
        loop {
            match self.answer(question, default)?.parse() {
                Ok(number) if range.contains(&number) => return Ok(number),
                _ => writeln!(self.out, "Please enter a number from {} to {}.", range.start(), range.end())?,
            }
        }
    }

    /// Asks a question. An empty answer selects the default.
    pub(super) fn answer(&mut self, question: &str, default: &str) -> Result<String, Failure> {
        match default {
            "" => write!(self.out, "{question}: ")?,
            default => write!(self.out, "{question} [{default}]: ")?,
        }
        self.out.flush()?;
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err("standard input ended before all questions were answered; pass the answers as options, or use --no-interactive to accept the defaults".into());
        }
        let answer = line.trim();
        Ok(if answer.is_empty() { default } else { answer }.to_owned())
    }
}
