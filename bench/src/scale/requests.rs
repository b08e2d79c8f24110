//! The API server's request counters.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;

/// The verbs of write requests in the API server's metrics.
const WRITES: [&str; 6] = ["APPLY", "DELETE", "DELETECOLLECTION", "PATCH", "POST", "PUT"];

/// The number of requests to the API server, by verb and resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requests(BTreeMap<(String, String), usize>);

impl Requests {
    /// Reads `apiserver_request_total` from the API server's metrics.
    pub async fn count(client: &Client) -> Result<Self> {
        let request = Request::new("").get("metrics", &GetParams::default())?;
        Self::parse(&client.request_text(request).await?)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let Some((labels, value)) =
                line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value.to_owned())
            };
            let value: f64 = value.parse().context("apiserver_request_total has a value that is not a number")?;
            let (verb, resource) =
                (label("verb").context("apiserver_request_total has no verb")?, label("resource").unwrap_or_default());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let value = value as usize;
            *found.entry((verb, resource)).or_default() += value;
        }
        anyhow::ensure!(!found.is_empty(), "the API server's metrics have no apiserver_request_total");
        Ok(Self(found))
    }

    /// Returns the requests made since an earlier count.
    pub fn since(&self, earlier: &Self) -> Self {
        let more = |(key, count): (&(String, String), &usize)| {
            let more = count - earlier.0.get(key).copied().unwrap_or(0).min(*count);
            (more > 0).then(|| (key.clone(), more))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    /// Returns the sum of two counts.
    pub fn and(mut self, other: Self) -> Self {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
        self
    }

    /// Subtracts the given number of requests that created objects of a resource.
    pub fn without_creations(mut self, count: usize, resource: &str) -> Self {
        if let Some(found) = self.0.get_mut(&("POST".to_owned(), resource.to_owned())) {
            *found = found.saturating_sub(count);
        }
        self
    }

    /// Returns the number of requests for resources. Requests for probes and metrics are not
    /// included.
    pub fn on_resources(&self) -> usize {
        self.0.iter().filter(|((_, resource), _)| !resource.is_empty()).map(|(_, count)| count).sum()
    }

    /// Returns the number of requests that write anything other than Leases.
    pub fn writes_except_leases(&self) -> usize {
        let counts = |(verb, resource): &(String, String)| {
            WRITES.contains(&verb.as_str()) && !resource.is_empty() && resource != "leases"
        };
        self.0.iter().filter(|(key, _)| counts(key)).map(|(_, count)| count).sum()
    }

    /// Formats the counts for humans, with one line for each verb and resource.
    pub fn describe(&self) -> String {
        let lines = self.0.iter().map(|((verb, resource), count)| format!("  {count} {verb} {resource}\n"));
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE apiserver_request_total counter\n\
        apiserver_request_total{code=\"200\",resource=\"secrets\",verb=\"APPLY\"} 3\n\
        apiserver_request_total{code=\"201\",resource=\"secrets\",verb=\"APPLY\"} 4\n\
        apiserver_request_total{code=\"200\",resource=\"\",verb=\"GET\"} 1\n";

    #[test]
    fn counts_requests_by_verb_and_resource() {
        let before = Requests::parse(BEFORE).unwrap();
        let after = format!(
            "{}{}",
            BEFORE.replace("} 4", "} 6"),
            "apiserver_request_total{code=\"200\",resource=\"leases\",verb=\"PUT\"} 1e+01\n\
             apiserver_request_total{code=\"200\",resource=\"pods\",verb=\"WATCH\"} 1\n\
             apiserver_request_total{code=\"200\",resource=\"\",verb=\"POST\"} 1\n"
        );
        let since = Requests::parse(&after).unwrap().since(&before);
        assert_eq!((since.on_resources(), since.writes_except_leases()), (13, 2));
        assert_eq!(since.clone().and(since.clone()).on_resources(), 26);
        assert_eq!(since.describe(), "  2 APPLY secrets\n  1 POST \n  10 PUT leases\n  1 WATCH pods\n");
        assert!(Requests::parse("").is_err());
    }
}
