//! Tests that run the `key` commands on files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::Parser as _;
use k8s_openapi::api::core::v1::Secret;

use super::*;
use crate::onion::{ClientPublicKey, KeyFile};

mod csr;
mod delegate;

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
    assert!(none.ends_with("no entry of the Secret is recognized as a key; its entries: token"), "{none}");
    write("\n".to_owned());
    assert!(key(&["convert", &file, "--secret", "web"]).unwrap_err().ends_with("secret.json: the file is empty"));
    write("kind: ConfigMap\n".to_owned());
    assert!(key(&["show", &file]).unwrap_err().ends_with("secret.json: the manifest has no Secret; it has ConfigMap"));

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
}

#[test]
fn a_path_that_cannot_be_read_gets_a_hint() {
    let folder = Folder::new();
    for name in ["empty", "v2"] {
        fs::create_dir(folder.path(name)).unwrap();
    }
    fs::write(folder.path("v2/private_key"), "").unwrap();
    for (path, expected) in [
        ("none", "none: No such file or directory (os error 2); give the path of a HiddenServiceDir, a key file or"),
        ("none/deeper", "none/deeper: No such file or directory (os error 2); give the path of"),
        ("empty", "empty/hs_ed25519_secret_key: No such file or directory (os error 2); tor writes this file when"),
        ("v2", "v2/hs_ed25519_secret_key: No such file or directory (os error 2); the directory has the key of a v2"),
    ] {
        for command in ["check", "show"] {
            let error = key(&[command, &folder.path(path)]).unwrap_err();
            assert!(error.contains(expected), "{command}: {error}");
        }
    }
}

#[test]
fn an_existing_directory_keeps_its_mode_even_if_it_is_a_link_or_the_command_fails() {
    let folder = Folder::new();
    let (shared, link) = (folder.path("shared"), folder.path("link"));
    fs::create_dir(&shared).unwrap();
    std::os::unix::fs::symlink(&shared, &link).unwrap();
    let set = |bits| fs::set_permissions(&shared, fs::Permissions::from_mode(bits)).unwrap();
    let address = key(&["generate", "--output", &folder.path("hs")]).unwrap();
    let client = ["generate", "--client", "alice", "--address", address.trim_end(), "--output"];
    for (bits, output) in [(0o755, &shared), (0o770, &link)] {
        set(bits);
        for command in [["generate", "--force", "--output"].as_slice(), &["generate", "--output"], &client] {
            let result = key(&[command, &[output.as_str()]].concat());
            assert_eq!(result.is_err(), command == ["generate", "--output"], "{result:?}");
            assert_eq!(mode(shared.as_ref()), bits, "{command:?}");
        }
        fs::remove_file(folder.path("shared/alice.auth_private")).unwrap();
    }
}

