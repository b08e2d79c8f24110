//! Decides which connection gives way to a newcomer when a listener has no place left.
//!
//! A connection that waits for its peer to send a request gives way first: a complete request, such
//! as a probe of the kubelet, is answered within milliseconds, so its connection hardly ever waits.
//! Among the waiting connections, the peer with the most connections loses the one that has waited
//! longest. A connection whose request is being answered gives way only if its peer has more than
//! its share, and more than the newcomer. A single peer therefore cannot keep others out, whatever
//! it sends.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// The part of all connections that one peer can hold with requests that are being answered, as a
/// divisor.
const SHARE: usize = 8;

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Since the given time, the server waits for a complete request or sends a response.
    Waiting(Instant),
    /// Since the given time, the server prepares the response to a request.
    Working(Instant),
}

/// The present phase of a connection, which its task updates and its listener reads.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Phase>);

impl Activity {
    /// Creates the activity of a new connection, which waits for its first request.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Phase::Waiting(Instant::now())))
    }

    /// Records that a request is complete and is being answered.
    pub(super) fn works(&self) {
        self.set(Phase::Working(Instant::now()));
    }

    /// Records that the request has been answered, so that the peer may send the next one.
    pub(super) fn waits(&self) {
        self.set(Phase::Waiting(Instant::now()));
    }

    /// Returns the present phase.
    pub(super) fn phase(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

/// A connection that holds a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    /// The address of the peer.
    pub(super) peer: IpAddr,
    /// The phase of the connection.
    pub(super) phase: Phase,
}

/// Returns the index of the connection that gives way to a newcomer, or None if the newcomer is
/// refused. `seats` are the connections of a listener without a free place.
pub(super) fn gives_way(seats: &[Seat], newcomer: IpAddr) -> Option<usize> {
    let held = |peer: IpAddr| seats.iter().filter(|seat| seat.peer == peer).count();
    let waiting = seats.iter().enumerate().filter_map(|(index, seat)| match seat.phase {
        Phase::Waiting(since) => Some((held(seat.peer), Reverse(since), index)),
        Phase::Working(_) => None,
    });
    if let Some((_, _, index)) = waiting.max() {
        return Some(index);
    }
    let most = (seats.len() / SHARE).max(held(newcomer) + 1);
    let working = seats.iter().enumerate().filter_map(|(index, seat)| match seat.phase {
        Phase::Working(since) => Some((held(seat.peer), Reverse(since), index)),
        Phase::Waiting(_) => None,
    });
    working.max().filter(|(held, _, _)| *held > most).map(|(_, _, index)| index)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    /// Returns a seat for each number of a peer. A seat waits if its flag is true. Earlier seats
    /// have been in their phase for longer.
    fn seats(of: &[(u8, bool)]) -> Vec<Seat> {
        let start = Instant::now();
        let seat = |(second, (number, waits)): (u64, &(u8, bool))| {
            let since = start + Duration::from_secs(second);
            Seat { peer: peer(*number), phase: if *waits { Phase::Waiting(since) } else { Phase::Working(since) } }
        };
        (0..).zip(of).map(seat).collect()
    }

    #[test]
    fn the_connection_that_has_waited_longest_gives_way() {
        assert_eq!(gives_way(&seats(&[(1, false), (2, true), (3, true)]), peer(9)), Some(1));
        assert_eq!(gives_way(&seats(&[(1, true), (1, true)]), peer(1)), Some(0), "even to the same peer");
    }

    #[test]
    fn the_peer_with_the_most_connections_gives_way_first() {
        let flood = seats(&[(2, true), (1, true), (1, true), (3, true)]);
        assert_eq!(gives_way(&flood, peer(9)), Some(1));
        let slow_requests = seats(&[[(1, true)].as_slice(), &[(2, false); 15]].concat());
        assert_eq!(gives_way(&slow_requests, peer(9)), Some(0), "a waiting connection precedes");
    }

    #[test]
    fn a_request_in_progress_gives_way_only_to_a_peer_with_fewer_connections() {
        let full = seats(&[[(1, false), (1, false)].as_slice(), &[(2, false); 14]].concat());
        assert_eq!(gives_way(&full, peer(9)), Some(2));
        assert_eq!(gives_way(&full, peer(1)), Some(2));
        assert_eq!(gives_way(&full, peer(2)), None);
    }

    /// The kubelet calls `/drain` once for each container, and the calls last for minutes.
    #[test]
    fn a_few_long_requests_never_give_way() {
        let all: Vec<_> = (1..=8).flat_map(|number| [(number, false); 2]).collect();
        for newcomer in 1..=9 {
            assert_eq!(gives_way(&seats(&all), peer(newcomer)), None);
        }
    }

    proptest! {
        #[test]
        fn one_peer_cannot_keep_another_out(
            others in prop::collection::vec((2..=5_u8, any::<bool>()), 0..8), flood in prop::collection::vec(any::<bool>(), 56),
        ) {
            let flood = flood.into_iter().map(|waits| (1, waits));
            let seats = seats(&flood.chain(others.iter().copied()).collect::<Vec<_>>());
            let victim = gives_way(&seats, peer(9));
            prop_assert!(victim.is_some());
            let victim = seats[victim.unwrap_or_default()];
            // A peer with few connections loses only a waiting one, and only if the flood has none.
            let flood_waits = seats.iter().any(|seat| seat.peer == peer(1) && matches!(seat.phase, Phase::Waiting(_)));
            let other_waits = others.iter().any(|(_, waits)| *waits);
            prop_assert!(victim.peer == peer(1) || (!flood_waits && other_waits), "{victim:?}");
        }

        #[test]
        fn a_newcomer_never_displaces_a_request_of_a_peer_that_has_no_more_than_the_newcomer(
            all in prop::collection::vec((1..=4_u8, any::<bool>()), 1..64), newcomer in 1..=5_u8,
        ) {
            let seats = seats(&all);
            if let Some(victim) = gives_way(&seats, peer(newcomer)).map(|index| seats[index])
                && matches!(victim.phase, Phase::Working(_))
            {
                let held = |peer: IpAddr| seats.iter().filter(|seat| seat.peer == peer).count();
                prop_assert!(held(victim.peer) > held(peer(newcomer)) + 1);
                prop_assert!(seats.iter().all(|seat| matches!(seat.phase, Phase::Working(_))));
            }
        }
    }
}
