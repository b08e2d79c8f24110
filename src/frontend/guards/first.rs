//! Decides which frontend's tor chooses the first guards of a service. This module is pure.
//!
//! Frontends that start together must not choose separate guards. The first one that writes its
//! name into the Secret lets its tor start, and the others wait for the guards.

use std::time::Duration;

/// The entry of the Secret with the name of the frontend whose tor chooses the first guards.
pub(super) const CLAIM_ENTRY: &str = "drawing";
/// The time after which another frontend takes over. A tor needs some seconds for its first
/// consensus, and a pod may be deleted meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a frontend without guards does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Its tor chooses the guards.
    Draw,
    /// It writes its name into the Secret. If it succeeds, its tor chooses the guards.
    Claim,
    /// It waits for the guards of another frontend.
    Wait,
}

/// The frontends that this one waits for.
#[derive(Debug, Default)]
pub(super) struct FirstDraw {
    /// The name of another frontend, and the monotonic time at which this one saw the name first.
    other: Option<(String, Duration)>,
}

impl FirstDraw {
    /// Returns the decision of the frontend `own` at the monotonic time `now`. `claimed` is the
    /// name in the Secret, which has no guards.
    pub(super) fn decide(&mut self, claimed: Option<&str>, own: &str, now: Duration) -> Decision {
        let Some(claimed) = claimed else { return Decision::Claim };
        if claimed == own {
            return Decision::Draw;
        }
        let (_, since) = match self.other.take().filter(|(known, _)| known == claimed) {
            Some(known) => self.other.insert(known),
            None => self.other.insert((claimed.to_owned(), now)),
        };
        if now.saturating_sub(*since) < PATIENCE { Decision::Wait } else { Decision::Claim }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frontend_draws_and_another_takes_over_if_nothing_comes() {
        let mut draw = FirstDraw::default();
        let mut at = |claimed, seconds| draw.decide(claimed, "a", Duration::from_secs(seconds));
        assert_eq!(at(None, 0), Decision::Claim);
        assert_eq!(at(Some("b"), 10), Decision::Wait);
        assert_eq!(at(Some("b"), 69), Decision::Wait);
        assert_eq!(at(Some("c"), 70), Decision::Wait, "another frontend has taken over");
        assert_eq!(at(Some("c"), 129), Decision::Wait);
        assert_eq!(at(Some("c"), 130), Decision::Claim);
        assert_eq!(at(Some("a"), 131), Decision::Draw);
    }
}
