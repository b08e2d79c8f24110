//! The `status` command, which shows the state of services in a terminal. It only reads from the
//! API server.

mod advice;
mod draw;
mod read;
mod screen;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use kube::Client;
use kube::config::{Config, KubeConfigOptions};

use self::read::Selection;
use self::screen::Screen;
use self::view::View;

/// The arguments of `kubectl-onionbalance status`.
///
/// Exit codes: 0 if all shown services are Ready, 1 if the command failed, 2 if the usage was
/// wrong, 3 if a service is not Ready.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of a service [default: all services of the namespace]
    name: Option<String>,
    /// The namespace [default: the namespace of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Show the services of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    all_namespaces: bool,
    /// The context of the kubeconfig to use
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// Keep showing changes; the default on a terminal
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
    /// Print once and exit; the default if the output is not a terminal
    #[arg(long, conflicts_with = "watch")]
    once: bool,
    /// The output format; `json` is meant for programs
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Json,
}

/// The exit code that `status` returns if a service is not Ready.
const NOT_READY: u8 = 3;

/// The reason why `status` cannot show the services.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable kubeconfig was found.
    #[error("cannot find a cluster: {0}; set KUBECONFIG to the file that `kubectl` uses")]
    NoConfig(String),
    /// The API server does not respond.
    #[error("the cluster at {url} does not answer: {cause}")]
    Unreachable {
        /// The URL of the API server.
        url: String,
        /// The cause of the failure.
        cause: String,
    },
    /// The cluster has no `CustomResourceDefinition` for `OnionBalancedService`.
    #[error(
        "the cluster at {0} has no CustomResourceDefinition for OnionBalancedService; install the operator, or only the CRD: \
         kubectl onionbalance crd | kubectl apply --server-side -f -"
    )]
    NoDefinition(String),
    /// The named service does not exist.
    #[error("OnionBalancedService {namespace}/{name} does not exist; `kubectl get obs -A` lists all services")]
    NotFound {
        /// The namespace of the service.
        namespace: String,
        /// The name of the service.
        name: String,
    },
    /// The API server rejected the request.
    #[error("{0}")]
    Refused(String),
    /// The output could not be written to standard output.
    #[error("{0}")]
    Output(#[from] std::io::Error),
    /// The services could not be serialized as JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Shows the services, once or until interrupted.
pub async fn run(args: Args) -> Result<ExitCode, Error> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let config = match (&args.context, std::env::var_os("KUBECONFIG")) {
        (None, None) => Config::infer().await.map_err(|error| Error::NoConfig(error.to_string()))?,
        _ => Config::from_kubeconfig(&options).await.map_err(|error| Error::NoConfig(error.to_string()))?,
    };
    let url = config.cluster_url.to_string();
    let namespace =
        (!args.all_namespaces).then(|| args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone()));
    let client = Client::try_from(config).map_err(|error| Error::NoConfig(error.to_string()))?;
    let selection = Selection { url, namespace, name: args.name };

    let is_terminal = std::io::stdout().is_terminal();
    if args.watch || (is_terminal && !args.once && args.output.is_none()) {
        let mut screen = Screen::open(is_terminal)?;
        read::watch(client, &selection, |views| screen.show(&selection, views)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let views = read::once(client, &selection).await?;
    match args.output {
        Some(Output::Json) => {
            let text = serde_json::to_string_pretty(&view::summary(&views))?;
            writeln!(std::io::stdout(), "{text}")?;
        }
        None => screen::print(&selection, &views)?,
    }
    let all_ready = views.iter().all(View::is_ready);
    Ok(if all_ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
}
