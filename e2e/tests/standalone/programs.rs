//! Runs our `onionbalance` and `onionbalance-config` and those of Python Onionbalance on the same
//! inputs, and compares what they do. `docs/migrate-from-python.md` lists what differs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use onionbalance_e2e::command::{output, output_with_input};
use tokio::net::{TcpListener, UnixListener};
use tokio::process::Command;
use tokio::time::timeout;

use crate::setup::{bound_command, built, plugin, python};

/// The longest time that a program may take to end or to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// An input of `onionbalance-config`.
struct Input {
    /// The arguments. `KEY` stands for the path of a key in tor's format. Unless the program asks,
    /// `--output` follows.
    arguments: &'static str,
    /// The answers that follow the answer with the output directory. None if the program asks
    /// nothing.
    answers: Option<&'static str>,
}

const INPUTS: [Input; 12] = [
    // These are the inputs of Onionbalance's own functional tests.
    Input { arguments: "", answers: Some("1\n\n\n\n") },
    Input { arguments: "", answers: None },
    Input { arguments: "-v debug", answers: Some("2\n\n3\nweb\n\n1\nweb\n") },
    Input { arguments: "-n 3 -t web --no-interactive", answers: None },
    Input { arguments: "-s 2", answers: None },
    Input { arguments: "--tag a --ta web- --no", answers: None },
    Input { arguments: "-n 5 -n 1 -p secret --passw other", answers: None },
    Input { arguments: "--service-virtual-port 443 --service-t 127.0.0.1:8443", answers: None },
    Input { arguments: "-vwarning -t 7", answers: None },
    Input { arguments: "-v CRITICAL --hs v3", answers: None },
    Input { arguments: "--key KEY -s 2", answers: None },
    Input { arguments: "--ke /none --key KEY -v fatal", answers: None },
];

/// The files that a generator has written.
#[derive(Debug, PartialEq)]
struct Files {
    /// The text of `config.yaml`, in which `ADDRESS` stands for the addresses of the keys.
    config: String,
    /// The shapes of the keys, in the order of the configuration: the mode, the length, and the
    /// first line of a PEM file or the whole content of another one.
    keys: Vec<(u32, usize, Vec<u8>)>,
}

#[tokio::test]
async fn both_generators_write_the_same_files() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut generate = Command::new(plugin()?);
    generate.args(["key", "generate", "--output"]).arg(dir.path().join("key"));
    output(&mut generate).await?;
    let key = dir.path().join("key/hs_ed25519_secret_key");
    let programs = [built("onionbalance-config")?, python().await?.with_file_name("onionbalance-config")];
    for (index, input) in INPUTS.iter().enumerate() {
        let directory = |whose: &str| dir.path().join(format!("{whose}{index}"));
        let ours = generated(&programs[0], input, &key, &directory("ours")).await?;
        let pythons = generated(&programs[1], input, &key, &directory("python")).await?;
        ensure!(ours == pythons, "{:?}: ours {ours:#?}, Python's {pythons:#?}", input.arguments);
    }
    Ok(())
}

async fn generated(program: &Path, input: &Input, key: &Path, directory: &Path) -> Result<Files> {
    let mut command = Command::new(program);
    command.args(input.arguments.replace("KEY", &key.display().to_string()).split_whitespace());
    let answers = input.answers.map(|answers| format!("{}\n{answers}", directory.display())).unwrap_or_default();
    if input.answers.is_none() {
        command.arg("--output").arg(directory);
    }
    output_with_input(&mut command, &answers).await?;
    files(directory)
}

/// Reads the files in a generated directory. Any other entry than a key or `config.yaml` is an
/// error.
fn files(directory: &Path) -> Result<Files> {
    let mut config = fs::read_to_string(directory.join("config.yaml"))?;
    let mut keys = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "config.yaml" {
            continue;
        }
        let place = config.find(&name).with_context(|| format!("{name} is not in {config}"))?;
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        let content = fs::read(&path)?;
        let length = content.len();
        let is_pem = content.starts_with(b"-----BEGIN");
        let shape =
            if is_pem { content.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec() } else { content };
        keys.insert(place, (mode, length, shape));
        // The replacement has the same length, so that the places of the others stay the same.
        let address = name.strip_suffix(".key").with_context(|| format!("{name} is no key"))?;
        config = config.replace(address, &"A".repeat(address.len()));
    }
    Ok(Files { config, keys: keys.into_values().collect() })
}

/// A command line of the daemon, with its environment variables.
struct Line {
    arguments: &'static str,
    variables: &'static [(&'static str, &'static str)],
}

/// The command lines that both daemons refuse or answer, with the exit code.
const ENDING: [(i32, Line); 11] = [
    (0, Line { arguments: "--help", variables: &[] }),
    (0, Line { arguments: "--vers", variables: &[] }),
    (2, Line { arguments: "--ver", variables: &[] }),
    (2, Line { arguments: "--unknown", variables: &[] }),
    (2, Line { arguments: "stray", variables: &[] }),
    (2, Line { arguments: "-p many", variables: &[] }),
    (2, Line { arguments: "--hs-version v2", variables: &[] }),
    (1, Line { arguments: "-c /none/config.yaml -v warn", variables: &[] }),
    (1, Line { arguments: "", variables: &[("ONIONBALANCE_CONFIG", "/none/config.yaml")] }),
    (1, Line { arguments: "", variables: &[("ONIONBALANCE_CONFIG", "")] }),
    (1, Line { arguments: "-c /none/config.yaml", variables: &[("ONIONBALANCE_LOG_LEVEL", "loud")] }),
];

