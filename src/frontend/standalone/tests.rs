//! Tests of the daemon's configuration, reload and status socket, without a tor process.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::status::{InstanceView, document};
use super::*;
use crate::common::secret_file;
use crate::control::{Connector, ControlEndpoint};
use crate::onion::{Kit, MasterKey, PeriodCalendar, Seed};

#[derive(Debug, clap::Parser)]
struct Program {
    #[command(flatten)]
    options: Options,
}

fn address(seed: u8) -> OnionAddress {
    MasterKey::generate(&mut StdRng::from_seed([seed; 32])).address()
}

/// Creates a directory with a PEM key (`1.key`), a key in tor's format (`2.key`), and a
/// configuration. Each entry of `services` consists of a service's key file and the seeds of its
/// instances.
fn folder(services: &[(&str, &[u8])], more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pem = Seed::generate(&mut StdRng::from_seed([1; 32])).to_pem().unwrap();
    secret_file::write(&folder.path().join("1.key"), pem.as_bytes(), false).unwrap();
    let tor = MasterKey::generate(&mut StdRng::from_seed([2; 32])).to_tor_secret_key_file();
    secret_file::write(&folder.path().join("2.key"), &tor, false).unwrap();
    write(folder.path(), services, more);
    folder
}

fn write(folder: &Path, services: &[(&str, &[u8])], more: &str) {
    let mut text = "services:\n".to_owned();
    for (key, instances) in services {
        let instances: Vec<_> = instances.iter().map(|seed| json!({"address": address(*seed)})).collect();
        writeln!(text, "- {}", json!({"key": key, "instances": instances})).unwrap();
    }
    std::fs::write(folder.join("config.yaml"), text + more).unwrap();
}

fn load_from(folder: &Path) -> Result<Loaded, String> {
    load::load(&folder.join("config.yaml"), Counters::Clock).map_err(|error| error.to_string())
}

#[test]
fn loads_keys_of_both_formats_from_the_directory_of_the_configuration() {
    let folder = folder(&[("1.key", &[11]), ("2.key", &[12, 13])], "");
    let loaded = load_from(folder.path()).unwrap();
    assert_eq!(loaded.services[0].key.address(), address(1));
    assert_eq!(loaded.services[1].key.address(), address(2));
    assert_eq!(loaded.services[1].instances.addresses, [address(12), address(13)]);
}

#[test]
fn a_key_can_be_a_signing_kit_or_a_directory_of_them() {
    let folder = folder(&[("kits", &[11])], "");
    std::fs::create_dir(folder.path().join("kits")).unwrap();
    let master = MasterKey::generate(&mut StdRng::from_seed([3; 32]));
    for first in [20_788, 20_789] {
        let kit = Kit::issue(&master, PeriodCalendar::PUBLIC, first, 1).unwrap();
        secret_file::write(&folder.path().join(format!("kits/{first}.kit")), &kit.to_bytes(), false).unwrap();
    }
    let loaded = || {
        let key = load_from(folder.path()).unwrap().services.remove(0).key;
        (key.address(), [20_788, 20_789].map(|number| key.covers(PeriodCalendar::PUBLIC.period(number))))
    };
    assert_eq!(loaded(), (address(3), [true, true]));
    write(folder.path(), &[("kits/20788.kit", &[11])], "");
    assert_eq!(loaded(), (address(3), [true, false]));
}

/// Otherwise, the daemon would help a thief with kits as much as the owner of the master key.
#[test]
fn only_a_master_key_can_outrun_other_publishers() {
    let folder = folder(&[("web.kit", &[11])], "");
    let kit = Kit::issue(&MasterKey::generate(&mut StdRng::from_seed([3; 32])), PeriodCalendar::PUBLIC, 20_788, 1);
    secret_file::write(&folder.path().join("web.kit"), &kit.unwrap().to_bytes(), false).unwrap();
    let outrun = || load::load(&folder.path().join("config.yaml"), Counters::Outrun);
    let refused = outrun().err().unwrap().to_string();
    assert!(refused.contains("services[0].key: --outrun needs the master key"), "{refused}");
    write(folder.path(), &[("1.key", &[11])], "");
    assert_eq!(outrun().unwrap().services[0].key.address(), address(1));
    for (line, counters) in [("frontend", Counters::Clock), ("frontend --outrun", Counters::Outrun)] {
        assert_eq!(Program::parse_from(line.split(' ')).options.counters(), counters);
    }
}

