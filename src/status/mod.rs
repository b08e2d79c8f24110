//! The commands `status`, which shows the state of services in a terminal, and `doctor`, which
//! examines one service. Both only read from the API server.

mod advice;
mod cluster;
pub mod doctor;
mod draw;
mod list;
mod read;
mod screen;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use kube::Client;

use self::cluster::ClusterOptions;
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
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Keep showing the services as they change, on a screen that can be scrolled; q quits
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
    /// The output format
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// All columns, whole addresses and all problems, however large the terminal is
    Wide,
    /// All information, for programs
    Json,
    /// The same as YAML
    Yaml,
}

/// The exit code that `status` returns if a service is not Ready.
const NOT_READY: u8 = 3;

/// The reason why `status` cannot show the services.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable kubeconfig was found.
    #[error("cannot find a cluster: {0}; set KUBECONFIG to the file that `kubectl` uses, or use --kubeconfig")]
    NoConfig(String),
    /// The file of `--kubeconfig` cannot be used.
    #[error("cannot use the kubeconfig {file}: {cause}; correct the file, or choose another context of it")]
    UnusableConfig {
        /// The path of the file.
        file: String,
        /// The cause of the failure.
        cause: String,
    },
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
    #[error("could not write the services as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The services could not be serialized as YAML.
    #[error("could not write the services as YAML: {0}")]
    Yaml(#[from] serde_saphyr::SerializeError),
}

/// Shows the services, once or until the user leaves.
pub async fn run(args: Args) -> Result<ExitCode, Error> {
    let config = args.cluster.config().await?;
    let url = config.cluster_url.to_string();
    let namespace =
        (!args.all_namespaces).then(|| args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone()));
    let client = Client::try_from(config).map_err(|error| Error::NoConfig(error.to_string()))?;
    let selection = Selection { url, namespace, name: args.name };
    if args.watch {
        let is_terminal = std::io::stdout().is_terminal();
        let mut screen = Screen::open(is_terminal)?;
        let show = |views: &[View], event: Option<_>| screen.show(&selection, views, event.as_ref());
        read::watch(client, &selection, screen::events(is_terminal), show).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let views = read::once(client, &selection).await?;
    let mut out = std::io::stdout();
    match args.output {
        Some(Output::Json) => writeln!(out, "{}", serde_json::to_string_pretty(&view::summary(&views))?)?,
        Some(Output::Yaml) => write!(out, "{}", serde_saphyr::to_string(&view::summary(&views))?)?,
        output => screen::print(&selection, &views, output == Some(Output::Wide))?,
    }
    let all_ready = views.iter().all(View::is_ready);
    Ok(if all_ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
}
