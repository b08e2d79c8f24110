//! Reads the objects: once, or as they change.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};

use super::Error;
use super::view::View;
use crate::crd::OnionBalancedService;

/// Ages are shown to the second.
const TICK: Duration = Duration::from_secs(1);

/// Which objects.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The API server, for messages.
    pub url: String,
    /// Of one namespace; None: of all.
    pub namespace: Option<String>,
    /// One of them; None: all.
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
            // A path that no CRD serves; an object that is missing is asked for otherwise.
            kube::Error::Api(status) if status.is_not_found() => Error::NoDefinition(self.url.clone()),
            kube::Error::Api(status) => Error::Refused(format!("the API server refuses: {}", status.message)),
            error => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                Error::Unreachable { url: self.url.clone(), cause: cause.to_string() }
            }
        }
    }
}

/// The objects as they are, by namespace and name.
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

/// Shows them, again at every change and every second, until interrupted or `show` fails.
pub async fn watch(
    client: Client,
    selection: &Selection,
    mut show: impl FnMut(&[View]) -> std::io::Result<()>,
) -> Result<(), Error> {
    // What is wrong from the beginning is told once, instead of being tried for ever.
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
    loop {
        let views: Vec<_> = objects.values().cloned().collect();
        show(&views)?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = ticks.tick() => {}
            change = changes.try_next() => match change {
                Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                    objects.insert((object.namespace().unwrap_or_default(), object.name_any()), View::new(object));
                }
                Ok(Some(watcher::Event::Delete(object))) => {
                    objects.remove(&(object.namespace().unwrap_or_default(), object.name_any()));
                }
                Ok(Some(watcher::Event::Init)) => objects.clear(),
                // The watch begins again by itself; what was seen last stays meanwhile.
                Ok(Some(watcher::Event::InitDone) | None) | Err(_) => {}
            },
        }
    }
}