#[test]
fn an_error_names_the_field_and_the_file() {
    let error = |services: &[(&str, &[u8])]| load_from(folder(services, "").path()).err().unwrap();
    assert!(error(&[("none.key", &[11])]).contains("services[0].key: "));
    assert!(error(&[("none.key", &[11])]).contains("none.key: No such file"));
    assert!(error(&[("config.yaml", &[11])]).contains("config.yaml: the file is not a key file"));
    assert!(error(&[(".", &[11])]).contains("; name the file in it, for example "));
    assert!(error(&[("~/1.key", &[11])]).contains("; the daemon does not replace ~ with a home directory"));
    assert!(error(&[("2.key", &[2])]).contains("services[0].instances: "));
    let missing = load::load(Path::new("/none/config.yaml"), Counters::Clock).err().unwrap().to_string();
    assert!(missing.starts_with("/none/config.yaml: No such file") && missing.contains("--config"), "{missing}");

    let folder = folder(&[("1.key", &[11])], "");
    let utf16: Vec<u8> = "\u{feff}services:".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(folder.path().join("config.yaml"), utf16).unwrap();
    let error = load_from(folder.path()).err().unwrap();
    assert!(error.ends_with("config.yaml: the file is not UTF-8 text; run iconv -f UTF-16 -t UTF-8 on it"), "{error}");
}

/// Python Onionbalance accepts such a configuration.
#[test]
fn services_with_the_same_key_become_one() {
    let folder = folder(&[("1.key", &[11, 12]), ("2.key", &[13]), ("./1.key", &[12, 14])], "");
    let loaded = load_from(folder.path()).unwrap();
    let services: Vec<_> =
        loaded.services.into_iter().map(|service| (service.key.address(), service.instances.addresses)).collect();
    let expected = [(address(1), [11, 12, 14].map(address).to_vec()), (address(2), vec![address(13)])];
    assert_eq!(services, expected);
}

#[test]
fn a_password_need_not_be_utf_8() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let options = Program::parse_from(["frontend", "--control-password-file", file.to_str().unwrap()]).options;
    std::fs::write(&file, b"p\xe4ss\r\n").unwrap();
    assert!(options.connector().unwrap().password.is_some());
    std::fs::write(&file, b"\r\n").unwrap();
    assert!(options.connector().unwrap().password.is_none());
    std::fs::write(&file, b"two\nlines\n").unwrap();
    assert!(options.connector().unwrap_err().to_string().contains("must not contain a line break"));
}

#[test]
fn instances_have_the_limit_of_the_configuration_or_the_default() {
    let folder = folder(&[("1.key", &[11])], "");
    let limited = json!({"address": address(12), "max-introduction-points": 7});
    let services = json!([{"key": "1.key", "instances": [{"address": address(11)}, limited]}]);
    std::fs::write(folder.path().join("config.yaml"), json!({"services": services}).to_string()).unwrap();
    let loaded = load_from(folder.path()).unwrap();
    let of = |seed| loaded.services[0].instances.limits.of(&crate::frontend::external::id(&address(seed)));
    assert_eq!([of(11), of(12)], [3, 7]);
}

#[test]
fn accepts_the_command_line_of_python_onionbalance() {
    let parse =
        |words: &[&str]| Program::try_parse_from([&["frontend"], words].concat()).map(|program| program.options);
    let line = [
        "-c",
        "x.yaml",
        "-i",
        "10.0.0.1",
        "-p",
        "9151",
        "-s",
        "/s",
        "-v",
        "WARNING",
        "--is-testnet",
        "--hs-version",
        "v3",
    ];
    let options = parse(&line).unwrap();
    assert_eq!(options.config_file().unwrap(), Path::new("x.yaml"));
    assert_eq!(options.log_level(), "warn");
    let connector = options.connector().unwrap();
    assert_eq!(connector.endpoint, ControlEndpoint::Unix("/s".into()));
    assert_eq!(connector.fallback, Some(ControlEndpoint::Tcp("10.0.0.1".to_owned(), 9151)));
    let options = parse(&[]).unwrap();
    assert_eq!((options.config_file().unwrap(), options.log_level()), (PathBuf::from("config.yaml"), "info"));
    // An environment variable that is set but empty results in an empty option.
    let options = parse(&["--socket", "", "--status-socket-location", "", "--config", ""]).unwrap();
    let refusal = options.config_file().unwrap_err().to_string();
    assert!(refusal.starts_with("the path of the configuration is empty; "), "{refusal}");
    assert_eq!(options.connector().unwrap().endpoint, ControlEndpoint::Tcp("127.0.0.1".to_owned(), 9051));
    assert_eq!(options.status_location(), None);
    let options = parse(&["-s", "unix:/run/tor/control", "-i", "[::1]"]).unwrap();
    let connector = options.connector().unwrap();
    assert_eq!(connector.endpoint, ControlEndpoint::Unix("/run/tor/control".into()));
    assert_eq!(connector.fallback, Some(ControlEndpoint::Tcp("::1".to_owned(), 9051)));
    assert!(parse(&["-v", "loud"]).is_err());
}

