//! The operator's runtime: signals, HTTP servers, leader election, and a controller for each watch
//! cache.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{FutureExt as _, StreamExt as _};
use kube::Client;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{applier, watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::apply::Writer;
use super::cache::{Cache, Changes};
use super::discover::Discovery;
use super::events::Events;
use super::guarded::Guarded;
use super::leader::{Candidate, Seat};
use super::reconcile::{Context, Error, reconcile};
use super::settings::{Args, Environment, Settings};
use super::telemetry::{self, Telemetry};
use crate::common::{http, http_server, log};

/// The number of objects that a controller reconciles at the same time.
const CONCURRENCY: u16 = 16;
/// The time window within which several changes to one object or its owned objects cause a single
/// reconciliation.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The maximum delay between reconciliations of an object that keeps failing.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Runs the operator until SIGTERM or SIGINT. `format` is the format of the operator's own log.
pub async fn run(args: Args, format: log::Format) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let settings = args.settings(format)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let client = Client::try_default().await?;
    let telemetry = Arc::new(Telemetry::default());
    let probes = http::bind(None, args.probe_port)?;
    let metrics = http::bind(None, args.metrics_port)?;
    let seat = args.lease().map(|lease| Seat::of_this_process(&client, lease));
    let never = CancellationToken::new();
    let http = futures::future::join(
        http_server::serve(probes, telemetry::probes(telemetry.clone()), never.clone()),
        http_server::serve(metrics, telemetry::metrics(telemetry.clone()), never),
    );
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        _ = http => {}
        () = operate(client, settings, args.namespaces(), seat, telemetry, stop) => {}
    }
    Ok(())
}

/// Reconciles the objects in the given namespaces (`None` means all) until `stop` completes.
/// Running reconciliations are then completed. With a `seat`, the operator takes part in the leader
/// election and reconciles only while it is the leader. Without one, it always reconciles.
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
    let (mut election, resign) = (JoinSet::new(), CancellationToken::new());
    if let Some(seat) = seat {
        let candidate = Candidate::new(client.clone(), seat, leading.clone(), Arc::clone(&telemetry));
        election.spawn(candidate.run(resign.clone().cancelled_owned()));
    } else {
        telemetry.leading.store(true, Ordering::Relaxed);
    }
    // Each round starts with new caches, because the API server now serves different kinds or
    // fields.
    let mut discovery = Discovery::new(client.clone());
    loop {
        let served = tokio::select! {
            () = stop.clone() => break,
            served = discovery.served() => served,
        };
        let environment = Arc::new(Environment { settings: settings.clone(), served });
        let controllers = Controllers::start(&client, &environment, &namespaces, &leading, &telemetry);
        let is_over = tokio::select! {
            () = stop.clone() => true,
            () = discovery.change(served) => false,
        };
        info!("stopping");
        controllers.stop().await;
        if is_over {
            break;
        }
    }
    // The Lease is released last, because the next leader starts immediately.
    resign.cancel();
    while election.join_next().await.is_some() {}
}

/// The running controllers, one for each watch cache.
struct Controllers {
    tasks: JoinSet<()>,
    stopping: CancellationToken,
}

impl Controllers {
    fn start(
        client: &Client,
        environment: &Arc<Environment>,
        namespaces: &[Option<String>],
        leading: &watch::Sender<bool>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        let watch =
            |name: &Option<String>| Cache::watch(client, name.as_deref(), environment.served, &telemetry.watches);
        let watched: Vec<_> = namespaces.iter().map(watch).collect();
        let objects = Arc::new(watched.iter().map(|(cache, _)| cache.objects()).collect::<Vec<_>>());
        telemetry.objects.set(Arc::clone(&objects));
        let events = Arc::new(Events::new(client.clone(), telemetry.clone()));
        let (mut tasks, stopping) = (JoinSet::new(), CancellationToken::new());
        let unfilled = Arc::new(AtomicUsize::new(watched.len()));
        for (cache, changes) in watched {
            let context = Arc::new(Context {
                client: client.clone(),
                writer: Writer::new(client.clone(), telemetry.clone(), cache.echoes()),
                events: Arc::clone(&events),
                environment: Arc::clone(environment),
                cache,
                objects: Arc::clone(&objects),
            });
            let controller = Controller {
                context,
                telemetry: Arc::clone(telemetry),
                leading: leading.subscribe(),
                unfilled: Arc::clone(&unfilled),
            };
            tasks.spawn(controller.run(changes, stopping.clone()));
        }
        info!(?namespaces, "watching");
        Self { tasks, stopping }
    }