/// Keys as people keep them: as text, and in manifests from all kinds of programs.
#[test]
fn reads_every_form_that_certainly_is_a_key() {
    let folder = Folder::new();
    let (directory, pem) = (folder.path("hs"), folder.path("x.key"));
    let address = key(&["generate", "--to", "pem", "--output", &pem]).unwrap();
    key(&["convert", &pem, "--output", &directory]).unwrap();
    let (tor, pem) = (fs::read(folder.path("hs/hs_ed25519_secret_key")).unwrap(), fs::read(pem).unwrap());
    let public = fs::read(folder.path("hs/hs_ed25519_public_key")).unwrap();
    let (text, pem_text) = (BASE64.encode(&tor), BASE64.encode(&pem));
    let public_text = BASE64.encode(&public);
    let (bare, bare_public) = (BASE64.encode(&tor[32..]), BASE64.encode(&public[32..]));
    let twice = BASE64.encode(format!("{text}\n").as_bytes());
    let secret = |entries: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: web}}\n{entries}");
    let plain = secret(&format!("data:\n  hs_ed25519_secret_key: {text}\n"));
    let host = address.trim_end();
    let indented = |by: &str, text: &str| text.lines().flat_map(|line| [by, line, "\n"]).collect::<String>();
    let vanity = [
        format!("---\nhostname: {host}\nhs_ed25519_public_key: {public_text}\n"),
        format!("hs_ed25519_secret_key: {text}\ntime: 2026-02-03 04:05:06 Z\n"),
    ];
    let pem_block = indented("    ", str::from_utf8(&pem).unwrap());
    let jsonpath = serde_json::json!({"hostname": BASE64.encode(address.as_bytes()), "hs_ed25519_secret_key": text});
    for (name, content, converts) in [
        ("base64", text.clone(), true),
        ("base64 with a byte order mark", format!("\u{feff}{text}\r\n"), true),
        ("jsonpath", jsonpath.to_string(), true),
        ("short hostname", format!("{{hostname: {}, hs_ed25519_secret_key: {text}}}", &host[..56]), true),
        (
            "an entry twice",
            secret(&format!("data: {{hs_ed25519_secret_key: eA==, hs_ed25519_secret_key: {text}}}\n")),
            false,
        ),
        ("data twice", format!("{}data: {{hs_ed25519_secret_key: {text}}}\n", secret("data: {x: eA==}\n")), false),
        ("ADD_ONION", format!("ED25519-V3:{bare}\n"), true),
        ("mkp224o", vanity.concat(), true),
        ("Secret", plain.clone(), false),
        ("byte order mark", format!("\u{feff}{plain}"), false),
        ("line ends of Windows", plain.replace('\n', "\r\n"), false),
        ("markers", format!("---\n{plain}...\n"), false),
        ("several documents", format!("# x\n---\nkind: Namespace\nmetadata: {{name: shop}}\n---\n{plain}"), false),
        ("a Secret without a key", format!("{}---\n{plain}", secret("data: {tls.key: eA==}\n")), false),
        ("List", format!("kind: List\nitems:\n- {}", indented("  ", &plain).trim_start()), false),
        ("SecretList", format!("kind: SecretList\nitems:\n- data: {{hs_ed25519_secret_key: {text}}}\n"), false),
        ("block", secret(&format!("data:\n  hs_ed25519_secret_key: |\n{}", indented("    ", &wrapped(&text)))), false),
        ("another entry", secret(&format!("data: {{onion.key: {text}, note: eA==}}\n")), true),
        ("encoded twice", secret(&format!("data: {{hs_ed25519_secret_key: {twice}}}\n")), true),
        ("text in stringData", secret(&format!("stringData: {{hs_ed25519_secret_key: {text}}}\n")), true),
        ("PEM in data", secret(&format!("data: {{hs_ed25519_secret_key: {pem_text}}}\n")), true),
        ("PEM in stringData", secret(&format!("stringData:\n  key: |\n{pem_block}")), true),
        ("bare keys", secret(&format!("data: {{privateKey: {bare}, publicKey: {bare_public}}}\n")), true),
    ] {
        let file = folder.path("input");
        secret_file_with(&file, &content);
        let shown = key(&["show", &file]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(shown.contains(&format!("address     {address}")), "{name}: {shown}");
        assert_eq!(shown.contains("note        "), converts, "{name}: {shown}");
        // `check` reports what the operator cannot use, and `convert` mends it.
        let checked = key(&["check", &file]);
        assert_eq!(checked.is_err(), converts, "{name}: {checked:?}");
        assert!(!converts || checked.unwrap_err().contains("use key convert"), "{name}");
        secret_file_with(&file, &key(&["convert", &file, "--secret", "web"]).unwrap());
        assert_eq!(key(&["check", &file]).unwrap(), format!("{file}: ok, {address}"), "{name}");
    }
}

/// Breaks a text into lines of 60 characters.
fn wrapped(text: &str) -> String {
    text.as_bytes().chunks(60).flat_map(|line| [str::from_utf8(line).unwrap(), "\n"]).collect()
}

#[test]
fn names_what_is_perhaps_a_key_and_what_is_wrong_with_damaged_ones() {
    let folder = Folder::new();
    key(&["generate", "--output", &folder.path("hs")]).unwrap();
    key(&["generate", "--output", &folder.path("other")]).unwrap();
    let tor = fs::read(folder.path("hs/hs_ed25519_secret_key")).unwrap();
    let text = BASE64.encode(&tor);
    let other = BASE64.encode(&fs::read(folder.path("other/hs_ed25519_secret_key")).unwrap());
    let other_public = BASE64.encode(&fs::read(folder.path("other/hs_ed25519_public_key")).unwrap());
    let secret = |entries: &str| format!("kind: Secret\ndata: {{{entries}}}\n").into_bytes();
    let key_entry = format!("hs_ed25519_secret_key: {text}");
    for (content, expected) in [
        (
            tor[32..].to_vec(),
            "the file contains 64 bytes, which may be an expanded key without tor's tag; run { printf",
        ),
        (vec![0x9c; 32], "the file contains 32 bytes, which may be the seed of an ed25519 key; run { printf"),
        (
            BASE64.encode(&[0x9c; 32]).into_bytes(),
            "the file contains base64 text of 32 or 64 bytes, which may be a key; run",
        ),
        (
            [&tor[..], b"\n"].concat(),
            "is damaged: the key file has a line break after its 96 bytes; remove it with head",
        ),
        (tor[..95].to_vec(), "is damaged: the key file has only 95 of its 96 bytes"),
        (secret(&format!("x: {}", BASE64.encode(&tor[32..]))), "entry x holds 64 bytes, which may be an expanded key"),
        (secret(&format!("a: {text}, b: {other}")), "several entries of the Secret hold keys (a, b); keep one of them"),
        (
            secret(&format!("{key_entry}, hs_ed25519_public_key: {other_public}")),
            "hs_ed25519_public_key does not match",
        ),
        (secret("hs_ed25519_secret_key: '!'"), "entry hs_ed25519_secret_key is not base64 text"),
        (secret(""), "no entry of the Secret is recognized as a key; its entries: none"),
        (
            [secret(&key_entry), b"---\n".to_vec(), secret(&format!("hs_ed25519_secret_key: {other}"))].concat(),
            "the manifest has several keys (",
        ),
        (b"kind: Pod\n---\nkind: Service\n".to_vec(), "the manifest has no Secret; it has Pod, Service"),
        (b"some text".to_vec(), "the file is not a key file: expected Tor's hs_ed25519_secret_key"),
    ] {
        let file = folder.path("input");
        crate::common::secret_file::write(file.as_ref(), &content, true).unwrap();
        let error = key(&["show", &file]).unwrap_err();
        assert!(error.starts_with(&file) && error.contains(expected), "{error}");
        for word in ["serde", "ASN.1", "from_str"] {
            assert!(!error.contains(word), "{error}");
        }
    }
}