/// Whoever may run commands in a publisher's container must not be able to start the daemon there.
#[tokio::test]
async fn the_daemon_does_not_run_in_a_pod() {
    let error = async |pod: Option<&str>| {
        let options = Program::parse_from(["frontend", "--config", "/none/config.yaml"]).options;
        run(options, pod.map(OsStr::new)).await.unwrap_err().to_string()
    };
    let refusal = error(Some("10.96.0.1")).await;
    assert!(refusal.starts_with("the stand-alone daemon does not run in a pod (KUBERNETES_SERVICE_HOST"), "{refusal}");
    for outside in [None, Some("")] {
        let missing = error(outside).await;
        assert!(missing.starts_with("/none/config.yaml: No such file"), "{missing}");
    }
}

/// Checks the names and formats of the status document's fields. The expected document was recorded
/// from onionbalance 0.2.4 on a private network.
#[test]
fn the_status_document_has_the_format_of_python_onionbalance() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let seen = |address| InstanceView { address, seen: Some((at(3600), at(60), 3)) };
    let unseen = |address| InstanceView { address, seen: None };
    let view = View {
        address: address(1),
        attempts: [Some(at(86_400)), None],
        instances: vec![seen(address(2)), unseen(address(3))],
    };
    assert_eq!(
        document(&[view]).to_string(),
        format!(
            "{{\"services\":[{{\"instances\":[{{\"descriptorReceived\":\"1970-01-01 01:00:00\",\"introPointsNum\":3,\
             \"introSetModified\":\"1970-01-01 00:01:00\",\"onionAddress\":\"{}\"}},{{\"onionAddress\":\"{}\",\"received\":null}}],\
             \"onionAddress\":\"{}\",\"publishAttemptFirstDescriptor\":\"1970-01-02 00:00:00\",\
             \"publishAttemptSecondDescriptor\":null}}]}}",
            address(2),
            address(3),
            address(1)
        )
    );
}

