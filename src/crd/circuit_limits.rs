//! The limits of clients' circuits in the `spec`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Limits for each client's circuit. The agent ends the streams that exceed a limit, and closes a
/// circuit that exceeds its limits repeatedly. A client uses one circuit for all its streams to the
/// service; clients behind a shared gateway may share a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::circuit_limits()))]
pub struct CircuitLimits {
    /// The number of streams that a circuit may have open. The agent never allows a circuit more
    /// than an eighth of all streams. From 1 to 16384. Default 256.
    #[serde(default = "default_open_streams")]
    #[schemars(range(min = 1, max = 16384))]
    pub open_streams: u32,
    /// The number of streams per second that a circuit may open in the long run. From 1 to 10000.
    /// If absent, the rate is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub streams_per_second: Option<u32>,
    /// The number of streams that a circuit may open at once after a pause. Requires
    /// `streamsPerSecond`, and must not be less. From 1 to 100000. If absent, ten times
    /// `streamsPerSecond`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub stream_burst: Option<u32>,
    /// The number of bytes per second that a circuit may transfer in both directions together. The
    /// agent slows down the streams of a faster circuit and does not end them. From 16384 to
    /// 1000000000. If absent, the number is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16384, max = 1_000_000_000))]
    pub bytes_per_second: Option<u32>,
}

impl CircuitLimits {
    /// Returns the rate of new streams per second and its burst, or None if the rate is not
    /// limited.
    pub fn new_streams(&self) -> Option<(u32, u32)> {
        self.streams_per_second.map(|rate| (rate, self.stream_burst.unwrap_or(rate.saturating_mul(10))))
    }
}

fn default_open_streams() -> u32 {
    256
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_generous_number_of_open_streams_is_limited_by_default() {
        let limits: CircuitLimits = serde_json::from_value(json!({})).unwrap();
        assert_eq!((limits.open_streams, limits.new_streams(), limits.bytes_per_second), (256, None, None));
        let limits: CircuitLimits = serde_json::from_value(json!({"streamsPerSecond": 5})).unwrap();
        assert_eq!(limits.new_streams(), Some((5, 50)));
        let limits: CircuitLimits = serde_json::from_value(json!({"streamsPerSecond": 5, "streamBurst": 7})).unwrap();
        assert_eq!(limits.new_streams(), Some((5, 7)));
    }
}
