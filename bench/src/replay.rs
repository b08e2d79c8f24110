//! A simulated tor control port with a network of any size. It answers the commands that our
//! publisher and Python Onionbalance send.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use crate::network::Texts;

/// A simulated tor control port with a network of any size.
#[derive(Debug)]
pub struct Replay {
    /// The documents of the simulated network.
    pub texts: Texts,
    /// The number of times that the microdescriptors have been read.
    read: AtomicUsize,
    /// The connections that have subscribed to events, with their `SETEVENTS` lines.
    listeners: Mutex<Vec<(Writer, String)>>,
}

type Writer = Arc<Mutex<UnixStream>>;

impl Replay {
    /// Creates a control port for the given network, whose HSDirs have no descriptors.
    pub fn new(texts: Texts) -> Arc<Self> {
        Arc::new(Self { texts, read: AtomicUsize::new(0), listeners: Mutex::default() })
    }

    /// Returns the number of times that the microdescriptors have been read.
    pub fn times_read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    /// Announces a new consensus to all subscribers. The content of the consensus does not change.
    pub fn new_consensus(&self) -> Result<()> {
        for (writer, events) in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if events.contains("NEWCONSENSUS") {
                write(writer, "650+NEWCONSENSUS\r\n.\r\n650 OK\r\n")?;
            } else {
                write(writer, "650 STATUS_CLIENT NOTICE CONSENSUS_ARRIVED\r\n")?;
            }
        }
        Ok(())
    }

    /// Starts listening on a unix socket, which stays open until this process ends.
    pub fn listen(self: &Arc<Self>, socket: &Path) -> Result<()> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("could not listen on {}", socket.display()))?;
        let replay = Arc::clone(self);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let replay = Arc::clone(&replay);
                // An error only means that the client has disconnected.
                thread::spawn(move || _ = replay.serve(stream));
            }
        });
        Ok(())
    }

    fn serve(&self, stream: UnixStream) -> Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let writer = Arc::new(Mutex::new(stream));
        while let Some(line) = lines.next().transpose()? {
            let mut words = line.split_ascii_whitespace();
            let command = words.next().unwrap_or_default().to_ascii_uppercase();
            let answer = match command.as_str() {
                "PROTOCOLINFO" => {
                    "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK\r\n"
                        .to_owned()
                }
                "GETINFO" => self.info(words.next().unwrap_or_default()),
                "GETCONF" => conf(words.next().unwrap_or_default()),
                "SETEVENTS" => {
                    let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
                    listeners.retain(|(other, _)| !Arc::ptr_eq(other, &writer));
                    listeners.push((Arc::clone(&writer), line));
                    "250 OK\r\n".to_owned()
                }
                "HSFETCH" => not_found(words.next().unwrap_or_default(), words.next()),
                "QUIT" => return Ok(()),
                _ => "250 OK\r\n".to_owned(),
            };
            write(&writer, &answer)?;
        }
        Ok(())
    }

    fn info(&self, key: &str) -> String {
        match key {
            "version" => "250-version=0.4.9.11\r\n250 OK\r\n".to_owned(),
            "status/bootstrap-phase" => {
                format!("250-{key}=NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY=\"Done\"\r\n250 OK\r\n")
            }
            "dir/status-vote/current/consensus-microdesc" => data(key, &self.texts.consensus),
            "md/all" => {
                self.read.fetch_add(1, Ordering::Relaxed);
                data(key, &self.texts.microdescriptors)
            }
            _ => format!("552 Unrecognized key \"{key}\"\r\n"),
        }
    }
}

fn write(writer: &Writer, text: &str) -> Result<()> {
    Ok(writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes())?)
}

/// Returns the reply to `HSFETCH`: the fetch fails at the named HSDir, or at an arbitrary one if
/// none is named.
fn not_found(address: &str, server: Option<&str>) -> String {
    let hsdir = server.and_then(|server| server.strip_prefix("SERVER=")).map_or_else(|| "A".repeat(40), str::to_owned);
    let (hsdir, id) = (format!("${hsdir}~replay"), "A".repeat(43));
    format!(
        "250 OK\r\n650 HS_DESC FAILED {address} NO_AUTH {hsdir} {id} REASON=NOT_FOUND\r\n\
         650+HS_DESC_CONTENT {address} {id} {hsdir}\r\n\r\n.\r\n650 OK\r\n"
    )
}

fn conf(option: &str) -> String {
    match option.to_ascii_lowercase().as_str() {
        "testingtornetwork" => "250 TestingTorNetwork=0\r\n".to_owned(),
        _ => format!("250 {option}\r\n"),
    }
}

fn data(key: &str, text: &str) -> String {
    let mut answer = format!("250+{key}=\r\n");
    for line in text.lines() {
        if line.starts_with('.') {
            answer.push('.');
        }
        answer.push_str(line);
        answer.push_str("\r\n");
    }
    answer + ".\r\n250 OK\r\n"
}
