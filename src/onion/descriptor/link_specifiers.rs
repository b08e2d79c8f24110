//! Link specifiers, which describe how a client reaches the relay of an introduction point
//! (tor-spec, section 5.1.2).

const IPV4: u8 = 0;
const IPV6: u8 = 1;
const RSA_IDENTITY: u8 = 2;
const ED25519_IDENTITY: u8 = 3;

/// Returns the RSA identity digest from encoded link specifiers, which have the form
/// `NSPEC[1] { LSTYPE[1] LSLEN[1] LSPEC[LSLEN] }`.
///
/// Returns None if the specifiers are malformed: data is missing or left over, a known type has the
/// wrong length, or there is not exactly one RSA identity. A client needs an RSA identity, and a
/// second one would make the relay ambiguous.
pub(super) fn rsa_identity(encoded: &[u8]) -> Option<[u8; 20]> {
    let ([count], mut rest) = encoded.split_first_chunk()?;
    let mut identity = None;
    for _ in 0..*count {
        let ([kind, length], after) = rest.split_first_chunk()?;
        let (data, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        match (*kind, data.len()) {
            (RSA_IDENTITY, 20) if identity.is_none() => identity = Some(data.try_into().ok()?),
            (IPV4, 6) | (IPV6, 18) | (ED25519_IDENTITY, 32) => {}
            (IPV4 | IPV6 | RSA_IDENTITY | ED25519_IDENTITY, _) => return None,
            _ => {}
        }
    }
    identity.filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(specifiers: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut encoded = vec![u8::try_from(specifiers.len()).unwrap()];
        for (kind, data) in specifiers {
            encoded.extend([*kind, u8::try_from(data.len()).unwrap()]);
            encoded.extend(data);
        }
        encoded
    }

    fn usual() -> Vec<(u8, Vec<u8>)> {
        vec![(0, vec![1; 6]), (2, vec![2; 20]), (3, vec![3; 32]), (1, vec![4; 18]), (99, vec![5; 7])]
    }

    #[test]
    fn finds_the_rsa_identity() {
        assert_eq!(rsa_identity(&encode(&usual())), Some([2; 20]));
    }

    #[test]
    fn rejects_malformed_link_specifiers() {
        let without = encode(&usual()[..1]);
        let twice = encode(&[usual(), usual()].concat());
        let left_over = [encode(&usual()), vec![0]].concat();
        for encoded in [vec![], vec![0], without, twice, left_over] {
            assert_eq!(rsa_identity(&encoded), None, "{encoded:?}");
        }
        for index in 0..4 {
            let mut specifiers = usual();
            specifiers[index].1.pop();
            assert_eq!(rsa_identity(&encode(&specifiers)), None, "{index}");
        }
        let whole = encode(&usual());
        for length in 0..whole.len() {
            assert_eq!(rsa_identity(&whole[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn finds_the_rsa_identity_among_any_other_specifiers(
            identity: [u8; 20],
            mut others in proptest::collection::vec((4_u8.., proptest::collection::vec(any::<u8>(), 0..=255)), 0..10),
            place: prop::sample::Index,
        ) {
            others.insert(place.index(others.len() + 1), (RSA_IDENTITY, identity.to_vec()));
            let encoded = encode(&others);
            prop_assert_eq!(rsa_identity(&encoded), Some(identity));
            prop_assert_eq!(rsa_identity(&encoded[..encoded.len() - 1]), None);
        }

        #[test]
        fn parsing_never_panics(encoded in proptest::collection::vec(0_u8..40, 0..100)) {
            let _ = rsa_identity(&encoded);
        }
    }
}