#[test]
fn says_why_a_manifest_yields_no_key() {
    let folder = Folder::new();
    key(&["generate", "--output", &folder.path("hs")]).unwrap();
    key(&["generate", "--output", &folder.path("other")]).unwrap();
    let tor = fs::read(folder.path("hs/hs_ed25519_secret_key")).unwrap();
    let (text, damaged) = (BASE64.encode(&tor), BASE64.encode(&[&tor[..], b"\n"].concat()));
    let other_public = BASE64.encode(&fs::read(folder.path("other/hs_ed25519_public_key")).unwrap());
    let key_entry = format!("hs_ed25519_secret_key: {text}");
    for (content, expected) in [
        (
            format!("kind: Secret\ndata:\n  {key_entry}\n\tx: eA==\n"),
            "the file names an entry with a key, but is not valid YAML: ",
        ),
        (
            format!("data:\n  {key_entry}\n"),
            "the file names an entry with a key, but contains no Secret (kind: Secret); get the manifest with",
        ),
        (
            format!("kind: Secret\ndata: {{hs_ed25519_secret_key: {damaged}}}\n"),
            "head -c 96 FILE >NEW_FILE; before this, save the entry as FILE: kubectl get secret NAME -o \
             jsonpath='{.data.hs_ed25519_secret_key}' | base64 -d >FILE",
        ),
        (format!("{key_entry}\nhs_ed25519_public_key: {other_public}\n"), "hs_ed25519_public_key does not match"),
    ] {
        let file = folder.path("input");
        secret_file_with(&file, &content);
        for command in ["show", "convert"] {
            let error = key(&[command, &file]).unwrap_err();
            assert!(error.starts_with(&file) && error.contains(expected), "{error}");
            assert!(!error.contains("key convert") && !error.contains('\n'), "{error}");
            assert!(!error.contains(&text[60..]), "the error contains the secret: {error}");
        }
    }
}

#[test]
fn bare_bytes_are_a_key_only_if_another_entry_confirms_it() {
    let folder = Folder::new();
    let mut addresses = Vec::new();
    let mut entries = Vec::new();
    for name in ["hs", "other"] {
        let address = key(&["generate", "--output", &folder.path(name)]).unwrap();
        let read = |file: &str| BASE64.encode(&fs::read(folder.path(&format!("{name}/{file}"))).unwrap()[32..]);
        let host = BASE64.encode(address.trim_end().as_bytes());
        entries.push((read("hs_ed25519_secret_key"), read("hs_ed25519_public_key"), host));
        addresses.push(address);
    }
    let [(private, public, host), (_, other_public, other_host)] = &entries[..] else { panic!() };
    for (data, expected) in [
        (format!("privateKey: {private}, publicKey: {public}"), Ok(())),
        (format!("privateKey: {private}, onionAddress: {host}"), Ok(())),
        (format!("privateKey: {private}"), Err("entry privateKey holds 64 bytes, which may be an expanded key")),
        (format!("privateKey: {private}, publicKey: eA=="), Err("entry publicKey does not match entry privateKey")),
        (
            format!("privateKey: {private}, publicKey: {other_public}, onionAddress: {host}"),
            Err("entry publicKey does not match entry privateKey"),
        ),
        (
            format!("privateKey: {private}, publicKey: {public}, onionAddress: {other_host}"),
            Err("entry onionAddress does not match entry privateKey"),
        ),
    ] {
        let file = folder.path("secret.yaml");
        secret_file_with(&file, &format!("kind: Secret\ndata: {{{data}}}\n"));
        match (key(&["show", &file]), expected) {
            (Ok(shown), Ok(())) => assert!(shown.contains(&format!("address     {}", addresses[0])), "{shown}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (result, _) => panic!("{data}: {result:?}"),
        }
    }
}

/// Runs the command with which an error suggests to repair a bare key.
#[test]
fn the_remedy_for_an_expanded_key_works() {
    let folder = Folder::new();
    let address = key(&["generate", "--output", &folder.path("hs")]).unwrap();
    let tor = fs::read(folder.path("hs/hs_ed25519_secret_key")).unwrap();
    fs::write(folder.path("bare"), &tor[32..]).unwrap();
    let error = key(&["show", &folder.path("bare")]).unwrap_err();
    let command = error.split_once("; run ").unwrap().1.split_once(", and compare").unwrap().0.replace("FILE", "bare");
    let ran = std::process::Command::new("sh").arg("-c").arg(command).current_dir(folder.0.path()).status().unwrap();
    assert!(ran.success());
    assert!(key(&["show", &folder.path("hs_ed25519_secret_key")]).unwrap().contains(&format!("address     {address}")));
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
