//! A fixed number of bits with levels above, which say where bits are set: a search skips what is clear.
//!
//! Used by [`DirtyBits`](super::bits::DirtyBits). Level 0 has the bits. A bit of a level above stands for a word of the level below and is
//! set if that is not zero. The top level has one word. So the next set bit among those of a disk of 1 TiB is found with a dozen
//! reads.
//!
//! # Threads
//! Any thread sets, clears and searches. There is no lock.
//!
//! # Invariants
//! 1. Whoever makes a word non-zero then sets the bit that stands for it.
//! 2. Whoever clears the bit that stands for a word looks at the word after that, and sets the bit again if the word is not zero.
//!
//! So when no call is under way, each word that is not zero is found from above; the bit of a word that is zero may be set. A set bit
//! whose `set` has not returned may be missed by a search. `model` runs through all orders of the steps.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::words::{Word, zeroed};

const WORD_BITS: u64 = u64::BITS as u64;

/// Bits with levels above; see the head of this file.
#[derive(Debug)]
pub(super) struct BitTree {
    len: u64,
    /// The bits, then the levels above them.
    levels: Vec<Box<[Word]>>,
}

impl BitTree {
    /// `len` bits, all clear. `None` if there is no memory for them.
    pub(super) fn new(len: u64) -> Option<BitTree> {
        let mut levels = Vec::new();
        let mut count = len.max(1);
        loop {
            count = count.div_ceil(WORD_BITS);
            levels.push(zeroed(usize::try_from(count).ok()?)?);
            if count == 1 {
                return Some(BitTree { len, levels });
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Sets the bits of a range. Returns how many were clear.
    pub(super) fn set(&self, range: Range<u64>) -> u64 {
        let mut new = 0;
        for (index, mask) in words_of(range) {
            let before = self.word(0, index).set(mask);
            new += u64::from((mask & !before).count_ones());
            if before == 0 {
                self.announce(0, index);
            }
        }
        new
    }

    /// Clears the bits of a range. Returns how many were set.
    pub(super) fn clear(&self, range: Range<u64>) -> u64 {
        let mut gone = 0;
        let mut at = range.start;
        while let Some(first) = self.next_set(at).filter(|&first| first < range.end) {
            let end = (first / WORD_BITS + 1) * WORD_BITS;
            for (index, mask) in words_of(first..end.min(range.end)) {
                let before = self.word(0, index).clear(mask);
                gone += u64::from((mask & before).count_ones());
                if before & mask != 0 && before & !mask == 0 {
                    self.retract(0, index);
                }
            }
            at = end;
        }
        gone
    }

    /// How many bits of a range are set.
    pub(super) fn count(&self, range: Range<u64>) -> u64 {
        let mut count = 0;
        let mut at = range.start;
        while let Some(first) = self.next_set(at).filter(|&first| first < range.end) {
            let end = (first / WORD_BITS + 1) * WORD_BITS;
            for (index, mask) in words_of(first..end.min(range.end)) {
                count += u64::from((self.word(0, index).get() & mask).count_ones());
            }
            at = end;
        }
        count
    }

    /// The first set bit at or behind `from`.
    pub(super) fn next_set(&self, from: u64) -> Option<u64> {
        let (mut level, mut at) = (0, from);
        loop {
            let index = usize::try_from(at / WORD_BITS).ok()?;
            let word = self.levels.get(level)?.get(index)?;
            let rest = word.get() >> (at % WORD_BITS);
            if rest == 0 {
                // Nothing more in this word: go up, behind what stands for it.
                at = at / WORD_BITS + 1;
                level += 1;
                continue;
            }
            at += u64::from(rest.trailing_zeros());
            if level == 0 {
                return Some(at).filter(|&at| at < self.len);
            }
            level -= 1;
            at *= WORD_BITS;
        }
    }

    /// The first clear bit of a range, or its end.
    pub(super) fn next_clear(&self, range: Range<u64>) -> u64 {
        for (index, mask) in words_of(range.clone()) {
            let clear = !self.word(0, index).get() & mask;
            if clear != 0 {
                return index * WORD_BITS + u64::from(clear.trailing_zeros());
            }
        }
        range.end
    }

    /// The word is not zero any more.
    fn announce(&self, level: usize, index: u64) {
        let (mut level, mut index) = (level + 1, index);
        while level < self.levels.len() {
            let before = self.word(level, index / WORD_BITS).set(bit(index));
            if before != 0 {
                return;
            }
            index /= WORD_BITS;
            level += 1;
        }
    }

    /// The word was made zero.
    fn retract(&self, level: usize, index: u64) {
        let (mut level, mut index) = (level, index);
        while level + 1 < self.levels.len() {
            let before = self.word(level + 1, index / WORD_BITS).clear(bit(index));
            if self.word(level, index).get() != 0 {
                self.announce(level, index);
                return;
            }
            if before != bit(index) {
                return;
            }
            index /= WORD_BITS;
            level += 1;
        }
    }

    fn word(&self, level: usize, index: u64) -> &Word {
        // A word's number was computed from a bit that exists.
        &self.levels[level][usize::try_from(index).unwrap_or(usize::MAX)]
    }
}

/// The bit that stands for the word `index`, in its word of the level above.
fn bit(index: u64) -> u64 {
    1 << (index % WORD_BITS)
}

/// The words that have bits of a range, and which bits these are.
fn words_of(range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let words = range.start / WORD_BITS..range.end.div_ceil(WORD_BITS);
    words.map(move |index| {
        let first = index * WORD_BITS;
        let low = range.start.saturating_sub(first);
        let high = (range.end - first).min(WORD_BITS);
        let mask = (u64::MAX << low) & (u64::MAX >> (WORD_BITS - high));
        (index, mask)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers that look random, the same each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }
    }

    fn all(tree: &BitTree) -> Vec<u64> {
        let next = |from| tree.next_set(from);
        std::iter::successors(next(0), |&last| next(last + 1)).collect()
    }

    #[test]
    fn it_is_the_set_that_it_stands_for() {
        for len in [1, 63, 64, 65, 4096, 4097, 20_000] {
            let (tree, mut set) = (BitTree::new(len).unwrap(), BTreeSet::new());
            let mut numbers = Numbers(len);
            for _ in 0..500 {
                let start = numbers.below(len);
                let longest = if numbers.below(8) == 0 { len } else { 100 };
                let end = (start + numbers.below(longest)).min(len);
                let before = set.len() as u64;
                if numbers.below(2) == 0 {
                    set.extend(start..end);
                    assert_eq!(tree.set(start..end), set.len() as u64 - before);
                } else {
                    set.retain(|at| !(start..end).contains(at));
                    assert_eq!(tree.clear(start..end), before - set.len() as u64);
                }
                let at = numbers.below(len);
                assert_eq!(tree.next_set(at), set.range(at..).next().copied());
                let clear = (at..len).find(|at| !set.contains(at));
                assert_eq!(tree.next_clear(at..len), clear.unwrap_or(len));
                let some = tree.count(start..end);
                assert_eq!(some, set.range(start..end).count() as u64, "{len}");
            }
            assert!(all(&tree).into_iter().eq(set), "{len}");
        }
    }

    #[test]
    fn no_bit_is_found_behind_the_last() {
        let tree = BitTree::new(4096).unwrap();
        tree.set(4095..4096);
        assert_eq!(tree.next_set(4095), Some(4095));
        assert_eq!(tree.next_set(4096), None);
        assert_eq!(tree.next_set(1 << 40), None);
    }

    /// That many words can only be skipped: reading them all takes minutes.
    #[test]
    fn a_search_skips_what_is_clear() {
        let tree = BitTree::new(1 << 33).unwrap();
        for _ in 0..1000 {
            tree.set(1 << 32..(1 << 32) + 1);
            assert_eq!(tree.next_set(0), Some(1 << 32));
            assert_eq!(tree.clear(0..1 << 33), 1);
            assert_eq!(tree.next_set(0), None);
        }
    }

    #[test]
    fn bits_for_which_there_is_no_memory_are_not_there() {
        assert!(BitTree::new(u64::MAX).is_none());
    }
}
