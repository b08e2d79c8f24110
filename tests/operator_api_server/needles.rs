//! Searches texts for secrets in all the encodings in which they could appear.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64_NOPAD, HEXLOWER};

/// Returns the encoded forms in which a part of a secret could appear in a text.
pub fn forms(secret: &[u8]) -> Vec<String> {
    let decimal: Vec<_> = secret.iter().map(ToString::to_string).collect();
    // The base64 form of a part depends on its offset in the encoded data, and the first and last
    // characters depend on the neighbouring bytes.
    let shifted = (0..3).map(|shift| {
        let text = BASE64.encode(&[&vec![0; shift], secret].concat());
        text[4..text.len() - 4].to_owned()
    });
    let escaped: String = secret.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
    shifted
        .chain([
            HEXLOWER.encode(secret),
            BASE64_NOPAD.encode(secret),
            BASE32_NOPAD.encode(secret),
            decimal.join(", "),
            decimal.join(","),
            escaped,
        ])
        .collect()
}

/// Returns the encoded forms of a token: those of its hexadecimal digits and those of the bytes
/// that the digits represent.
pub fn of_a_token(digits: &[u8]) -> Vec<String> {
    let bytes = HEXLOWER.decode(digits).map(|bytes| forms(&bytes)).unwrap_or_default();
    [bytes, forms(digits), vec![String::from_utf8_lossy(digits).into_owned()]].concat()
}

/// Returns the names and forms of the secrets that a text contains.
pub fn find<'a>(text: &str, needles: &'a BTreeMap<&'static str, Vec<String>>) -> Vec<(&'a str, &'a str)> {
    let lower = text.to_lowercase();
    let found = needles.iter().flat_map(|(name, forms)| forms.iter().map(|form| (*name, form.as_str())));
    found.filter(|(_, form)| lower.contains(&form.to_lowercase())).collect()
}
