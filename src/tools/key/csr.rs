//! Creates certificate requests, with which a CA checks who holds the master key.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use super::delegate;
use super::input::{Input, STANDARD_INPUT};
use crate::common::secret_file;
use crate::onion::CertificateRequest;
use crate::tools::{Failure, generator};

/// A nonce of so many hexadecimal digits is hardly in base64: random base64 text of this length
/// consists of such digits in one of 20 million cases.
const MIN_HEX: usize = 16;

/// The arguments of `key csr`.
#[derive(Debug, clap::Args)]
pub(super) struct Csr {
    /// The master key: a HiddenServiceDir, a key file or the manifest of a Secret; `-` reads
    /// standard input
    input: PathBuf,
    /// The nonce from the CA, for example the field `nonce` of an ACME challenge
    #[arg(long, allow_hyphen_values = true, required_unless_present = "ca_nonce_file")]
    ca_nonce: Option<String>,
    /// A file with the nonce from the CA; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "ca_nonce")]
    ca_nonce_file: Option<PathBuf>,
    /// The encoding of the nonce [default: base64]
    #[arg(long, value_enum)]
    nonce_encoding: Option<Encoding>,
    /// The format of the request
    #[arg(long, value_enum, default_value_t = Form::Pem)]
    to: Form,
    /// The file to write [default: standard output]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
}

/// The encoding of a nonce as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encoding {
    /// base64 or base64url, with or without padding, as in ACME
    Base64,
    /// Hexadecimal digits
    Hex,
    /// The bytes of the text itself
    Text,
}

/// The format of a certificate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// PEM, as web forms of CAs expect it
    Pem,
    /// Binary DER
    Der,
    /// DER in base64url without padding, as in the field `csr` of the response to an ACME challenge
    Base64url,
}

/// Creates a certificate request and writes it to a file, whose address is then printed to `out`,
/// or to `out` itself.
pub(super) fn run(args: Csr, out: &mut impl Write) -> Result<(), Failure> {
    let Csr { input, ca_nonce, ca_nonce_file, nonce_encoding, to, output, force } = args;
    let nonce = match (ca_nonce, ca_nonce_file) {
        (Some(text), _) => text,
        (None, Some(path)) => read_nonce(&path, &input)?,
        // The parser of the command line requires one of the two.
        (None, None) => String::new(),
    };
    let nonce = decode(nonce.trim(), nonce_encoding)?;
    if delegate::read_kit(&input).is_some() {
        let input = input.display();
        return Err(format!("{input}: a signing kit cannot sign a certificate request; use the master key").into());
    }
    let source = Input::read(&input)?;
    let request = CertificateRequest::sign(&source.file.into_key()?, &nonce, &mut generator())?;
    let bytes = match to {
        Form::Pem => request.to_pem()?.into_bytes(),
        Form::Der => request.to_der()?,
        Form::Base64url => format!("{}\n", BASE64URL_NOPAD.encode(&request.to_der()?)).into_bytes(),
    };
    let Some(path) = output else { return Ok(out.write_all(&bytes)?) };
    secret_file::write(&path, &bytes, force)?;
    Ok(writeln!(out, "{}", request.address())?)
}

/// Reads the text of a nonce from a file. Standard input can only hold the nonce or the key.
fn read_nonce(path: &Path, key: &Path) -> Result<String, Failure> {
    let is_standard_input = path == Path::new(STANDARD_INPUT);
    if is_standard_input && key == path {
        return Err("standard input cannot hold both the key and the nonce; write the nonce into a file".into());
    }
    let bytes = if is_standard_input { secret_file::read_standard_input()? } else { secret_file::read(path)? };
    let text = str::from_utf8(&bytes).map_err(|_| format!("{}: the nonce is not text", path.display()))?;
    Ok(text.to_owned())
}

/// Decodes the text of a nonce.
fn decode(text: &str, encoding: Option<Encoding>) -> Result<Vec<u8>, String> {
    let is_hex = text.len() >= MIN_HEX && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if encoding.is_none() && is_hex {
        return Err(
            "the nonce consists of hexadecimal digits; add --nonce-encoding hex, or --nonce-encoding base64 if the \
                    CA says that the nonce is in base64"
                .to_owned(),
        );
    }
    let (name, decoded) = match encoding.unwrap_or(Encoding::Base64) {
        Encoding::Base64 => ("base64", decode_base64(text)),
        Encoding::Hex => ("hexadecimal", HEXLOWER_PERMISSIVE.decode(text.as_bytes())),
        Encoding::Text => ("text", Ok(text.as_bytes().to_vec())),
    };
    decoded.map_err(|error| format!("the nonce is not {name} ({error}); copy the whole nonce from the CA"))
}

/// Decodes base64 or base64url (RFC 4648), with or without padding.
fn decode_base64(text: &str) -> Result<Vec<u8>, data_encoding::DecodeError> {
    let unpadded = text.trim_end_matches('=').as_bytes();
    if text.contains(['-', '_']) { BASE64URL_NOPAD.decode(unpadded) } else { BASE64_NOPAD.decode(unpadded) }
}
