//! Checks the images that `make images` builds, and tor's image with a pluggable transport: they
//! contain one program each (the last one two) and no shell, their lists of content are complete,
//! and two builds yield the same images. These tests are part of `make test-e2e`. They need root,
//! because they start each program in its image's file system.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use onionbalance_e2e::command::{command, output};
use onionbalance_e2e::state::source_tree;
use serde_json::Value;
use tempfile::TempDir;

/// The required content of an image.
struct Expected {
    /// The name of the image's files.
    name: &'static str,
    /// The path of the program.
    program: &'static str,
    /// The path of another program, which the first one starts. Most images have none.
    helper: Option<&'static str>,
    /// The mode of the program, as `tar` shows it.
    mode: &'static str,
    /// The beginning of the line with the program's version.
    version: &'static str,
}

const TOR: Expected =
    Expected { name: "tor", program: "usr/bin/tor", helper: None, mode: "-rwxr-xr-x", version: "Tor version " };
/// The variant for bridges.
const TOR_OBFS4: Expected = Expected { name: "tor-obfs4", helper: Some("usr/bin/obfs4proxy"), ..TOR };
/// Its program is not readable for its user, so that the kernel hides the program's processes.
const OPERATOR: Expected = Expected {
    name: "onionbalance-operator",
    program: "usr/local/bin/onionbalance-operator",
    helper: None,
    mode: "-rwx--x--x",
    version: "onionbalance-operator ",
};

