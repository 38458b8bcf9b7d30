//! A set of clusters, by their numbers: one bit each.
//!
//! An empty set costs no memory before something is put into it.
#![forbid(unsafe_code)]

use std::ops::Range;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct ClusterSet(Vec<u64>);

impl ClusterSet {
    /// An empty set of numbers below `end`.
    pub(super) fn below(end: u64) -> ClusterSet {
        let words = usize::try_from(end.div_ceil(64)).unwrap_or(usize::MAX);
        ClusterSet(vec![0; words])
    }

    /// Puts all of `range` into it. Returns how many were not in it.
    pub(super) fn insert(&mut self, range: Range<u64>) -> u64 {
        let mut count = 0;
        for (index, mask) in parts(range) {
            count += u64::from((mask & !self.0[index]).count_ones());
            self.0[index] |= mask;
        }
        count
    }

    /// The first one of `range` that is in it, if `is_member`, or else is not.
    pub(super) fn find(&self, range: Range<u64>, is_member: bool) -> Option<u64> {
        parts(range).find_map(|(index, mask)| {
            let word = self.0[index];
            let found = mask & if is_member { word } else { !word };
            (found != 0).then(|| index as u64 * 64 + u64::from(found.trailing_zeros()))
        })
    }
}

/// The words of a range and the bits of it in each.
fn parts(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = range.start / 64..range.end.div_ceil(64);
    let words = if range.is_empty() { 0..0 } else { words };
    words.map(move |index| {
        let start = range.start.saturating_sub(index * 64);
        let after = (index * 64 + 64).saturating_sub(range.end);
        let mask = (u64::MAX << start) & (u64::MAX >> after);
        (usize::try_from(index).unwrap_or(usize::MAX), mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_across_words_are_found() {
        let mut set = ClusterSet::below(200);
        assert_eq!(set.insert(64..70), 6);
        assert_eq!(set.insert(60..130), 64);
        assert_eq!(set.find(0..200, true), Some(60));
        assert_eq!(set.find(60..200, false), Some(130));
        assert_eq!(set.find(0..60, true), None);
        assert_eq!(set.find(131..200, true), None);
        assert_eq!(set.find(70..70, true), None);
    }

    #[test]
    fn the_last_number_can_be_in_it() {
        let mut set = ClusterSet::below(64);
        set.insert(63..64);
        assert_eq!(set.find(0..64, true), Some(63));
        set.insert(0..64);
        assert_eq!(set.find(0..64, false), None);
    }
}
