//! Tests that run the `key` commands on files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::Parser as _;
use k8s_openapi::api::core::v1::Secret;

use super::*;
use crate::onion::{ClientPublicKey, KeyFile};

#[derive(Debug, clap::Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

/// Runs `key` with the given arguments. Returns standard output or the error.
fn key(words: &[&str]) -> Result<String, String> {
    let program = Program::try_parse_from([&["key"], words].concat()).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let ended = run(program.args, &mut out);
    let out = String::from_utf8(out).unwrap();
    ended.map(|()| out.clone()).map_err(|error| format!("{out}{error}"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn generates_a_directory_in_tors_format() {
    let folder = Folder::new();
    let directory = folder.path("hs");
    let address = key(&["generate", "--output", &directory]).unwrap();
    assert_eq!(fs::read_to_string(folder.path("hs/hostname")).unwrap(), address);
    assert_eq!(mode(directory.as_ref()), 0o700);
    assert_eq!(mode(folder.path("hs/hs_ed25519_secret_key").as_ref()), 0o600);
    assert_eq!(key(&["check", &directory]).unwrap(), format!("{directory}: ok, {address}"));

    assert!(key(&["generate", "--output", &directory]).unwrap_err().contains("hs_ed25519_secret_key: File exists"));
    assert_eq!(fs::read_to_string(folder.path("hs/hostname")).unwrap(), address);
    assert_ne!(key(&["generate", "--output", &directory, "--force"]).unwrap(), address);
    assert!(key(&["check", &directory]).is_ok());
}

#[test]
fn converts_and_shows_a_pem_file() {
    let folder = Folder::new();
    let (pem, directory) = (folder.path("x.key"), folder.path("hs"));
    let address = key(&["generate", "--to", "pem", "--output", &pem]).unwrap();
    assert_eq!(mode(pem.as_ref()), 0o600);
    assert_eq!(key(&["convert", &pem, "--output", &directory]).unwrap(), address);
    assert_eq!(key(&["check", &pem, &directory]).unwrap().lines().count(), 2);

    let shown = key(&["show", &pem, &directory]).unwrap();
    assert_eq!(shown.matches(&format!("address     {address}")).count(), 2);
    let secret = fs::read_to_string(&pem).unwrap();
    assert!(!shown.contains(secret.lines().nth(1).unwrap()));

    let copy = folder.path("copy.key");
    assert_eq!(key(&["convert", &pem, "--to", "pem", "--output", &copy]).unwrap(), address);
    assert_eq!(fs::read_to_string(copy).unwrap(), secret);
    let impossible = key(&["convert", &directory, "--to", "pem", "--output", &folder.path("no")]).unwrap_err();
    assert!(impossible.contains("cannot convert a key in tor's format to PEM"), "{impossible}");
    assert!(!Path::new(&folder.path("no")).exists());
}

#[test]
fn writes_a_secret() {
    let folder = Folder::new();
    let pem = folder.path("x.key");
    let address = key(&["generate", "--to", "pem", "--output", &pem]).unwrap();
    let manifest = key(&["convert", &pem, "--secret", "web-master-key", "--namespace", "shop"]).unwrap();
    let secret: Secret = serde_saphyr::from_str(&manifest).unwrap();
    assert!(manifest.contains("kind: Secret"), "{manifest}");
    assert_eq!(secret.metadata.namespace.as_deref(), Some("shop"));
    let data = secret.data.unwrap();
    let KeyFile::Tor(read) = KeyFile::read(&data["hs_ed25519_secret_key"].0).unwrap() else { panic!() };
    assert_eq!(format!("{}\n", read.address()), address);
    assert_eq!(data["hostname"].0, address.as_bytes());

    let file = folder.path("secret.yaml");
    assert_eq!(key(&["convert", &pem, "--secret", "web", "--output", &file]).unwrap(), address);
    assert_eq!(mode(file.as_ref()), 0o600);
    assert!(key(&["convert", &pem, "--secret", "Web"]).unwrap_err().contains("Kubernetes name"));
}

/// Returns the manifest of a Secret with this data and metadata, as `kubectl get -o json` prints
/// it.
fn secret(data: &[(&str, &[u8])], metadata: &serde_json::Value) -> String {
    let data: serde_json::Map<_, _> =
        data.iter().map(|(name, bytes)| ((*name).to_owned(), BASE64.encode(bytes).into())).collect();
    serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}).to_string()
}

#[test]
fn reads_secrets_of_this_and_other_operators() {
    let folder = Folder::new();
    let directory = folder.path("hs");
    let address = key(&["generate", "--output", &directory]).unwrap();
    let read = |name: &str| fs::read(folder.path(&format!("hs/{name}"))).unwrap();
    let (secret_key, public_key) = (read("hs_ed25519_secret_key"), read("hs_ed25519_public_key"));
    let bare = address.trim_end().as_bytes();
    let file = folder.path("secret.json");
    let write = |text: String| secret_file_with(&file, &text);

    let metadata = serde_json::json!({"name": "x", "resourceVersion": "7", "managedFields": []});
    let ours: [(&str, &[u8]); 3] =
        [("hs_ed25519_secret_key", &secret_key), ("hs_ed25519_public_key", &public_key), ("hostname", bare)];
    let controllers: [(&str, &[u8]); 5] = [
        ("onionAddress", bare),
        ("privateKey", &secret_key[32..]),
        ("privateKeyFile", &secret_key),
        ("publicKey", &public_key[32..]),
        ("publicKeyFile", &public_key),
    ];
    for data in [ours.as_slice(), controllers.as_slice(), &ours[..1], &controllers[2..3]] {
        write(secret(data, &metadata));
        assert_eq!(key(&["check", &file]).unwrap(), format!("{file}: ok, {address}"));
        let manifest = key(&["convert", &file, "--secret", "web-master-key"]).unwrap();
        assert!(!manifest.contains("resourceVersion"), "{manifest}");
        let made: Secret = serde_saphyr::from_str(&manifest).unwrap();
        assert_eq!(made.data.unwrap()["hs_ed25519_secret_key"].0, secret_key);
        // The command can read the manifest that it wrote.
        write(manifest);
        assert!(key(&["show", &file]).unwrap().contains(&format!("address     {address}")));
    }

    let other = key(&["generate", "--output", &folder.path("other")]).unwrap();
    write(secret(&[ours[0], ("hostname", other.as_bytes())], &metadata));
    assert!(key(&["show", &file]).unwrap_err().contains("secret.json: the hostname file does not match"));
    write(secret(&[("privateKeyFile", b"short")], &metadata));
    assert!(
        key(&["show", &file])
            .unwrap_err()
            .contains("entry privateKeyFile: hs_ed25519_secret_key must be 96 bytes long")
    );
    write(secret(&[("token", b"x")], &metadata));
    let none = key(&["convert", &file, "--secret", "web"]).unwrap_err();
    assert!(none.ends_with("the Secret has no entry hs_ed25519_secret_key or privateKeyFile"), "{none}");
    write("\n".to_owned());
    assert!(key(&["convert", &file, "--secret", "web"]).unwrap_err().ends_with("secret.json: the file is empty"));
    // A manifest of another kind results in the error for unknown files.
    write("kind: ConfigMap\n".to_owned());
    assert!(key(&["show", &file]).unwrap_err().contains("the file contains no onion service key"));

    let owner = serde_json::json!({"apiVersion": "v1", "kind": "OnionKey", "name": "mine", "uid": "1"});
    write(secret(&ours, &serde_json::json!({"name": "x", "ownerReferences": [owner]})));
    let faults = key(&["check", &file]).unwrap_err();
    assert!(faults.contains("together with its owner") && faults.contains("(OnionKey mine)"), "{faults}");
}

/// Overwrites a file with text and makes it readable by its owner only.
fn secret_file_with(path: &str, text: &str) {
    crate::common::secret_file::write(path.as_ref(), text.as_bytes(), true).unwrap();
}

#[test]
fn check_finds_every_problem() {
    let folder = Folder::new();
    let (directory, other) = (folder.path("hs"), folder.path("other"));
    key(&["generate", "--output", &directory]).unwrap();
    key(&["generate", "--output", &other]).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.path("hs/hs_ed25519_secret_key"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::copy(folder.path("other/hostname"), folder.path("hs/hostname")).unwrap();
    fs::copy(folder.path("other/hs_ed25519_public_key"), folder.path("hs/hs_ed25519_public_key")).unwrap();
    let faults = key(&["check", &directory, &other]).unwrap_err();
    assert!(faults.contains("hs_ed25519_secret_key: mode 0640 gives other users access; run chmod 0600"), "{faults}");
    assert!(faults.contains("hs: mode 0755 gives other users access; run chmod 0700"), "{faults}");
    assert!(faults.contains("hostname: the hostname file does not match"), "{faults}");
    assert!(faults.contains("hs_ed25519_public_key: hs_ed25519_public_key does not match"), "{faults}");
    assert!(faults.contains("other: ok, "), "{faults}");
    assert!(faults.ends_with("the key check failed"), "{faults}");
    assert!(key(&["check", &folder.path("none")]).unwrap_err().contains("none: No such file"));
}

#[test]
fn generates_key_pairs_for_clients() {
    let folder = Folder::new();
    let address = key(&["generate", "--output", &folder.path("hs")]).unwrap();
    let address = address.trim_end();
    let clients = folder.path("clients");
    let words = ["generate", "--client", "alice", "--address", address, "--output", &clients];
    let public = key(&words).unwrap();
    assert!(public.trim_end().parse::<ClientPublicKey>().is_ok(), "{public}");
    assert_eq!(fs::read_to_string(folder.path("clients/alice.auth")).unwrap(), public);
    let private = fs::read_to_string(folder.path("clients/alice.auth_private")).unwrap();
    assert!(private.starts_with(&format!("{}:descriptor:x25519:", address.trim_end_matches(".onion"))), "{private}");
    assert_eq!(mode(folder.path("clients/alice.auth_private").as_ref()), 0o600);
    assert!(key(&words).unwrap_err().contains("alice.auth_private: File exists"));
    assert_eq!(fs::read_to_string(folder.path("clients/alice.auth")).unwrap(), public);
    let bad = ["generate", "--client", "../x", "--address", address];
    assert!(key(&bad).unwrap_err().contains("without '/'"));
}
