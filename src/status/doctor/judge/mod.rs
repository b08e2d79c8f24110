//! Judges the gathered facts. Each module examines one part of a service and returns its findings.
//! Nothing here does IO.

mod address;
mod definition;
mod key;
mod lease;
mod object;
mod operator;
mod pods;
mod points;
mod policies;
mod published;
mod selector;
mod targets;
#[cfg(test)]
mod tests;
mod tor;

use super::facts::Facts;
use super::finding::{Finding, Mark};

/// Examines a service from end to end. The findings are in the order in which a service comes up: a
/// problem often explains those below it.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![definition::examine(facts), operator::examine(facts)];
    found.extend(object::examine(facts));
    let Some(object) = facts.object() else { return found };
    found.push(key::examine(facts, object));
    if object.spec.suspend {
        return found;
    }
    found.extend(pods::examine(facts, object));
    found.extend(tor::examine(facts));
    found.extend(policies::examine(facts));
    found.extend(targets::examine(facts, object));
    let lease = lease::examine(facts);
    // Without a publisher, the report in the status is outdated.
    let is_outdated = lease.mark == Mark::Problem;
    found.push(lease);
    if !is_outdated {
        found.push(points::examine(facts));
        found.extend(published::examine(facts));
        found.extend(address::examine(facts, object));
    }
    found
}