async fn status(socket: &Path) -> Value {
    let mut text = String::new();
    UnixStream::connect(socket).await.unwrap().read_to_string(&mut text).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

fn instances(status: &Value, service: usize) -> Vec<OnionAddress> {
    let instances = status["services"][service]["instances"].as_array().unwrap();
    instances.iter().map(|instance| instance["onionAddress"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_reload_keeps_the_remaining_services_and_moves_the_socket() {
    let folder = folder(&[("1.key", &[11]), ("2.key", &[12])], "");
    let path = |name: &str| folder.path().join(name);
    let clock = Clock::start();
    let (_tor, registry) = Tor::new(Connector::unix("/none"), clock);
    let mut daemon = Daemon::new(clock, registry, None, Counters::Clock);
    let socket = |name: &str| format!("status-socket-location: {}\n", path(name).display());

    // The daemon replaces a socket that an earlier process has left.
    drop(std::os::unix::net::UnixListener::bind(path("a")).unwrap());
    write(folder.path(), &[("1.key", &[11]), ("2.key", &[12])], &socket("a"));
    daemon.apply(load_from(folder.path()).unwrap()).await;
    let first = daemon.running[&address(1)].task.id();
    assert_eq!(status(&path("a")).await["services"].as_array().unwrap().len(), 2);

    write(folder.path(), &[("1.key", &[11, 13])], &socket("b"));
    daemon.apply(load_from(folder.path()).unwrap()).await;
    assert_eq!(daemon.running[&address(1)].task.id(), first, "the remaining service keeps its task");
    assert_eq!(daemon.running.len(), 1);
    assert!(!path("a").exists());
    let mut view = daemon.running[&address(1)].view.clone();
    view.wait_for(|view| view.instances.len() == 2).await.unwrap();
    assert_eq!(instances(&status(&path("b")).await, 0), [address(11), address(13)]);
    drop(daemon);
    assert!(!path("b").exists());
}

/// Tries to open a status socket without services.
async fn open(path: &Path) -> Result<StatusSocket, String> {
    let (_, views) = watch::channel(Vec::new());
    StatusSocket::open(path.to_owned(), views).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_place_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("directory")).unwrap();
    std::fs::write(path("file"), "content").unwrap();
    std::os::unix::fs::symlink(path("nowhere"), path("link")).unwrap();
    for (name, expected) in [
        ("directory", "the file exists and is not a socket; choose another path"),
        ("file", "the file exists and is not a socket; choose another path"),
        ("link", "the file exists and is not a socket; choose another path"),
        ("missing/socket", "create the directory, in a systemd unit with RuntimeDirectory="),
        (&"x".repeat(108), "can have at most 107; choose a shorter path"),
    ] {
        let error = open(&path(name)).await.err().unwrap();
        assert!(error.starts_with(&*path(name).to_string_lossy()) && error.ends_with(expected), "{error}");
    }
    assert_eq!(std::fs::read_to_string(path("file")).unwrap(), "content");
    assert_eq!(std::fs::read_link(path("link")).unwrap(), path("nowhere"));
    assert!(path("directory").is_dir());
}

#[tokio::test]
async fn a_living_daemon_keeps_its_socket_and_a_dead_ones_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    // Two daemons start at the same time and find the socket of a dead one.
    let (one, two) = tokio::join!(open(&path), open(&path));
    let (living, refused) = if one.is_ok() { (one, two) } else { (two, one) };
    let (living, refused) = (living.unwrap(), refused.err().unwrap());
    assert!(refused.contains("another running process listens there"), "{refused}");
    assert!(living.is_in_place());
    assert_eq!(status(&path).await, json!({"services": []}));
    assert!(open(&path).await.is_err());
    drop(living);
    assert!(!path.exists(), "the daemon removes its own socket");
    assert!(open(&path).await.unwrap().is_in_place());
}

#[tokio::test]
async fn a_reload_brings_back_a_lost_socket() {
    let folder = folder(&[("1.key", &[11])], "");
    let path = folder.path().join("socket");
    let clock = Clock::start();
    let (_tor, registry) = Tor::new(Connector::unix("/none"), clock);
    let mut daemon = Daemon::new(clock, registry, Some(path.clone()), Counters::Clock);
    let services = async || status(&path).await["services"].as_array().unwrap().len();
    daemon.apply(load_from(folder.path()).unwrap()).await;
    assert_eq!(services().await, 1);
    let kept = std::fs::metadata(&path).unwrap().ino();
    daemon.apply(load_from(folder.path()).unwrap()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), kept, "nothing was lost");

    std::fs::remove_file(&path).unwrap();
    daemon.apply(load_from(folder.path()).unwrap()).await;
    assert_eq!(services().await, 1);

    // Another program puts something else into the same place.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "foreign").unwrap();
    daemon.apply(load_from(folder.path()).unwrap()).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "foreign");
    std::fs::remove_file(&path).unwrap();
    daemon.apply(load_from(folder.path()).unwrap()).await;
    assert_eq!(services().await, 1);
    drop(daemon);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_peer_that_does_not_read_the_status_gives_way_to_others() {
    // The document exceeds the buffers of a socket.
    let instances_of_view = vec![InstanceView { address: address(2), seen: None }; 5000];
    let (_view, view) = watch::channel(View { instances: instances_of_view, ..View::of(address(1)) });
    let (_views, views) = watch::channel(vec![view]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("status");
    let _socket = StatusSocket::open(path.clone(), views).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    assert_eq!(instances(&status(&path).await, 0).len(), 5000);
    let mut text = String::new();
    silent[0].read_to_string(&mut text).await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err(), "the daemon must give up the oldest connection");
}