    /// Stops the controllers after they have finished their current reconciliations.
    async fn stop(mut self) {
        self.stopping.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The controller of one watch cache.
struct Controller {
    context: Arc<Context>,
    telemetry: Arc<Telemetry>,
    leading: watch::Receiver<bool>,
    /// The number of caches, across all controllers, that have not been filled yet.
    unfilled: Arc<AtomicUsize>,
}

impl Controller {
    /// Reconciles objects as they change, until `stopping` is cancelled.
    async fn run(self, changes: Changes, stopping: CancellationToken) {
        let Self { context, telemetry, leading, unfilled } = self;
        let (sender, queue) = unbounded();
        // A separate task fills the cache, so that the cache neither falls behind while all
        // reconciliation slots are busy nor waits for the first reconciliation.
        let fill = fill(changes, context.cache.objects(), leading.clone(), sender.clone());
        let filler = tokio::spawn(fill);
        tokio::select! {
            () = stopping.cancelled() => {}
            // No other task is allowed to wait for this cache, because kube wakes only one of
            // several waiters.
            ready = context.cache.wait_until_ready() => {
                if ready.is_ok() && unfilled.fetch_sub(1, Ordering::Relaxed) == 1 {
                    telemetry.ready.store(true, Ordering::Relaxed);
                    info!("ready");
                }
                reconcile_all(context, telemetry, leading, (sender, queue), stopping.clone()).await;
            }
        }
        filler.abort();
    }
}

type Queue = (UnboundedSender<ObjectRef<Guarded>>, UnboundedReceiver<ObjectRef<Guarded>>);

/// Reconciles the queued objects until `stopping` is cancelled. Failed reconciliations are retried
/// with exponential backoff.
async fn reconcile_all(
    context: Arc<Context>,
    telemetry: Arc<Telemetry>,
    leading: watch::Receiver<bool>,
    (sender, queue): Queue,
    stopping: CancellationToken,
) {
    let (store, backoff) = (context.cache.objects(), Backoff::default());
    let clock = telemetry.clone();
    let reconcile = move |object: Arc<Guarded>, context: Arc<Context>| {
        let (is_leading, again, clock) = (*leading.borrow(), sender.clone(), clock.clone());
        async move {
            if !is_leading {
                return Ok(Action::await_change());
            }
            // A reconciliation runs in its own task, so that it completes even if the controller
            // stops.
            let reconciliation = tokio::spawn(async move {
                let _reconciliation = context.cache.begin_reconciliation(ObjectRef::from_obj(&*object), again);
                clock.timed(Box::pin(reconcile(&object, &context))).await
            });
            Ok::<_, Error>(Action::requeue(reconciliation.await??))
        }
        .boxed()
    };
    let on_error = {
        let backoff = backoff.clone();
        move |object: Arc<Guarded>, _: &Error, _: Arc<Context>| {
            Action::requeue(backoff.delay_after_failure(ObjectRef::from_obj(&*object)))
        }
    };
    let config = controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let queue = queue.map(Ok::<_, watcher::Error>).take_until(stopping.cancelled_owned());
    let mut results = applier(reconcile, on_error, context, store, queue, config).boxed();
    while let Some(result) = results.next().await {
        match result {
            Ok((object, _)) => {
                backoff.reset(&object);
                telemetry.reconciled.fetch_add(1, Ordering::Relaxed);
            }
            Err(controller::Error::ObjectNotFound(object)) => {
                debug!(namespace = object.namespace, name = object.name, "the object no longer exists");
            }
            Err(controller::Error::ReconcilerFailed(error, object)) => {
                telemetry.failed.fetch_add(1, Ordering::Relaxed);
                warn!(namespace = object.namespace, name = object.name, %error, "reconciliation failed; retrying");
            }
            Err(error) => {
                telemetry.failed.fetch_add(1, Ordering::Relaxed);
                warn!(%error, "could not run a reconciliation");
            }
        }
    }
}

/// Fills the cache by polling the watches, and queues the changed objects, until the queue is
/// closed. A standby discards the changes; when it becomes the leader, it queues all objects.
async fn fill(
    mut changes: Changes,
    objects: Store<Guarded>,
    mut leading: watch::Receiver<bool>,
    queue: UnboundedSender<ObjectRef<Guarded>>,
) {
    loop {
        let due = tokio::select! {
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
        for object in due {
            if queue.unbounded_send(object).is_err() {
                return;
            }
        }
    }
}

/// The number of consecutive failures for each object.
#[derive(Clone, Default)]
struct Backoff(Arc<Mutex<HashMap<ObjectRef<Guarded>, u32>>>);

impl Backoff {
    /// Records a failure for the object. Returns the delay before the next attempt.
    fn delay_after_failure(&self, object: ObjectRef<Guarded>) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object).or_default();
        *count = count.saturating_add(1);
        delay(*count)
    }

    /// Resets the object's failure count.
    fn reset(&self, object: &ObjectRef<Guarded>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// Returns the delay after a number of consecutive failures: 1, 2, 4 … seconds, up to
/// [`MAX_BACKOFF`].
fn delay(failures: u32) -> Duration {
    let seconds = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_with_each_failure_up_to_a_minute() {
        assert_eq!(
            [1, 2, 6, 7, 63, 64, 65, u32::MAX].map(|count| delay(count).as_secs()),
            [1, 2, 32, 60, 60, 60, 60, 60]
        );
    }
}
