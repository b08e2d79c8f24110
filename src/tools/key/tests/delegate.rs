//! Tests of `key delegate`.

use data_encoding::{BASE32, HEXLOWER};

use super::*;
use crate::onion::kit::tests::Targets;
use crate::onion::known_nonce::tests::flawed_descriptor;
use crate::onion::{Kit, Kits, PeriodCalendar};

/// Generates a master key and returns the folder, the path of the key and its address.
fn master() -> (Folder, String, String) {
    let folder = Folder::new();
    let path = folder.path("master");
    let address = key(&["generate", "--output", &path]).unwrap().trim_end().to_owned();
    (folder, path, address)
}

#[test]
fn writes_a_kit_that_can_be_checked_and_shown() {
    let (folder, master, address) = master();
    let path = folder.path("web.kit");
    let words = ["delegate", &master, "--from", "2027-01-01", "--days", "2", "--output", &path];
    let printed = key(&words).unwrap();
    let validity = "signing kit for 3 time periods, from 2026-12-31 00:00 UTC until 2027-01-03 12:00 UTC";
    assert_eq!(printed, format!("{address}\n{validity}\n"));
    assert_eq!(mode(path.as_ref()), 0o600);
    assert_eq!(key(&["check", &path]).unwrap(), format!("{path}: ok, {address}\n"));
    let shown = key(&["show", &path]).unwrap();
    assert_eq!(shown, format!("file        {path}\naddress     {address}\nformat      {validity}\n"));

    assert!(key(&words).unwrap_err().contains("web.kit: File exists"));
    let before = fs::read(&path).unwrap();
    key(&[words.as_slice(), &["--force"]].concat()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before, "the same arguments give the same kit");
}

#[test]
fn a_kit_covers_each_moment_of_its_days() {
    let (folder, master, _) = master();
    let path = folder.path("web.kit");
    key(&["delegate", &master, "--from", "2027-01-01", "--days", "30", "--output", &path]).unwrap();
    let kits = Kits::from(Kit::parse(&fs::read(&path).unwrap()).unwrap());
    let start = "2027-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap();
    for hour in 0..30 * 24 {
        let now = (start + jiff::SignedDuration::from_hours(hour)).into();
        assert!(kits.missing(now).is_empty(), "hour {hour}");
    }
    assert!(!kits.missing((start + jiff::SignedDuration::from_hours(30 * 24)).into()).is_empty());
}

#[test]
fn writes_a_secret_with_a_version_a_checksum_and_the_address() {
    let (_folder, master, address) = master();
    let delegate = |more: &[&str]| {
        let words = ["delegate", &master, "--from", "2027-01-01", "--secret", "web-signing-kits"];
        key(&[words.as_slice(), more].concat())
    };
    let manifest = delegate(&["--days", "2", "--namespace", "shop"]).unwrap();
    let secret: Secret = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(secret.metadata.name.as_deref(), Some("web-signing-kits"));
    assert_eq!(secret.metadata.namespace.as_deref(), Some("shop"));
    let annotations = secret.metadata.annotations.unwrap();
    assert_eq!(annotations["onionbalance.dev/signing-kit-version"], "1");
    assert_eq!(annotations["onionbalance.dev/onion-address"], address);
    assert_eq!(annotations["onionbalance.dev/signing-kit-sha256"].len(), 64);
    assert_eq!(annotations["onionbalance.dev/signing-kit-days"], "2026-12-31 to 2027-01-03");
    let data = secret.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["hostname", "signing.kit"]);
    assert_eq!(data["hostname"].0, format!("{address}\n").as_bytes());
    let kit = Kit::parse(&data["signing.kit"].0).unwrap();
    assert_eq!(kit.address().to_string(), address);

    // A Secret holds at most 1 MiB.
    let refused = delegate(&["--days", "365"]).unwrap_err();
    assert!(refused.contains("use --days 290 or less"), "{refused}");
}