#[tokio::test]
async fn both_daemons_end_with_the_same_exit_code() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for program in [built("onionbalance")?, python().await?.with_file_name("onionbalance")] {
        for (expected, line) in &ENDING {
            let mut command = daemon(&program, line, dir.path(), "");
            let ended = timeout(PATIENCE, command.output()).await.context("the program does not end")??;
            let printed = String::from_utf8_lossy(&ended.stderr).into_owned();
            ensure!(
                ended.status.code() == Some(*expected),
                "{program:?} {}: {}\n{printed}",
                line.arguments,
                ended.status
            );
        }
    }
    Ok(())
}

/// The control endpoint that a daemon uses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Endpoint {
    Socket,
    Port,
}

/// The command lines with which both daemons run, with the endpoint to which they connect. The
/// words `CONFIG`, `SOCKET` and `PORT` stand for the files and the port of the test.
const RUNNING: [(Endpoint, Line); 7] = [
    (Endpoint::Socket, Line { arguments: "--conf CONFIG --sock SOCKET --is", variables: &[] }),
    (
        Endpoint::Socket,
        Line { arguments: "-c /none -s /none -c CONFIG --socket=SOCKET -v info -vfatal", variables: &[] },
    ),
    (Endpoint::Port, Line { arguments: "-cCONFIG -s /none --por PORT --ip 127.0.0.1", variables: &[] }),
    (
        Endpoint::Socket,
        Line {
            arguments: "-v notset",
            variables: &[("ONIONBALANCE_CONFIG", "CONFIG"), ("ONIONBALANCE_TOR_CONTROL_SOCKET", "SOCKET")],
        },
    ),
    (
        Endpoint::Port,
        Line { arguments: "--config CONFIG -p 1 -p PORT", variables: &[("ONIONBALANCE_TOR_CONTROL_SOCKET", "")] },
    ),
    (
        Endpoint::Socket,
        Line {
            arguments: "-c CONFIG -s SOCKET",
            variables: &[
                ("ONIONBALANCE_LOG_LEVEL", ""),
                ("ONIONBALANCE_STATUS_SOCKET_LOCATION", ""),
                ("LOG_FORMAT", "x"),
            ],
        },
    ),
    (
        Endpoint::Socket,
        Line { arguments: "-c CONFIG -s SOCKET --verbosity=", variables: &[("ONIONBALANCE_LOG_LEVEL", "Debug")] },
    ),
];

#[tokio::test]
async fn both_daemons_use_the_same_configuration_and_endpoint() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write_config(dir.path()).await?;
    for program in [built("onionbalance")?, python().await?.with_file_name("onionbalance")] {
        for (expected, line) in &RUNNING {
            let used = used_endpoint(&program, line, dir.path()).await;
            let used = used.with_context(|| format!("{program:?} {}", line.arguments))?;
            ensure!(used == *expected, "{program:?} {}: connected to {used:?}", line.arguments);
        }
    }
    Ok(())
}

/// Writes a configuration whose only instance is the service of another generated key.
async fn write_config(dir: &Path) -> Result<()> {
    let mut addresses = Vec::new();
    for name in ["service", "instance"] {
        let mut generate = Command::new(plugin()?);
        generate.args(["key", "generate", "--output"]).arg(dir.join(name));
        let printed = output(&mut generate).await?;
        addresses.push(printed.lines().next().context("no address was printed")?.to_owned());
    }
    let key = "service/hs_ed25519_secret_key";
    let text = format!("services:\n- key: {key}\n  instances:\n  - address: {}\n", addresses[1]);
    Ok(fs::write(dir.join("config.yaml"), text)?)
}

/// Starts a daemon and returns the endpoint to which it connects first. Then ends the daemon.
async fn used_endpoint(program: &Path, line: &Line, dir: &Path) -> Result<Endpoint> {
    let socket = dir.join("control");
    let _ = fs::remove_file(&socket);
    let unix = UnixListener::bind(&socket)?;
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let mut command = daemon(program, line, dir, &tcp.local_addr()?.port().to_string());
    timeout(PATIENCE, first_connection(&unix, &tcp, &mut command)).await.context("no connection")?
}

async fn first_connection(unix: &UnixListener, tcp: &TcpListener, command: &mut Command) -> Result<Endpoint> {
    tokio::select! {
        connected = unix.accept() => {
            connected?;
            Ok(Endpoint::Socket)
        }
        connected = tcp.accept() => {
            connected?;
            Ok(Endpoint::Port)
        }
        ended = command.output() => {
            let ended = ended?;
            bail!("ended without a connection: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr))
        }
    }
}

/// Returns the command of a daemon. Its process ends when the future that runs it is dropped.
fn daemon(program: &Path, line: &Line, dir: &Path, port: &str) -> Command {
    let (config, socket) = (dir.join("config.yaml"), dir.join("control"));
    let fill = |text: &str| {
        let text = text.replace("CONFIG", &config.display().to_string());
        text.replace("SOCKET", &socket.display().to_string()).replace("PORT", port)
    };
    let mut command = bound_command(program);
    for name in ["ONIONBALANCE_CONFIG", "ONIONBALANCE_TOR_CONTROL_SOCKET", "ONIONBALANCE_LOG_LEVEL", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.args(line.arguments.split_whitespace().map(fill));
    command.envs(line.variables.iter().map(|(name, value)| (*name, fill(value))));
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}
