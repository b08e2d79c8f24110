//! Checks the invariants of the simulated world.

use super::*;

/// The time within which a publisher that can reach the API server notices another holder of the
/// Lease. It consists of the attempt in progress, the pause before the next attempt, and the three
/// answers to the next attempt. The first one may still name this publisher as the holder, because
/// another publisher acquires the expired Lease a moment later. The write then conflicts, and only
/// the second read shows the new holder.
pub(in super::super) const SETTLED: Duration = Duration::from_secs(4 + 2 + 3);
/// The longest acceptable time without a leader while some publisher could lead. It is the sum of
/// the attempt in progress, the pause before the next attempt (which finds the Lease still held),
/// the duration of the Lease, the pause before the attempt that finds the Lease expired, and the
/// time that the API server takes to answer.
pub(in super::super) const LEADERLESS: Duration = Duration::from_secs(4 + 2 + 15 + 2 + 3);

impl World {
    pub(super) fn check_upload(&self, index: usize) {
        let publisher = &self.publishers[index];
        assert!(publisher.knows_object, "a publisher published before it knew the object");
        assert!(!publisher.suspended, "a suspended service was published");
        assert!(!publisher.stopping, "a publisher published after it had begun to stop");
        let read = publisher.read.expect("a publisher reads the Lease before it publishes");
        assert!(read >= publisher.resumed, "a publisher published after a pause without reading the Lease");
        for other in self.leaders().into_iter().filter(|other| *other != index) {
            assert!(
                !(self.is_settled(index) && self.is_settled(other)),
                "publishers {index} and {other} both publish at {:?}",
                self.elapsed
            );
        }
    }

    /// Returns true if a publisher has been running and able to reach the API server for long
    /// enough to have read the Lease.
    pub(super) fn is_settled(&self, index: usize) -> bool {
        let publisher = &self.publishers[index];
        let since = publisher.linked.max(self.server_since).max(publisher.paused_until).max(publisher.started);
        self.reaches_server(index) && self.elapsed.saturating_sub(since) > SETTLED
    }

    pub(super) fn check_leader(&mut self) {
        for index in 0..self.publishers.len() {
            let publisher = &self.publishers[index];
            let eligible = self.is_running(index)
                && self.reaches_server(index)
                && publisher.tor
                && publisher.knows_object
                && !publisher.suspended
                && !publisher.stopping;
            // While all publishers are paused, nothing happens, so that nothing is checked.
            let since = publisher.eligible.filter(|since| eligible && *since >= publisher.paused_until);
            self.publishers[index].eligible = since.or(eligible.then_some(self.elapsed));
        }
        if !self.leaders().is_empty() {
            self.without_leader = self.elapsed;
        }
        let eligible = self.publishers.iter().filter_map(|publisher| publisher.eligible).min();
        let could_lead = eligible.is_some_and(|since| self.elapsed.saturating_sub(since) > LEADERLESS);
        let without = self.elapsed.saturating_sub(self.without_leader);
        assert!(!could_lead || without <= LEADERLESS, "no leader for {without:?} at {:?}", self.elapsed);
    }
}
