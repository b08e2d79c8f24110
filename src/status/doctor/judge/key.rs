//! Examines the Secret of the master key.

use crate::crd::names::master_key_secret;
use crate::crd::{OnionBalancedService, Reason};
use crate::status::advice;
use crate::status::doctor::facts::Facts;
use crate::status::doctor::finding::Finding;
use crate::status::doctor::key_facts::KeyContent;

const AREA: &str = "key";

pub(super) fn examine(facts: &Facts, object: &OnionBalancedService) -> Finding {
    let secret = master_key_secret(object);
    let advice = |reason: Reason| advice::action(reason.as_str(), &facts.namespace, &facts.name);
    let problem = |reason, found| Finding::problem(AREA, found).maybe(advice(reason).as_deref());
    let had = facts.status().onion_address;
    let key = match &facts.key {
        Ok(Some(key)) => key,
        Ok(None) if had.is_none() && object.spec.master_key.secret_name.is_none() => {
            return Finding::warning(AREA, format!("The operator has not generated Secret {secret} yet."))
                .maybe(advice(Reason::Generating).as_deref());
        }
        Ok(None) => return problem(Reason::SecretNotFound, format!("Secret {secret} does not exist.")),
        Err(unread) => return Finding::unread(AREA, unread),
    };
    let KeyContent { address, kits_until } = match &key.content {
        Ok(content) => content,
        Err(error) => {
            let found = format!("Secret {secret} (type {}) cannot be used: {error}.", key.type_);
            return Finding::problem(AREA, found).remedy(&format!(
                "check the key, which prints no private key: kubectl get secret {secret} -n {} -o yaml | kubectl \
                 onionbalance key check -",
                facts.namespace
            ));
        }
    };
    let what = if kits_until.is_some() { "signing kits" } else { "the key" };
    // Only the spec can change the address on purpose.
    let wanted = object.spec.master_key.onion_address.clone().or(had);
    if let Some(wanted) = wanted.filter(|wanted| bare(wanted) != bare(address)) {
        let found = format!("Secret {secret} holds {what} of {address}, but the address of the service is {wanted}.");
        return problem(Reason::AddressMismatch, found);
    }
    match kits_until {
        Some(until) if *until <= facts.now => {
            problem(Reason::SigningKeysMissing, format!("The signing kits in Secret {secret} have ended."))
        }
        Some(until) => Finding::ok(
            AREA,
            format!("Secret {secret} holds signing kits of the address, until {}.", until.strftime("%F")),
        ),
        None => Finding::ok(AREA, format!("Secret {secret} holds the key of the address.")),
    }
}

/// Returns an address without `.onion` and in lower case, as all forms of it have in common.
fn bare(address: &str) -> String {
    let address = address.to_ascii_lowercase();
    address.strip_suffix(".onion").unwrap_or(&address).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::doctor::finding::Mark;
    use crate::status::doctor::judge::tests::{ADDRESS, forbidden, healthy, with_spec, with_status};
    use crate::status::doctor::key_facts::KeyFacts;

    fn found(change: impl FnOnce(&mut Facts)) -> (Mark, String) {
        let mut facts = healthy();
        change(&mut facts);
        let finding = examine(&facts, facts.object().unwrap());
        (finding.mark, finding.found)
    }

    fn holding(address: &str, kits_until: Option<&str>) -> KeyFacts {
        let kits_until = kits_until.map(|until| until.parse().unwrap());
        KeyFacts { type_: "Opaque".to_owned(), content: Ok(KeyContent { address: address.to_owned(), kits_until }) }
    }

    #[test]
    fn the_right_key_is_good() {
        assert_eq!(found(|_| {}), (Mark::Ok, "Secret web-master-key holds the key of the address.".to_owned()));
    }

    #[test]
    fn a_missing_key_is_a_problem_unless_the_operator_may_still_generate_it() {
        let (mark, text) = found(|facts| facts.key = Ok(None));
        assert_eq!((mark, text.as_str()), (Mark::Problem, "Secret web-master-key does not exist."));
        let (mark, _) = found(|facts| {
            facts.key = Ok(None);
            with_status(facts, "onionAddress", json!(null));
        });
        assert_eq!(mark, Mark::Warning);
        assert_eq!(found(|facts| facts.key = Err(forbidden("get"))).0, Mark::Unchecked);
    }

    #[test]
    fn another_key_and_a_damaged_one_are_problems() {
        let other = ADDRESS.replace("pg6", "abc");
        let (mark, text) = found(|facts| facts.key = Ok(Some(holding(&other, None))));
        assert!(mark == Mark::Problem && text.contains("holds the key of abc"), "{text}");
        let (mark, _) = found(|facts| {
            facts.key = Ok(Some(holding(&other, None)));
            with_spec(facts, "masterKey", json!({"onionAddress": other.trim_end_matches(".onion").to_uppercase()}));
        });
        assert_eq!(mark, Mark::Ok, "the spec asks for this address");
        let damaged = KeyFacts { type_: "x/y".to_owned(), content: Err("the entry is missing".to_owned()) };
        let (mark, text) = found(|facts| facts.key = Ok(Some(damaged)));
        let expected = "Secret web-master-key (type x/y) cannot be used: the entry is missing.";
        assert_eq!((mark, text.as_str()), (Mark::Problem, expected));
    }

    #[test]
    fn signing_kits_last_until_their_end() {
        let (mark, text) = found(|facts| facts.key = Ok(Some(holding(ADDRESS, Some("2026-03-01T00:00:00Z")))));
        assert!(mark == Mark::Ok && text.ends_with("until 2026-03-01."), "{text}");
        let (mark, text) = found(|facts| facts.key = Ok(Some(holding(ADDRESS, Some("1970-01-01T00:00:00Z")))));
        assert!(mark == Mark::Problem && text.contains("have ended"), "{text}");
    }
}
