//! Reads the services from the API server, once or continuously.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::Error;
use super::view::View;
use crate::crd::OnionBalancedService;

/// The interval at which the display is refreshed. Ages are shown with a precision of one second.
const TICK: Duration = Duration::from_secs(1);

/// The services that the user asked to see.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The URL of the API server, for error messages.
    pub url: String,
    /// The namespace of the services to show. None means all namespaces.
    pub namespace: Option<String>,
    /// The name of the only service to show. None means all services.
    pub name: Option<String>,
}

impl Selection {
    fn api(&self, client: Client) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<OnionBalancedService>(&());
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    fn not_found(&self, name: &str) -> Error {
        Error::NotFound { namespace: self.namespace.clone().unwrap_or_default(), name: name.to_owned() }
    }

    fn explain(&self, error: kube::Error) -> Error {
        match error {
            // The API server does not serve the path, so the CRD is missing. A missing object would
            // result in an empty list.
            kube::Error::Api(status) if status.is_not_found() => Error::NoDefinition(self.url.clone()),
            kube::Error::Api(status) => {
                Error::Refused(format!("the API server refuses the request: {}", status.message))
            }
            error => Error::Unreachable { url: self.url.clone(), cause: cause(&error) },
        }
    }
}

/// Returns the innermost cause of an error, which names the failure best.
pub fn cause(error: &kube::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Reads the services once and returns them, sorted by namespace and name.
pub async fn once(client: Client, selection: &Selection) -> Result<Vec<View>, Error> {
    let api = selection.api(client);
    let mut parameters = ListParams::default();
    if let Some(name) = &selection.name {
        parameters = parameters.fields(&format!("metadata.name={name}"));
    }
    let found = api.list(&parameters).await.map_err(|error| selection.explain(error))?;
    let mut views: Vec<_> = found.into_iter().map(View::new).collect();
    views.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    match &selection.name {
        Some(name) if views.is_empty() => Err(selection.not_found(name)),
        _ => Ok(views),
    }
}

/// Calls `show` on every change, every event and every second, until a signal ends the program or
/// `show` fails or breaks.
pub async fn watch<E>(
    client: Client,
    selection: &Selection,
    mut events: impl Stream<Item = std::io::Result<E>> + Unpin,
    mut show: impl FnMut(&[View], Option<E>) -> std::io::Result<ControlFlow<()>>,
) -> Result<(), Error> {
    // An initial error is reported immediately instead of being retried forever.
    let mut objects: BTreeMap<(String, String), View> = BTreeMap::new();
    for view in once(client.clone(), selection).await? {
        objects.insert((view.namespace.clone(), view.name.clone()), view);
    }
    let mut config = watcher::Config::default();
    if let Some(name) = &selection.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let mut changes = watcher(selection.api(client), config).default_backoff().boxed();
    let mut ticks = tokio::time::interval(TICK);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut event = None;
    loop {
        let views: Vec<_> = objects.values().cloned().collect();
        if show(&views, event.take())?.is_break() {
            return Ok(());
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = ticks.tick() => {}
            Some(next) = events.next() => event = Some(next?),
            change = changes.try_next() => match change {
                Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                    objects.insert((object.namespace().unwrap_or_default(), object.name_any()), View::new(object));
                }
                Ok(Some(watcher::Event::Delete(object))) => {
                    objects.remove(&(object.namespace().unwrap_or_default(), object.name_any()));
                }
                Ok(Some(watcher::Event::Init)) => objects.clear(),
                // The watch restarts on its own. Until then, the last known state stays on the
                // screen.
                Ok(Some(watcher::Event::InitDone) | None) | Err(_) => {}
            },
        }
    }
}
