//! The status socket. The daemon writes its state to each connection, as JSON in the format of
//! Python Onionbalance, and then closes the connection.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Duration, sleep, timeout};

use crate::onion::OnionAddress;

/// The maximum time for writing a status document. If the peer has not read the document by then,
/// the daemon closes the connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// The maximum number of connections to the status socket. If another peer connects, the daemon
/// closes the oldest connection.
const CONNECTIONS: usize = 16;
/// The longest path of a unix socket, in bytes (`sun_path` without the NUL at its end).
const MAX_PATH: usize = 107;
/// The pause between two attempts to lock the socket's directory.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The number of attempts to lock the socket's directory. A daemon holds the lock for milliseconds.
const LOCK_ATTEMPTS: u32 = 40;

/// A service, as the status document shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// The onion address of the service.
    pub(super) address: OnionAddress,
    /// The publishing times of the newest descriptors for the first and the second time period.
    pub(super) attempts: [Option<SystemTime>; 2],
    /// The instances of the service.
    pub(super) instances: Vec<InstanceView>,
}

/// An instance, as the status document shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InstanceView {
    /// The instance's own onion address.
    pub(super) address: OnionAddress,
    /// Three values: the time of the last successful fetch of the instance's descriptor, the time
    /// at which the instance's introduction points last changed, and the number of these points.
    /// None before the first fetch.
    pub(super) seen: Option<(SystemTime, SystemTime, usize)>,
}

impl View {
    /// Creates an empty view of a service.
    pub(super) fn of(address: OnionAddress) -> Self {
        Self { address, attempts: [None, None], instances: Vec::new() }
    }
}

/// Builds the status document. The services are listed in the order of the configuration, and times
/// are in UTC.
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

/// A listening status socket. Dropping it closes the socket and removes its file.
pub(super) struct StatusSocket {
    path: PathBuf,
    /// The identity of the socket's file.
    file: Option<FileIdentity>,
    task: JoinHandle<()>,
}

/// The device, the inode and the modification time of a file. The number of an inode is used again
/// after its file has been removed.
type FileIdentity = (u64, u64, i64, i64);

impl StatusSocket {
    /// Listens on a socket at `path`. A socket that a dead process has left there is replaced.
    ///
    /// # Errors
    ///
    /// Returns an error that names the path if a living process listens there, if `path` is another
    /// kind of file, or if the socket cannot be created.
    pub(super) async fn open(path: PathBuf, views: watch::Receiver<Vec<watch::Receiver<View>>>) -> io::Result<Self> {
        let bound = bind(&path).await;
        let listener = bound.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        tracing::info!("listening on the status socket {}", path.display());
        let file = identity(&path);
        Ok(Self { path, file, task: tokio::spawn(serve(listener, views)) })
    }

    /// Returns the path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns false if the socket's file has been removed or replaced, so that no client can
    /// connect any more.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_some() && identity(&self.path) == self.file
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.task.abort();
        // Another daemon may have replaced the file with a socket of its own.
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<FileIdentity> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Creates the socket. Only a socket without a listener is removed first.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    let refused = |problem: String| io::Error::new(io::ErrorKind::AlreadyExists, problem);
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_PATH {
        let problem = format!(
            "the path has {length} bytes, but a socket's path can have at most {MAX_PATH}; choose a shorter path"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    // Without the lock, a daemon that finds a dead socket could remove the socket with which
    // another daemon has just replaced it.
    let _lock = lock(path).await;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(refused(format!(
                    "the socket may belong to a running process ({error}); choose another path"
                )));
            }
            // A full queue also shows that a process listens.
            Ok(_) | Err(_) => {
                return Err(refused(
                    "another running process listens there, perhaps another daemon; stop it or choose another path"
                        .to_owned(),
                ));
            }
        },
        Ok(_) => return Err(refused("the file exists and is not a socket; choose another path".to_owned())),
        Err(_) => {}
    }
    UnixListener::bind(path).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "create the directory, in a systemd unit with RuntimeDirectory=",
            io::ErrorKind::PermissionDenied => "let the daemon's user write to the directory",
            _ => return error,
        };
        io::Error::new(error.kind(), format!("{error}; {remedy}"))
    })
}

/// Locks the directory of a socket against other daemons. Returns None if another process holds the
/// lock for two seconds, or if locking is impossible, for example because the directory does not
/// exist.
async fn lock(socket: &Path) -> Option<File> {
    let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(std::fs::TryLockError::WouldBlock) => sleep(LOCK_PAUSE).await,
            Err(std::fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

async fn serve(listener: UnixListener, views: watch::Receiver<Vec<watch::Receiver<View>>>) {
    // The connections, the oldest first.
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let views: Vec<View> = views.borrow().iter().map(|view| view.borrow().clone()).collect();
                open.retain(|connection| !connection.is_finished());
                if open.len() >= CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let answer = tokio::spawn(timeout(PATIENCE, answer(stream, document(&views).to_string())));
                open.push_back(answer.abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection to the status socket");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Writes the status document to a connection. Errors are ignored, because the peer may have closed
/// the connection.
async fn answer(mut stream: UnixStream, text: String) {
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}
