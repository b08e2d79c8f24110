//! The command `doctor`, which examines one service from end to end with what the Kubernetes API
//! shows. `gather` reads the facts, `judge` (pure) draws conclusions, and `print` (pure) renders
//! them.

mod backing;
mod facts;
mod finding;
mod gather;
mod judge;
mod key_facts;
mod metrics;
mod pod;
mod print;

use std::io::Write as _;
use std::process::ExitCode;

use kube::Client;
use serde_json::{Value, json};

use self::finding::{Finding, Mark};
use super::Error;
use super::cluster::ClusterOptions;
use super::draw::Canvas;
use super::read::Selection;
use super::screen::for_output;

/// The arguments of `kubectl-onionbalance doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of the service
    name: String,
    /// The namespace [default: the namespace of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// The output format [default: text]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// All findings, for programs
    Json,
}

/// The exit code if the service has a problem.
const PROBLEMS: u8 = 1;
/// The exit code if the examination could not run.
pub const NOT_EXAMINED: u8 = 2;

/// Examines the service and prints the findings.
pub async fn run(args: Args) -> Result<ExitCode, Error> {
    let config = args.cluster.config().await?;
    let url = config.cluster_url.to_string();
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let service = format!("{namespace}/{}", args.name);
    let client = Client::try_from(config).map_err(|error| Error::NoConfig(error.to_string()))?;
    let selection = Selection { url, namespace: Some(namespace), name: Some(args.name) };
    let facts = gather::facts(client, &selection).await?;
    let findings = judge::examine(&facts);
    let mut out = std::io::stdout();
    match args.output {
        Some(Output::Json) => writeln!(out, "{}", serde_json::to_string_pretty(&json(&service, &findings))?)?,
        None => write!(out, "{}", for_output(print::text(&service, &findings, Canvas::of_output().width)))?,
    }
    Ok(ExitCode::from(exit_code(&findings)))
}

/// Returns the exit code of an examination with these findings. Only problems count: warnings are
/// common while a service starts, and a user may lack permissions.
fn exit_code(findings: &[Finding]) -> u8 {
    if findings.iter().any(|finding| finding.mark == Mark::Problem) { PROBLEMS } else { 0 }
}

/// Returns the findings as JSON for programs. New fields may be added, but existing ones are never
/// renamed.
fn json(service: &str, findings: &[Finding]) -> Value {
    let count = |mark| findings.iter().filter(|finding| finding.mark == mark).count();
    json!({
        "service": service, "problems": count(Mark::Problem), "warnings": count(Mark::Warning),
        "unchecked": count(Mark::Unchecked), "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_problem_makes_the_examination_fail() {
        let warning = || Finding::warning("object", "Starts.");
        let unchecked = || Finding::new(Mark::Unchecked, "key", "Hidden.");
        assert_eq!(exit_code(&[Finding::ok("CRD", "Good."), warning(), unchecked()]), 0);
        assert_eq!(exit_code(&[warning(), Finding::problem("key", "Gone."), unchecked()]), 1);
    }

    #[test]
    fn programs_get_the_counts_and_every_finding() {
        let problem = Finding::problem("key", "Gone.").remedy("restore it: kubectl create -f BACKUP");
        let expected = json!({
            "service": "shop/web", "problems": 1, "warnings": 0, "unchecked": 0,
            "findings": [
                {"mark": "ok", "area": "CRD", "found": "Good.", "remedy": null, "commands": []},
                {
                    "mark": "problem", "area": "key", "found": "Gone.", "remedy": "restore it",
                    "commands": ["kubectl create -f BACKUP"],
                },
            ],
        });
        assert_eq!(json("shop/web", &[Finding::ok("CRD", "Good."), problem]), expected);
    }
}
