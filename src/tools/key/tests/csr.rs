//! Tests of `key csr`.

use data_encoding::{BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use x509_cert::der::asn1::OctetString;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _, EncodePem as _};
use x509_cert::request::CertReq;

use super::*;
use crate::onion::OnionAddress;

/// The bytes of a nonce whose base64 contains both characters in which base64url differs.
const NONCE: [u8; 16] =
    [0xfb, 0xff, 0xbe, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d];

/// Generates a master key and returns the folder, the path of the key and its address.
fn master() -> (Folder, String, OnionAddress) {
    let folder = Folder::new();
    let path = folder.path("master");
    let address = key(&["generate", "--output", &path]).unwrap();
    (folder, path, address.trim_end().parse().unwrap())
}

/// Returns the nonce of the CA in a certificate request.
fn ca_nonce(request: &CertReq) -> Vec<u8> {
    let mut attributes = request.info.attributes.iter();
    let attribute = attributes.find(|attribute| attribute.oid.to_string() == "2.23.140.41").unwrap();
    attribute.values.as_slice()[0].decode_as::<OctetString>().unwrap().into_bytes().to_vec()
}

#[test]
fn every_encoding_of_the_nonce_gives_its_bytes() {
    let (folder, master, address) = master();
    let signed = |words: &[&str]| {
        let pem = key(&[&["csr", &master], words].concat()).unwrap();
        let request = CertReq::from_pem(pem).unwrap();
        assert_eq!(request.info.public_key.subject_public_key.raw_bytes(), address.public_key());
        ca_nonce(&request)
    };
    let [with_padding, without, url] = [BASE64.encode(&NONCE), BASE64_NOPAD.encode(&NONCE), BASE64URL.encode(&NONCE)];
    assert!(with_padding.contains(['+', '/']) && with_padding.ends_with('=') && url.contains(['-', '_']));
    for text in [&with_padding, &without, &url, &BASE64URL_NOPAD.encode(&NONCE), &format!(" {with_padding}\n")] {
        assert_eq!(signed(&["--ca-nonce", text]), NONCE, "{text}");
    }
    for text in [HEXLOWER.encode(&NONCE), HEXUPPER.encode(&NONCE)] {
        assert_eq!(signed(&["--ca-nonce", &text, "--nonce-encoding", "hex"]), NONCE, "{text}");
    }
    assert_eq!(signed(&["--ca-nonce", "abcd_efgh", "--nonce-encoding", "text"]), b"abcd_efgh");
    // A nonce in base64url may begin with a hyphen.
    assert_eq!(signed(&["--ca-nonce", "----------8"])[0], 0xfb);

    let file = folder.path("nonce");
    fs::write(&file, format!("{with_padding}\r\n")).unwrap();
    assert_eq!(signed(&["--ca-nonce-file", &file]), NONCE);
}

#[test]
fn a_nonce_that_is_not_clear_is_refused() {
    let (_folder, master, _) = master();
    let refused = |words: &[&str]| key(&[&["csr", &master], words].concat()).unwrap_err();
    let hex = HEXLOWER.encode(&NONCE);
    assert!(refused(&["--ca-nonce", &hex]).contains("add --nonce-encoding hex"));
    let forced = CertReq::from_pem(key(&["csr", &master, "--ca-nonce", &hex, "--nonce-encoding", "base64"]).unwrap());
    assert_eq!(ca_nonce(&forced.unwrap()), BASE64.decode(hex.as_bytes()).unwrap());
    assert!(refused(&["--ca-nonce", "not base64!"]).contains("the nonce is not base64"));
    assert!(refused(&["--ca-nonce", "xyz", "--nonce-encoding", "hex"]).contains("the nonce is not hexadecimal"));
    assert!(refused(&["--ca-nonce", "AAAA"]).contains("the nonce of the CA has 3 bytes, but must have from 8 to 128"));
    assert!(refused(&["--ca-nonce", ""]).contains("has 0 bytes"));
    assert!(refused(&[]).contains("--ca-nonce"));
    assert!(refused(&["--ca-nonce", &hex, "--ca-nonce-file", "x"]).contains("cannot be used with"));
    let both = key(&["csr", "-", "--ca-nonce-file", "-"]).unwrap_err();
    assert!(both.contains("cannot hold both the key and the nonce"), "{both}");
}