/// Builds the images into a new folder, as `make images` does, in an environment of their own.
async fn build(umask: &str, variables: &[(&str, &str)]) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let script = source_tree().join("e2e/setup/images.sh").display().to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_e2e")).with_file_name("onionbalance-operator");
    let program = program
        .canonicalize()
        .with_context(|| format!("could not find {}; run cargo build --workspace --bins", program.display()))?
        .display()
        .to_string();
    for arguments in [&["tor"][..], &["tor-obfs4"], &["operator", &program]] {
        let mut images = command("sh", ["-c", r#"umask "$0"; exec "$@""#, umask, &script]);
        images.args(arguments).env("OB_IMAGES", folder.path()).envs(variables.iter().copied());
        output(&mut images).await?;
    }
    Ok(folder)
}

#[tokio::test]
async fn two_builds_yield_the_same_images() -> Result<()> {
    let first = build("022", &[("TZ", "UTC"), ("LC_ALL", "C.UTF-8")]).await?;
    let second = build("077", &[("TZ", "Pacific/Auckland"), ("LC_ALL", "C")]).await?;
    for image in [TOR, TOR_OBFS4, OPERATOR] {
        for kind in ["tar", "digest", "spdx.json"] {
            let [first, second] =
                [&first, &second].map(|folder| fs::read(folder.path().join(image.name).with_extension(kind)));
            ensure!(first? == second?, "two builds of {}.{kind} differ", image.name);
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_image_contains_one_program_and_what_its_list_names() -> Result<()> {
    let images = build("022", &[]).await?;
    for expected in [TOR, TOR_OBFS4, OPERATOR] {
        let image = Image::unpack(images.path(), &expected).await?;
        image.check_entries(&expected)?;
        let version = image.start(&expected).await?;
        image.check_list(&expected, &version)?;
    }
    Ok(())
}

/// An unpacked image.
struct Image {
    folder: TempDir,
    /// The files of the image's layer, as `tar` lists them.
    entries: Vec<Entry>,
    digest: String,
    /// The list of the image's content.
    list: Value,
}

struct Entry {
    mode: String,
    owner: String,
    date: String,
    path: String,
}

impl Image {
    async fn unpack(images: &Path, expected: &Expected) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (layout, root) = (folder.path().join("layout"), folder.path().join("root"));
        fs::create_dir(&layout)?;
        fs::create_dir(&root)?;
        // Other users, too, must be able to enter the root folder.
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        let archive = images.join(expected.name).with_extension("tar");
        output(command("tar", ["--extract", "--file"]).arg(&archive).arg("--directory").arg(&layout)).await?;
        check_sums(&layout.join("blobs/sha256")).await?;

        let index = json(&layout.join("index.json"))?;
        let digest = index["manifests"][0]["digest"].as_str().context("the index has no digest")?.to_owned();
        let manifest = json(&blob(&layout, &digest))?;
        let content = |descriptor: &Value| Some(blob(&layout, descriptor["digest"].as_str()?));
        let config = json(&content(&manifest["config"]).context("the manifest has no configuration")?)?;
        ensure!(config["config"]["User"] == "65532:65532", "the image must not run as root: {config}");
        let layer = content(&manifest["layers"][0]).context("the manifest has no layer")?;
        ensure!(
            manifest["layers"].as_array().is_some_and(|layers| layers.len() == 1),
            "more than one layer: {manifest}"
        );

        let listed = output(
            command("tar", ["--list", "--verbose", "--gzip", "--numeric-owner", "--file"]).arg(&layer).env("TZ", "UTC"),
        )
        .await?;
        let entries = listed.lines().map(|line| entry(line).with_context(|| line.to_owned())).collect::<Result<_>>()?;
        output(command("tar", ["--extract", "--gzip", "--file"]).arg(&layer).arg("--directory").arg(&root)).await?;
        let list = json(&images.join(expected.name).with_extension("spdx.json"))?;
        Ok(Self { folder, entries, digest, list })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Checks that the programs and the dynamic loader are the only files that can be run, that
    /// every other file is of a kind that the image needs, and that no entry depends on the build.
    fn check_entries(&self, expected: &Expected) -> Result<()> {
        let mut programs = Vec::new();
        for Entry { mode, owner, date, path } in &self.entries {
            ensure!(owner == "0/0" && date == "1970-01-01", "{path} has the owner {owner} and the date {date}");
            let is_file = mode.starts_with('-');
            if is_file && mode.contains('x') {
                programs.push(path.as_str());
            } else {
                ensure!(!is_file || is_data(path), "the image {} has an unexpected file {path}", expected.name);
            }
            ensure!(path != expected.program || mode == expected.mode, "{path} has the mode {mode}");
            // A symbolic link has no mode of its own.
            let is_writable = !mode.starts_with('l') && mode.as_bytes().get(8) == Some(&b'w');
            ensure!(!is_writable && !mode.contains(['s', 't']), "{path} has the mode {mode}");
        }
        let wanted: BTreeSet<&str> = [expected.program].into_iter().chain(expected.helper).collect();
        let others: BTreeSet<&str> = programs.iter().copied().filter(|path| !is_loader(path)).collect();
        ensure!(
            others == wanted && programs.len() == wanted.len() + 1,
            "the image {} has these programs: {programs:?}",
            expected.name
        );
        Ok(())
    }

    /// Starts the program with nothing but the image's files, as the user of our pods, and returns
    /// its version.
    async fn start(&self, expected: &Expected) -> Result<String> {
        let mut program = command("chroot", ["--userspec=65532:65532"]);
        program.arg(self.root()).arg(format!("/{}", expected.program)).arg("--version");
        let printed = output(&mut program).await?;
        if let Some(helper) = expected.helper {
            let mut helper_program = command("chroot", ["--userspec=65532:65532"]);
            let printed = output(helper_program.arg(self.root()).arg(format!("/{helper}")).arg("--version")).await?;
            let name = helper.rsplit('/').next().unwrap_or(helper);
            ensure!(printed.starts_with(name), "unexpected output {printed:?} of {helper}");
        }
        let version = printed.lines().find_map(|line| line.strip_prefix(expected.version));
        // The programs of a release also name their commit.
        let version = version.and_then(|version| version.split(' ').next());
        Ok(version.with_context(|| format!("unexpected output {printed:?}"))?.trim_end_matches('.').to_owned())
    }

    /// Checks the list of content: it names the image, the program's version, every package whose
    /// entry is in the image, and the crates of our program.
    fn check_list(&self, expected: &Expected, version: &str) -> Result<()> {
        let packages = self.list["packages"].as_array().context("the list has no packages")?;
        let of_kind = |kind: &str| -> BTreeSet<&str> {
            let prefix = format!("SPDXRef-{kind}-");
            let is_of_kind = |package: &&Value| package["SPDXID"].as_str().is_some_and(|id| id.starts_with(&prefix));
            packages.iter().filter(is_of_kind).filter_map(|package| package["name"].as_str()).collect()
        };
        let image = &packages[0];
        let digest = image["checksums"][0]["checksumValue"].as_str().map(|sum| format!("sha256:{sum}"));
        ensure!(
            digest.as_ref() == Some(&self.digest),
            "the list names the image {digest:?} instead of {}",
            self.digest
        );
        ensure!(image["versionInfo"].as_str().is_some_and(|listed| listed.starts_with(version)), "{version}: {image}");

        let recorded = fs::read_dir(self.root().join("var/lib/dpkg/status.d"))?.collect::<Result<Vec<_>, _>>()?;
        let recorded: Vec<_> = recorded.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let recorded: BTreeSet<_> = recorded.iter().map(String::as_str).collect();
        let (debian, crates) = (of_kind("deb"), of_kind("cargo"));
        ensure!(debian == recorded && debian.contains("libc6"), "the list has {debian:?} instead of {recorded:?}");
        // Our own crate comes from no registry, so it has no checksum.
        let is_complete = |package: &Value| {
            let sum = package["checksums"][0]["checksumValue"].as_str();
            package["name"] == OPERATOR.name || sum.is_some_and(|sum| sum.len() == 64)
        };
        let incomplete: Vec<_> = packages.iter().filter(|package| !is_complete(package)).collect();
        ensure!(incomplete.is_empty(), "no checksum: {incomplete:?}");
        let is_ours = expected.name == OPERATOR.name;
        // proptest is used in tests only, so it is not in the program.
        ensure!(crates.contains("kube") == is_ours && !crates.contains("proptest"), "unexpected crates {crates:?}");
        ensure!(debian.contains("ca-certificates") == is_ours && debian.contains("tor") != is_ours, "{debian:?}");
        Ok(())
    }
}

/// Returns true if a file is the dynamic loader.
fn is_loader(path: &str) -> bool {
    path.starts_with("lib") && path.contains("/ld-linux")
}

/// Returns true if an image may contain this file, which is not a program.
fn is_data(path: &str) -> bool {
    let is_library = path.starts_with("usr/lib/") && path.contains(".so.");
    let is_notice = path.starts_with("usr/share/doc/") && path.ends_with("/copyright");
    let others = ["etc/nsswitch.conf", "etc/ssl/certs/ca-certificates.crt", "usr/lib/os-release"];
    is_library || is_notice || path.starts_with("var/lib/dpkg/status.d/") || others.contains(&path)
}

/// Parses a line of `tar --list --verbose`: `-rw-r--r-- 0/0 17 1970-01-01 00:00 etc/nsswitch.conf`.
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace().map(ToOwned::to_owned);
    let (mode, owner, _size, date, _time) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Entry { mode, owner, date, path: words.next()? })
}

/// Checks that the name of each file is its SHA-256.
async fn check_sums(blobs: &Path) -> Result<()> {
    for blob in fs::read_dir(blobs)? {
        let blob = blob?;
        let printed = output(command("sha256sum", ["--binary"]).arg(blob.path())).await?;
        let sum = printed.split_whitespace().next().unwrap_or_default();
        ensure!(*sum == *blob.file_name(), "{} has the checksum {sum}", blob.path().display());
    }
    Ok(())
}

/// Returns the path of a file in an OCI image layout.
fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn json(file: &Path) -> Result<Value> {
    serde_json::from_slice(&fs::read(file)?).with_context(|| file.display().to_string())
}
