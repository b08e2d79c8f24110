//! The operator: observe, plan (pure), apply.

mod apply;

mod cache;
mod children;
mod conditions;
mod discover;
mod drift;
mod echoes;
mod events;
mod holder;
mod leader;
mod observe;
mod plan;
mod pods;
mod reconcile;
mod settings;
mod telemetry;
mod templates;
mod watches;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{FutureExt as _, StreamExt as _};
use kube::Client;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{applier, watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::common::http;
use apply::Writer;
use cache::{Cache, Changes, Guarded};
pub use children::{BuildError, Inputs, PolicyVersion, manifests};
use echoes::Echoes;
use events::Events;
use leader::Candidate;
pub use leader::Seat;
use reconcile::{Context, Error, reconcile};
pub use settings::{Args, NoImage, Settings};
pub use telemetry::Telemetry;
pub use templates::DefaultTemplates;

/// How many objects are looked at at once.
const CONCURRENCY: u16 = 16;
/// Changes of one object within this time are looked at once: its own children's, above all.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The longest wait after repeated failures.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Runs until it is told to stop (SIGTERM, SIGINT).
pub async fn run(args: Args) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let settings = args.settings()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let client = Client::try_default().await?;
    let telemetry = Arc::new(Telemetry::default());
    let probes = http::bind(None, args.probe_port).await?;
    let metrics = http::bind(None, args.metrics_port).await?;
    let seat = args.lease().map(|lease| Seat::of_this_process(&client, lease));
    let http = futures::future::try_join(
        axum::serve(probes, telemetry::probes(telemetry.clone())).into_future(),
        axum::serve(metrics, telemetry::metrics(telemetry.clone())).into_future(),
    );
    let told_to_stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        served = http => { served?; }
        () = operate(client, settings, args.namespaces(), seat, telemetry, told_to_stop) => {}
    }
    Ok(())
}

/// Looks after the objects of these namespaces (None: of all) until `stop`; looks that have begun are finished. Of several
/// operators with one seat only the leader acts; one without a seat acts always.
pub async fn operate(
    client: Client,
    settings: Settings,
    namespaces: Vec<Option<String>>,
    seat: Option<Seat>,
    telemetry: Arc<Telemetry>,
    stop: impl Future<Output = ()>,
) {
    let stop = stop.shared();
    let leading = watch::Sender::new(seat.is_none());
    let mut election = tokio::task::JoinSet::new();
    let (resigning, resign) = tokio::sync::oneshot::channel::<()>();
    if let Some(seat) = seat {
        let candidate = Candidate::new(client.clone(), seat, leading.clone(), Arc::clone(&telemetry));
        election.spawn(candidate.run(resign.map(|_| ())));
    } else {
        telemetry.leading.store(true, Ordering::Relaxed);
    }
    loop {
        let policy = tokio::select! {
            () = stop.clone() => break,
            policy = discover::policy(&client) => policy,
        };
        let end = async {
            tokio::select! {
                () = stop.clone() => true,
                () = discover::another_policy(&client, policy) => false,
            }
        };
        let settings = Settings { policy, ..settings.clone() };
        if work(&client, &settings, &namespaces, &leading, &telemetry, end).await {
            break;
        }
    }
    // Only now: the next leader begins at once.
    let _ = resigning.send(());
    while election.join_next().await.is_some() {}
}

