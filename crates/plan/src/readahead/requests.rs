//! Few requests instead of many.
//!
//! A request costs a round trip whatever it brings. While one is under way the link could
//! carry round trip times bandwidth in bytes: up to that much, it is cheaper to read
//! over a gap than to ask twice.

use std::ops::Range;
use std::time::Duration;

/// The gap, in bytes, up to which reading over it is cheaper than a second request, when
/// `parallel` requests share the link.
pub fn gap_tolerance(round_trip: Duration, bytes_per_sec: u64, parallel: u32) -> u64 {
    let in_flight = round_trip
        .as_micros()
        .saturating_mul(u128::from(bytes_per_sec))
        / 1_000_000;
    u64::try_from(in_flight / u128::from(parallel.max(1))).unwrap_or(u64::MAX)
}

/// One request to a store, and which pieces it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The bytes of the object to ask for.
    pub range: Range<u64>,
    /// The pieces that lie in it, as indexes.
    pub pieces: Range<usize>,
}

/// Few requests for many pieces of one object. `pieces` are sorted by start. Pieces that
/// are at most `gap_bytes` apart are asked for together while the request is at most
/// `max_bytes` long (a longer piece stands alone); so a long run becomes several requests,
/// which can be under way in parallel.
pub fn coalesce(pieces: &[Range<u64>], gap_bytes: u64, max_bytes: u64) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        if let Some(last) = requests.last_mut() {
            let gap = piece.start.saturating_sub(last.range.end);
            let end = piece.end.max(last.range.end);
            if gap <= gap_bytes && end - last.range.start <= max_bytes {
                last.range.end = end;
                last.pieces.end = at + 1;
                continue;
            }
        }
        requests.push(Request {
            range: piece.clone(),
            pieces: at..at + 1,
        });
    }
    requests
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_gap_worth_reading_is_the_bandwidth_delay_product() {
        assert_eq!(
            gap_tolerance(Duration::from_millis(40), 10_000_000, 1),
            400_000
        );
        assert_eq!(
            gap_tolerance(Duration::from_millis(40), 10_000_000, 4),
            100_000
        );
        assert_eq!(gap_tolerance(Duration::MAX, u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn a_cold_directory_of_one_pack_is_a_few_requests() {
        let pieces: Vec<_> = (0..4000u64).map(|at| at * 4000..at * 4000 + 3000).collect();
        let requests = coalesce(&pieces, 100_000, 4 << 20);
        assert_eq!(requests.len(), 4);
    }

    fn pieces() -> impl Strategy<Value = Vec<Range<u64>>> {
        prop::collection::vec((0..2000u64, 0..500u64), 0..60).prop_map(|steps| {
            let mut at = 0;
            let mut pieces = Vec::new();
            for (gap, len) in steps {
                pieces.push(at + gap..at + gap + len);
                at += gap + len;
            }
            pieces
        })
    }

    proptest! {
        #[test]
        fn requests_bring_each_piece_once_and_bounded_waste(
            pieces in pieces(), gap in 0..1000u64, max in 1..4000u64,
        ) {
            let requests = coalesce(&pieces, gap, max);
            let mut next = 0;
            for request in &requests {
                prop_assert_eq!(request.pieces.start, next);
                next = request.pieces.end;
                let inside = &pieces[request.pieces.clone()];
                for piece in inside {
                    prop_assert!(request.range.start <= piece.start);
                    prop_assert!(piece.end <= request.range.end);
                }
                prop_assert!(inside.len() == 1 || request.range.end - request.range.start <= max);
                let useful: u64 = inside.iter().map(|piece| piece.end - piece.start).sum();
                let waste = request.range.end - request.range.start - useful;
                prop_assert!(waste <= gap * (inside.len() as u64 - 1));
            }
            prop_assert_eq!(next, pieces.len());
        }
    }
}
