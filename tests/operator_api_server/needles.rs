//! Secrets, as they could be found in a text.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64_NOPAD, HEXLOWER};

/// What a part of a secret could look like in a text.
pub fn forms(secret: &[u8]) -> Vec<String> {
    let decimal: Vec<_> = secret.iter().map(ToString::to_string).collect();
    // Base64 of a part depends on where in the whole it begins; the ends depend on what is beside it.
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

/// The same of a token, which is written in hexadecimal digits, and of the bytes that these stand for.
pub fn of_a_token(digits: &[u8]) -> Vec<String> {
    let bytes = HEXLOWER.decode(digits).map(|bytes| forms(&bytes)).unwrap_or_default();
    [bytes, forms(digits), vec![String::from_utf8_lossy(digits).into_owned()]].concat()
}

/// Names and forms of the secrets that are in a text.
pub fn find<'a>(text: &str, needles: &'a BTreeMap<&'static str, Vec<String>>) -> Vec<(&'a str, &'a str)> {
    let lower = text.to_lowercase();
    let found = needles.iter().flat_map(|(name, forms)| forms.iter().map(|form| (*name, form.as_str())));
    found.filter(|(_, form)| lower.contains(&form.to_lowercase())).collect()
}