/// Tries every 32 bytes of the manifest, and of each text in it after decoding.
#[test]
fn nothing_in_the_manifest_yields_the_master_key_or_a_blinded_private_key() {
    let (folder, master, address) = master();
    let words = ["delegate", &master, "--from", "2027-01-01", "--days", "1", "--secret", "web", "--namespace", "shop"];
    let manifest = key(&words).unwrap();
    let secret: Secret = serde_saphyr::from_str(&manifest).unwrap();
    let kit = Kit::parse(&secret.data.unwrap()["signing.kit"].0).unwrap();
    assert_eq!((kit.address().to_string(), kit.periods()), (address, 2));
    let targets = Targets::of(&kit);
    assert_eq!(found_in(&manifest, &targets), None);

    // The search finds the secret where it is.
    let file = fs::read(folder.path("master/hs_ed25519_secret_key")).unwrap();
    for text in [BASE64.encode(&file), HEXLOWER.encode(&file[32..64]), HEXLOWER.encode(&file[64..])] {
        let betrayed = manifest.replacen("data:", &format!("data:\n  note: \"{text}\""), 1);
        assert_eq!(found_in(&betrayed, &targets).as_deref(), Some(&*text));
    }
}

/// Returns the first text in a manifest that yields a private key, as it is or after decoding.
fn found_in(manifest: &str, targets: &Targets) -> Option<String> {
    let texts = manifest.split(|c: char| c.is_whitespace() || "\"':".contains(c));
    let found = texts.filter(|text| {
        let decoded = [&BASE64, &HEXLOWER, &BASE32].map(|encoding| encoding.decode(text.as_bytes()).ok());
        let address = BASE32.decode(text.trim_end_matches(".onion").to_uppercase().as_bytes()).ok();
        let plain = Some(text.as_bytes().to_vec());
        decoded.into_iter().chain([address, plain]).flatten().any(|bytes| targets.yielded_by(&bytes).is_some())
    });
    found.map(str::to_owned).next()
}

#[test]
fn bad_arguments_and_damaged_kits_are_explained() {
    let (folder, master, _) = master();
    let path = folder.path("web.kit");
    let refused = key(&["delegate", &master, "--from", "tomorrow"]).unwrap_err();
    assert!(refused.contains("write a day as YYYY-MM-DD, for example 2027-01-31"), "{refused}");
    assert!(key(&["delegate", &master, "--days", "0"]).is_err());

    key(&["delegate", &master, "--days", "1", "--output", &path]).unwrap();
    let kit = fs::read(&path).unwrap();
    fs::write(&path, &kit[..kit.len() - 1]).unwrap();
    let truncated = key(&["check", &path]).unwrap_err();
    assert!(truncated.contains("web.kit: the signing kit is truncated"), "{truncated}");
    let again = key(&["delegate", &path]).unwrap_err();
    assert!(again.contains("web.kit"), "{again}");
}

#[test]
fn a_kit_for_a_test_network_has_short_periods() {
    let (folder, master, _) = master();
    let path = folder.path("web.kit");
    let from = "2027-01-01T10:03:00Z";
    key(&["delegate", &master, "--from", from, "--testing", "8", "4", "--output", &path]).unwrap();
    let kit = Kit::parse(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(kit.periods(), 4);
    let kits = Kits::from(kit);
    let now = from.parse::<jiff::Timestamp>().unwrap().into();
    let wanted = PeriodCalendar::testing(8).published_at(now);
    assert!(wanted.iter().all(|period| period.is_some_and(|period| kits.covers(period))));
}

#[test]
fn a_published_descriptor_is_checked_for_a_betrayed_key() {
    let folder = Folder::new();
    let path = folder.path("descriptor");
    let text = include_str!("../../../onion/descriptor/testdata/c-tor-0.4.9.11.txt");
    fs::write(&path, text).unwrap();
    let checked = key(&["check", "--descriptor", &path]).unwrap();
    assert_eq!(checked, format!("{path}: ok, the signature does not betray the key\n"));
    fs::write(&path, "hs-descriptor 3\n").unwrap();
    let refused = key(&["check", "--descriptor", &path]).unwrap_err();
    assert!(refused.contains("descriptor: "), "{refused}");
    assert!(key(&["check"]).is_err());

    let flawed = folder.path("flawed");
    fs::write(&flawed, flawed_descriptor()).unwrap();
    fs::write(&path, text).unwrap();
    let lost = key(&["check", "--descriptor", &path, "--descriptor", &flawed]).unwrap_err();
    assert!(lost.contains(&format!("{path}: ok, ")), "{lost}");
    assert!(lost.contains(&format!("{flawed}: the program that signed this descriptor uses a constant")), "{lost}");
    assert!(lost.contains("the master key is lost to others; generate a new key"), "{lost}");
}
