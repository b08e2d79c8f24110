//! Reads the Prometheus metrics of our programs in a pod.

use std::time::Duration;

use anyhow::Result;
use onionbalance_operator::link::METRICS_PORT;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stage::Stage;
use crate::torclient::get;

/// Fetches the metrics page of the pod at an address.
pub async fn page(address: &str) -> Result<String> {
    let page = async {
        let mut stream = TcpStream::connect(format!("{address}:{METRICS_PORT}")).await?;
        get(&mut stream, address, "/metrics").await
    };
    timeout(Duration::from_secs(2), page).await?
}

/// Returns the value of a sample on a metrics page, or 0 if the page does not contain it.
pub fn value(page: &str, sample: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

/// Returns the sum of a sample over the agents of all backends of our service.
pub async fn of_backends(stage: &Stage, sample: &str) -> Result<f64> {
    let mut sum = 0.0;
    for backend in stage.service.backends().await? {
        sum += value(&page(&backend.address).await?, sample);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_its_full_name() {
        let page = "x_total 1\nx 2\nx{result=\"accepted\"} 3\n";
        assert_eq!(value(page, "x").to_string(), "2");
        assert_eq!(value(page, "x{result=\"accepted\"}").to_string(), "3");
        assert_eq!(value(page, "y").to_string(), "0");
    }
}
