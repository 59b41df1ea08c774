//! Neighbours of a pack, and few requests instead of many.
//!
//! A request costs a round trip whatever it brings. While one is under way the link could
//! carry round trip times bandwidth in bytes: up to that much, it is cheaper to read
//! over a gap than to ask twice.

use std::ops::Range;
use std::time::Duration;

/// What fetching an entry of a pack is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// A reader waits for it.
    Wanted,
    /// Its content is not here and may be read soon: it belongs to a file beside the
    /// one that is read.
    Useful,
    /// It is here already, or of no file that anyone knows.
    Useless,
}

/// An entry of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Where it lies in the pack, in bytes.
    pub off: u64,
    /// How long it is there, in bytes.
    pub len: u64,
    /// What fetching it is good for.
    pub worth: Worth,
}

impl Slot {
    fn end(&self) -> u64 {
        self.off.saturating_add(self.len)
    }
}

/// Which entries of one pack to fetch together: the wanted ones, and useful ones around
/// them while they cost no more than `extra_bytes` beyond the wanted, gaps included.
///
/// `slots` are sorted by offset. Those behind the last wanted entry come first, as most
/// readers go forward; then those between the wanted; then those before the first, from
/// near to far. Answers indexes into `slots`, sorted.
pub fn neighbours(slots: &[Slot], extra_bytes: u64) -> Vec<usize> {
    let wanted = |slot: &Slot| slot.worth == Worth::Wanted;
    let (Some(first), Some(last)) = (
        slots.iter().position(wanted),
        slots.iter().rposition(wanted),
    ) else {
        return Vec::new();
    };
    let mut taken: Vec<usize> = (first..=last).filter(|&at| wanted(&slots[at])).collect();
    let mut left = extra_bytes;

    let mut edge = slots[last].end();
    for (at, slot) in slots.iter().enumerate().skip(last + 1) {
        let cost = slot.end().saturating_sub(edge);
        if cost > left {
            break;
        }
        if slot.worth == Worth::Useful {
            left -= cost;
            edge = slot.end();
            taken.push(at);
        }
    }
    for (at, slot) in slots.iter().enumerate().take(last).skip(first) {
        if slot.worth == Worth::Useful && slot.len <= left {
            left -= slot.len;
            taken.push(at);
        }
    }
    let mut edge = slots[first].off;
    for (at, slot) in slots.iter().enumerate().take(first).rev() {
        let cost = edge.saturating_sub(slot.off);
        if cost > left {
            break;
        }
        if slot.worth == Worth::Useful {
            left -= cost;
            edge = slot.off;
            taken.push(at);
        }
    }
    taken.sort_unstable();
    taken
}

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

    fn slots(worths: &[Worth]) -> Vec<Slot> {
        worths
            .iter()
            .zip(0u64..)
            .map(|(worth, at)| Slot {
                off: at * 100,
                len: 100,
                worth: *worth,
            })
            .collect()
    }

    #[test]
    fn neighbours_go_forward_first() {
        use Worth::{Useful, Useless, Wanted};
        let pack = slots(&[Useful, Useful, Wanted, Useful, Useful, Useless, Useful]);
        assert_eq!(neighbours(&pack, 0), [2]);
        assert_eq!(neighbours(&pack, 200), [2, 3, 4]);
        assert_eq!(neighbours(&pack, 300), [1, 2, 3, 4]);
        assert_eq!(neighbours(&pack, 400), [2, 3, 4, 6]);
        assert_eq!(neighbours(&pack, 600), [0, 1, 2, 3, 4, 6]);
    }

    #[test]
    fn where_nothing_is_wanted_nothing_is_fetched() {
        assert!(neighbours(&slots(&[Worth::Useful; 5]), 1000).is_empty());
        assert!(neighbours(&[], 1000).is_empty());
    }

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

        #[test]
        fn neighbours_cost_no_more_than_allowed(
            worths in prop::collection::vec(0..3u8, 0..60), extra in 0..3000u64,
        ) {
            let worths: Vec<_> = worths
                .iter()
                .map(|n| [Worth::Wanted, Worth::Useful, Worth::Useless][usize::from(*n)])
                .collect();
            let pack = slots(&worths);
            let taken = neighbours(&pack, extra);
            let count = |worth| taken.iter().filter(|at| pack[**at].worth == worth).count();
            let all_wanted = worths.iter().filter(|worth| **worth == Worth::Wanted).count();
            prop_assert_eq!(count(Worth::Wanted), all_wanted);
            prop_assert_eq!(count(Worth::Useless), 0);
            prop_assert!(count(Worth::Useful) as u64 * 100 <= extra);
            prop_assert!(taken.is_sorted());
        }
    }
}