/// Looks after objects until `end`, and gives its answer.
async fn work<T>(
    client: &Client,
    settings: &Settings,
    namespaces: &[Option<String>],
    leading: &watch::Sender<bool>,
    telemetry: &Arc<Telemetry>,
    end: impl Future<Output = T>,
) -> T {
    let echoes = Echoes::default();
    let watched: Vec<_> = namespaces
        .iter()
        .map(|name| Cache::watch(client, name.as_deref(), settings.policy, &telemetry.watches, &echoes))
        .collect();
    let objects = Arc::new(watched.iter().map(|(cache, _)| cache.objects()).collect::<Vec<_>>());
    telemetry.objects.set(Arc::clone(&objects));
    let events = Arc::new(Events::new(client.clone(), telemetry.clone()));
    let (stopping, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    let mut ready = Vec::new();
    for (cache, changes) in watched {
        let context = Context {
            client: client.clone(),
            writer: Writer::new(client.clone(), telemetry.clone(), echoes.clone()),
            events: Arc::clone(&events),
            settings: settings.clone(),
            cache,
            objects: Arc::clone(&objects),
        };
        let (filled, is_filled) = tokio::sync::oneshot::channel();
        ready.push(is_filled);
        let (leading, stopped) = (leading.subscribe(), stopped.clone());
        tasks.spawn(look_after(Arc::new(context), changes, telemetry.clone(), filled, leading, stopped));
    }
    info!(?namespaces, "watching");
    let run = async {
        if futures::future::try_join_all(ready).await.is_ok() {
            telemetry.ready.store(true, Ordering::Relaxed);
            info!("ready");
        }
        // No task ends by itself.
        futures::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = end => answer,
        () = run => unreachable!("it pends for ever"),
    };
    info!("stopping");
    let _ = stopping.send(true);
    while tasks.join_next().await.is_some() {}
    answer
}

async fn look_after(
    context: Arc<Context>,
    changes: Changes,
    telemetry: Arc<Telemetry>,
    filled: tokio::sync::oneshot::Sender<()>,
    leading: watch::Receiver<bool>,
    mut stopped: watch::Receiver<bool>,
) {
    // Read apart from the looks: a cache must not fall behind because all looks are busy, or wait for it.
    let (sender, queue) = mpsc::unbounded();
    let reader = tokio::spawn(read(changes, context.cache.objects(), leading.clone(), sender.clone()));
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
    .shared();
    tokio::select! {
        () = stop.clone() => {
            reader.abort();
            return;
        }
        // Fails only when the reader is gone.
        _ = context.cache.wait_until_ready() => {}
    }
    let _ = filled.send(());
    let failures = Arc::new(Mutex::new(HashMap::<ObjectRef<Guarded>, u32>::new()));
    let store = context.cache.objects();
    let backoff = {
        let failures = Arc::clone(&failures);
        move |object: Arc<Guarded>, _: &Error, _: Arc<Context>| {
            let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
            let count = failures.entry(ObjectRef::from_obj(&*object)).or_default();
            *count = count.saturating_add(1);
            Action::requeue(delay(*count))
        }
    };
    let one_look = move |object: Arc<Guarded>, context: Arc<Context>| {
        let leads = *leading.borrow();
        let again = sender.clone();
        async move {
            if !leads {
                return Ok(Action::await_change());
            }
            let look = tokio::spawn(async move {
                let _look = context.writer.echoes().look(ObjectRef::from_obj(&*object), again);
                reconcile(&object, &context).await
            });
            Ok::<_, Error>(Action::requeue(look.await??))
        }
        .boxed()
    };
    let config = controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    applier(one_look, backoff, context, store, queue.map(Ok::<_, watcher::Error>).take_until(stop), config)
        .for_each(|result| {
            match result {
                Ok((object, _)) => {
                    failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&object);
                    telemetry.reconciled.fetch_add(1, Ordering::Relaxed);
                }
                Err(controller::Error::ObjectNotFound(object)) => debug!(%object, "is gone"),
                Err(error) => {
                    telemetry.failed.fetch_add(1, Ordering::Relaxed);
                    warn!(%error, "will be repeated");
                }
            }
            std::future::ready(())
        })
        .await;
    reader.abort();
}

/// Reads for as long as there is someone to look; who does not lead lets changes pass, and begins with all objects when it does.
async fn read(
    mut changes: Changes,
    objects: Store<Guarded>,
    mut leading: watch::Receiver<bool>,
    queue: mpsc::UnboundedSender<ObjectRef<Guarded>>,
) {
    loop {
        let to_look_at = tokio::select! {
            elected = leading.changed() => match elected {
                Ok(()) if *leading.borrow_and_update() => {
                    objects.state().iter().map(|object| ObjectRef::from_obj(&**object)).collect()
                }
                Ok(()) => Vec::new(),
                Err(_) => return,
            },
            change = changes.next() => match change {
                None => return,
                Some(object) => Vec::from_iter(leading.borrow().then_some(object)),
            },
        };
        for object in to_look_at {
            if queue.unbounded_send(object).is_err() {
                return;
            }
        }
    }
}

/// 1, 2, 4 … seconds.
fn delay(failures: u32) -> Duration {
    let seconds = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_failures_are_repeated_less_and_less() {
        assert_eq!(
            [1, 2, 6, 7, 63, 64, 65, u32::MAX].map(|count| delay(count).as_secs()),
            [1, 2, 32, 60, 60, 60, 60, 60]
        );
    }
}
