//! The HTTP server that all programs share. A peer that sends or reads slowly, or that opens many
//! connections, can neither use up the program's memory and open files nor keep other peers out.
//!
//! - A connection is closed if its peer takes longer than `HEAD_TIMEOUT` for the head of the next
//!   request, longer than `BODY_TIMEOUT` for the body, or does not read the response for
//!   `WRITE_TIMEOUT`.
//! - Each listener has a limited number of connections. A newcomer takes the place of another
//!   connection (`seats`).
//!
//! A response may take as long as it needs: `/drain` waits for hours.

mod seats;
mod timed;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::log_limit::{Line, LogLimit};
use super::open_files::Shares;
use seats::{Activity, Seat};
use timed::{TimedBody, TimedStream};

/// The longest time that a peer may take to send the head of a request. The time begins when the
/// connection opens or when the previous response has been sent, so it also limits how long an idle
/// connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that a peer may take to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that a peer may go without reading the response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of a request's head, and of the buffers of a connection, in bytes.
const BUFFER: usize = 16 * 1024;
/// The pause after a failed accept, for example when no file descriptor is free.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves a router on a listening socket until `stop` is cancelled. Then accepts no more
/// connections, and returns when the requests in progress have been answered.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_some(listener, router, Shares::of_this_process().connections, stop).await;
}

/// Serves a router with at most `limit` connections at a time.
async fn serve_some(listener: TcpListener, router: Router, limit: usize, stop: CancellationToken) {
    let mut server = Server { router, limit, stop, tasks: JoinSet::new(), open: Vec::new(), log: LogLimit::default() };
    let accept_log = LogLimit::default();
    loop {
        tokio::select! {
            () = server.stop.cancelled() => break,
            Some(ended) = server.tasks.join_next_with_id() => server.forget(&ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => server.admit(stream, peer.ip().to_canonical()).await,
                Err(error) => {
                    if let Some(Line { suppressed }) = accept_log.line() {
                        tracing::warn!(%error, suppressed, "could not accept an HTTP connection; retrying");
                    }
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    drop(listener);
    while server.tasks.join_next().await.is_some() {}
}

/// The connections of one listener.
struct Server {
    router: Router,
    limit: usize,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// The running tasks, in the order in which their connections were accepted.
    open: Vec<Open>,
    log: LogLimit,
}

/// An open connection.
struct Open {
    peer: IpAddr,
    activity: Arc<Activity>,
    task: AbortHandle,
}

type Ended = Result<(Id, ()), JoinError>;

impl Server {
    /// Serves a new connection, if there is a place for the connection.
    async fn admit(&mut self, stream: TcpStream, peer: IpAddr) {
        if self.open.len() >= self.limit && !self.make_room(peer).await {
            return;
        }
        let activity = Arc::new(Activity::new());
        let connection = converse(stream, self.router.clone(), activity.clone(), self.stop.clone());
        let task = self.tasks.spawn(connection);
        self.open.push(Open { peer, activity, task });
    }

    /// Closes a connection to make room for a newcomer. Returns false if no connection gives way.
    async fn make_room(&mut self, newcomer: IpAddr) -> bool {
        let seats: Vec<_> =
            self.open.iter().map(|open| Seat { peer: open.peer, phase: open.activity.phase() }).collect();
        let victim = seats::gives_way(&seats, newcomer).and_then(|index| self.open.get(index));
        if let Some(Line { suppressed }) = self.log.line() {
            let (limit, closed) = (self.limit, if victim.is_some() { "an older one" } else { "the new one" });
            tracing::warn!(limit, suppressed, "too many HTTP connections; closed {closed}");
        }
        let Some(victim) = victim else { return false };
        victim.task.abort();
        // The file of the closed connection must be free before the newcomer counts.
        while self.open.len() >= self.limit {
            let Some(ended) = self.tasks.join_next_with_id().await else { break };
            self.forget(&ended);
        }
        true
    }

    fn forget(&mut self, ended: &Ended) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.open.retain(|open| open.task.id() != id);
    }
}

/// Answers the requests of one connection. An error affects only this connection, and is ignored.
async fn converse(stream: TcpStream, router: Router, activity: Arc<Activity>, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, activity) = (TowerToHyperService::new(router.clone()), activity.clone());
        async move {
            if request.body().is_end_stream() {
                activity.works();
            }
            let request = request.map(|body| TimedBody::new(body, activity.clone()));
            let response = router.call(request).await;
            activity.waits();
            response
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
    let mut connection = pin!(http.serve_connection(TokioIo::new(TimedStream::new(stream)), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests;