#[test]
fn writes_the_request_in_each_format() {
    let (folder, master, address) = master();
    let nonce = BASE64.encode(&NONCE);
    let words = ["csr", &master, "--ca-nonce", &nonce];
    let text = key(&[words.as_slice(), &["--to", "base64url"]].concat()).unwrap();
    let der = BASE64URL_NOPAD.decode(text.strip_suffix('\n').unwrap().as_bytes()).unwrap();
    assert_eq!(CertReq::from_der(&der).unwrap().to_der().unwrap(), der);

    let file = folder.path("web.csr");
    let to_file = [words.as_slice(), &["--to", "der", "--output", &file]].concat();
    assert_eq!(key(&to_file).unwrap(), format!("{address}\n"));
    let request = CertReq::from_der(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(ca_nonce(&request), NONCE);
    assert!(key(&to_file).unwrap_err().contains("web.csr: File exists"));
    assert!(key(&[to_file.as_slice(), &["--force"]].concat()).is_ok());
}

#[test]
fn each_form_of_a_key_can_sign() {
    let folder = Folder::new();
    let pem = folder.path("x.key");
    let address: OnionAddress =
        key(&["generate", "--to", "pem", "--output", &pem]).unwrap().trim_end().parse().unwrap();
    let secret = folder.path("secret.yaml");
    key(&["convert", &pem, "--secret", "web-master-key", "--output", &secret]).unwrap();
    for path in [&pem, &secret] {
        let request = CertReq::from_pem(key(&["csr", path, "--ca-nonce", "AAECAwQFBgc="]).unwrap()).unwrap();
        assert_eq!(request.info.public_key.subject_public_key.raw_bytes(), address.public_key(), "{path}");
    }
    let kit = folder.path("web.kit");
    key(&["delegate", &pem, "--days", "1", "--output", &kit]).unwrap();
    let error = key(&["csr", &kit, "--ca-nonce", "AAECAwQFBgc="]).unwrap_err();
    assert!(error.contains("signing kit"), "{error}");
}

/// Runs OpenSSL. Returns whether it succeeded, and everything that it printed.
fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new("openssl").args(arguments).output();
    let output = output.expect("this test needs the program openssl");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

#[test]
fn openssl_verifies_the_request() {
    let (folder, master, address) = master();
    let file = folder.path("onion.csr");
    key(&["csr", &master, "--ca-nonce", &BASE64.encode(&NONCE), "--output", &file]).unwrap();
    let verify = ["req", "-in", &file, "-verify", "-noout", "-text"];
    let (good, text) = openssl(&verify);
    assert!(good && text.contains("verify OK"), "{text}");
    for part in ["ED25519", "2.23.140.41", "2.23.140.42", &format!("DNS:{address}")] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }

    // OpenSSL notices that another nonce was signed.
    let mut der = CertReq::from_pem(fs::read(&file).unwrap()).unwrap().to_der().unwrap();
    let place = der.windows(NONCE.len()).position(|window| window == NONCE).unwrap();
    der[place] ^= 1;
    fs::write(&file, CertReq::from_der(&der).unwrap().to_pem(LineEnding::LF).unwrap()).unwrap();
    let (_, text) = openssl(&verify);
    assert!(!text.contains("verify OK") && text.contains("verify failure"), "{text}");
}

/// The second request, for the certificate itself, has another key.
#[test]
fn openssl_requests_a_certificate_for_the_address() {
    let (folder, _, address) = master();
    let (key_file, file, name) = (folder.path("tls.key"), folder.path("tls.csr"), format!("DNS:{address}"));
    let extension = format!("subjectAltName={name}");
    let (made, text) = openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-noenc",
        "-keyout",
        &key_file,
        "-out",
        &file,
        "-subj",
        "/",
        "-addext",
        &extension,
    ]);
    assert!(made, "{text}");
    let (good, text) = openssl(&["req", "-in", &file, "-verify", "-noout", "-text"]);
    assert!(good && text.contains(&name) && text.contains("id-ecPublicKey"), "{text}");
}
