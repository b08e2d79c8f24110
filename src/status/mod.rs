//! `onionbalance-operator status`: what the objects say, for people at a terminal. Reads the API and writes nothing.

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

/// Arguments of `onionbalance-operator status`.
///
/// Exit code 0: all that was shown is Ready. 1: it could not be shown. 2: wrong usage. 3: something is not Ready.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One service; by default all of the namespace
    name: Option<String>,
    /// The namespace; by default that of the kubeconfig's context
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The services of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    all_namespaces: bool,
    /// The kubeconfig's context to use
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// Go on showing: the default on a terminal
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
    /// Show it once: the default where the output is no terminal
    #[arg(long, conflicts_with = "watch")]
    once: bool,
    /// `json`: for programs
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Json,
}

/// Some service is not Ready.
const NOT_READY: u8 = 3;

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No kubeconfig, or one that cannot be used.
    #[error("no cluster is known: {0}; set KUBECONFIG to the file that `kubectl` uses")]
    NoConfig(String),
    /// The cluster does not answer.
    #[error("the cluster at {url} does not answer: {cause}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        cause: String,
    },
    /// The CRD is not there.
    #[error(
        "the cluster at {0} knows no OnionBalancedServices; install the operator, or only their definition: \
         onionbalance-operator crd | kubectl apply --server-side -f -"
    )]
    NoDefinition(String),
    /// No such object.
    #[error("OnionBalancedService {namespace}/{name} is not there; `kubectl get obs -A` lists all")]
    NotFound {
        /// Where.
        namespace: String,
        /// Which.
        name: String,
    },
    /// Not allowed, and whatever else the API server says.
    #[error("{0}")]
    Refused(String),
    /// Standard output.
    #[error("{0}")]
    Output(#[from] std::io::Error),
    /// No JSON.
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
