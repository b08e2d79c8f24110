//! Decides which time period publishes first, so that none waits for the others for long.

use std::time::Duration;

use super::period::Period;

/// Returns the indexes of the periods in the order in which they publish. The one that has waited
/// longest comes first. If it has waited for long, the others leave the next round to it.
pub(super) fn take_turns(periods: &mut [Period], now: Duration) -> Vec<usize> {
    let mut order: Vec<(Duration, usize)> = Vec::new();
    for (index, period) in periods.iter().enumerate() {
        order.push((period.schedule.due_at().unwrap_or(Duration::MAX), index));
    }
    order.sort_unstable();
    let first = order.first().and_then(|(_, index)| Some((*index, periods.get(*index)?.schedule.overdue_at(now)?)));
    if let Some((first, until)) = first {
        let others = periods.iter_mut().enumerate().filter(|(index, _)| *index != first);
        others.for_each(|(_, other)| other.schedule.keep_apart(until));
    }
    order.into_iter().map(|(_, index)| index).collect()
}
