//! The status socket. It sends the state as JSON to each client, as Python Onionbalance does, and
//! closes the connection.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep, timeout};

use crate::onion::OnionAddress;

/// The time after which a client that does not read is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// A service as the status socket shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// The service's onion address.
    pub(super) address: OnionAddress,
    /// The times at which the first and the second descriptor were last published.
    pub(super) attempts: [Option<SystemTime>; 2],
    pub(super) instances: Vec<InstanceView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstanceView {
    pub(super) address: OnionAddress,
    /// The time of the last fetch of its descriptor, the time at which its introduction points last
    /// changed, and their number.
    pub(super) seen: Option<(SystemTime, SystemTime, usize)>,
}

impl View {
    /// Returns the view of a service of which nothing is known yet.
    pub(super) fn of(address: OnionAddress) -> Self {
        Self { address, attempts: [None, None], instances: Vec::new() }
    }
}

/// Returns the JSON document: `services` in the configuration's order, with times in UTC.
pub(super) fn document(views: &[View]) -> Value {
    let instance = |instance: &InstanceView| match instance.seen {
        None => json!({"onionAddress": instance.address.to_string(), "received": null}),
        Some((received, modified, points)) => json!({
            "onionAddress": instance.address.to_string(),
            "descriptorReceived": time(received),
            "introSetModified": time(modified),
            "introPointsNum": points,
        }),
    };
    let service = |view: &View| {
        let [first, second] = view.attempts.map(|attempt| attempt.map(time));
        json!({
            "onionAddress": view.address.to_string(),
            "publishAttemptFirstDescriptor": first,
            "publishAttemptSecondDescriptor": second,
            "instances": view.instances.iter().map(instance).collect::<Vec<_>>(),
        })
    };
    json!({"services": views.iter().map(service).collect::<Vec<_>>()})
}

fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// The status socket, which listens until it is dropped. Its file is removed then.
pub(super) struct StatusSocket {
    path: PathBuf,
    /// The device and the inode of the socket's file.
    file: Option<(u64, u64)>,
    task: JoinHandle<()>,
}

impl StatusSocket {
    /// Opens the socket. A socket file that is left over is removed; any other file is an error.
    /// Errors name the path.
    pub(super) fn open(path: PathBuf, views: watch::Receiver<Vec<watch::Receiver<View>>>) -> io::Result<Self> {
        let bind = || {
            match std::fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(&path)?,
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AlreadyExists,
                        "a file exists that is not a socket; remove it or choose another path",
                    ));
                }
                Err(_) => {}
            }
            UnixListener::bind(&path)
        };
        let listener = bind().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        tracing::info!("opened the status socket {}", path.display());
        let file = identity(&path);
        Ok(Self { path, file, task: tokio::spawn(serve(listener, views)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.task.abort();
        // Another daemon may have replaced the file.
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

async fn serve(listener: UnixListener, views: watch::Receiver<Vec<watch::Receiver<View>>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let views: Vec<View> = views.borrow().iter().map(|view| view.borrow().clone()).collect();
                tokio::spawn(timeout(PATIENCE, answer(stream, document(&views).to_string())));
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection to the status socket");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Sends the state. Errors are ignored: the client has closed the connection.
async fn answer(mut stream: UnixStream, text: String) {
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}
