//! Ranges in bytes: rounding, runs, lengths that change.
#![forbid(unsafe_code)]
#![allow(clippy::single_range_in_vec_init)] // lists of runs

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;

fn bits(length: u64, granularity: u64) -> DirtyBits {
    DirtyBits::new(length, granularity).unwrap()
}

fn all(bits: &DirtyBits) -> Vec<Range<u64>> {
    bits.runs().collect()
}

#[test]
fn granularities_are_powers_of_two_within_bounds() {
    for wrong in [0, 1, 256, 513, 3 << 16, 1 << 32, u64::MAX] {
        let error = DirtyBits::new(MIB, wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Granularity must be power of 2 and at least 512"
        );
    }
    for right in [512, 4096, 1 << 31] {
        assert_eq!(bits(MIB, right).granularity(), right);
    }
}

#[test]
fn granules_are_dirty_as_a_whole_and_clean_only_as_a_whole() {
    let bits = bits(MIB, 64 * KIB);
    bits.set(1..2);
    bits.set(200 * KIB..300 * KIB);
    bits.set(7..7);
    assert_eq!(all(&bits), [0..64 * KIB, 192 * KIB..320 * KIB]);
    assert_eq!(bits.count(), 192 * KIB);
    bits.clear(1..300 * KIB);
    assert_eq!(all(&bits), [0..64 * KIB, 256 * KIB..320 * KIB]);
    assert_eq!(bits.count(), 128 * KIB);
}

#[test]
fn the_last_granule_ends_where_the_disk_ends() {
    let bits = bits(100 * KIB, 64 * KIB);
    bits.set(0..100 * KIB);
    assert_eq!(all(&bits), [0..100 * KIB]);
    assert_eq!(bits.count(), 128 * KIB, "as in QEMU");
    bits.clear(64 * KIB..100 * KIB);
    assert_eq!(all(&bits), [0..64 * KIB]);
}

#[test]
fn a_run_that_is_taken_is_clean() {
    let bits = bits(MIB, 64 * KIB);
    bits.set(0..300 * KIB);
    bits.set(512 * KIB..513 * KIB);
    assert_eq!(bits.take_run(0, 128 * KIB), Some(0..128 * KIB));
    assert_eq!(
        bits.take_run(0, 1),
        Some(128 * KIB..192 * KIB),
        "one at least"
    );
    assert_eq!(bits.take_run(400 * KIB, MIB), Some(512 * KIB..576 * KIB));
    assert_eq!(bits.take_run(400 * KIB, MIB), None);
    assert_eq!(bits.take_run(0, MIB), Some(192 * KIB..320 * KIB));
    assert_eq!((bits.take_run(0, MIB), bits.count()), (None, 0));
}

#[test]
fn a_part_of_a_run_is_found() {
    let bits = bits(MIB, 64 * KIB);
    bits.set(128 * KIB..256 * KIB);
    assert_eq!(bits.next_dirty(0..MIB), Some(128 * KIB..256 * KIB));
    assert_eq!(
        bits.next_dirty(130 * KIB..131 * KIB),
        Some(130 * KIB..131 * KIB)
    );
    assert_eq!(bits.next_dirty(256 * KIB..MIB), None);
    assert_eq!(bits.next_dirty(0..128 * KIB), None);
}

#[test]
fn a_disk_that_ends_within_a_granule_stays_clean_when_it_grows() {
    let bits = bits(100 * KIB, 64 * KIB);
    bits.resize(MIB);
    assert_eq!(bits.count(), 0);
}

#[test]
fn a_disk_that_grows_is_clean_there_unless_it_was_longer_before() {
    let bits = bits(MIB, 64 * KIB);
    bits.set(900 * KIB..MIB);
    bits.resize(512 * KIB);
    assert_eq!((bits.count(), all(&bits)), (0, vec![]));
    bits.resize(4 * MIB);
    assert_eq!(
        all(&bits),
        [512 * KIB..MIB],
        "what was cut off has no data now"
    );
    bits.clear_all();
    bits.resize(1 << 40);
    assert_eq!(bits.count(), 0);
    bits.set((1 << 40) - 1..1 << 40);
    assert_eq!(all(&bits), [(1 << 40) - 64 * KIB..1 << 40]);
}

#[test]
fn a_run_goes_on_over_the_end_of_a_segment() {
    let bits = bits(MIB, 512);
    for exponent in 21..30 {
        bits.resize(1 << exponent);
    }
    bits.set(0..1 << 29);
    assert!(bits.there().count() > 3);
    assert_eq!(all(&bits), [0..1 << 29]);
    assert_eq!(bits.count(), 1 << 29);
    assert_eq!(bits.take_run(0, u64::MAX), Some(0..1 << 29));
    assert_eq!(bits.count(), 0);
}

/// As when a write is under way while the disk becomes shorter.
#[test]
fn what_is_dirty_behind_the_end_is_hidden_until_the_disk_grows() {
    let bits = bits(MIB, 64 * KIB);
    bits.resize(512 * KIB);
    bits.set(448 * KIB..576 * KIB);
    assert_eq!(
        (bits.count(), all(&bits)),
        (64 * KIB, vec![448 * KIB..512 * KIB])
    );
    assert_eq!(bits.take_run(0, MIB), Some(448 * KIB..512 * KIB));
    assert_eq!((bits.count(), bits.take_run(0, MIB)), (0, None));
    bits.resize(576 * KIB);
    assert_eq!(all(&bits), [512 * KIB..576 * KIB]);
}

#[test]
fn a_write_behind_the_length_is_kept() {
    let bits = bits(MIB, 64 * KIB);
    bits.set(1 << 30..(1 << 30) + 1);
    bits.resize(2 << 30);
    assert_eq!(all(&bits), [1 << 30..(1 << 30) + 64 * KIB]);
}

#[test]
fn bitmaps_of_other_granularities_are_merged() {
    let (coarse, fine) = (bits(MIB, 64 * KIB), bits(MIB, 512));
    coarse.set(0..1);
    fine.set(65 * KIB..66 * KIB);
    let both = bits(MIB, 4096);
    both.merge(&coarse);
    both.merge(&fine);
    assert_eq!(all(&both), [0..68 * KIB]);
    coarse.merge(&fine);
    assert_eq!(all(&coarse), [0..128 * KIB]);
}

#[test]
fn everything_can_be_taken() {
    let bits = bits(1 << 40, 64 * KIB);
    bits.set(0..1);
    bits.set(1 << 39..(1 << 39) + MIB);
    let before = all(&bits);
    let taken = bits.take_all().unwrap();
    assert_eq!((all(&taken), all(&bits)), (before, vec![]));
    assert_eq!((taken.count(), bits.count()), (MIB + 64 * KIB, 0));
}

#[test]
fn a_disk_with_too_many_granules_is_refused_or_has_lost_something() {
    assert!(DirtyBits::new(1 << 43, 512).is_err());
    let bits = bits(MIB, 512);
    bits.resize(1 << 43);
    assert!(bits.has_lost());
    // Nothing of this hangs or fails.
    bits.set(0..1 << 43);
    bits.resize(MIB);
    bits.resize(1 << 44);
    let copy = DirtyBits::new(MIB, 512).unwrap();
    copy.merge(&bits);
    assert!(copy.has_lost());
    bits.clear_all();
    assert!(!bits.has_lost());
    bits.set((1 << 44) - 1..1 << 44);
    assert!(bits.has_lost());
}

#[test]
fn threads_that_set_and_take_lose_nothing() {
    const GRANULES: u64 = 5000;
    let bits = bits(GRANULES * 512, 512);
    // How often each granule was set and how often that was seen, by a number that only grows.
    let numbers = |len: u64| (0..len).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let (written, seen) = (numbers(GRANULES), numbers(GRANULES));
    let copy = || {
        while let Some(run) = bits.take_run(0, 40 * 512) {
            for at in run.step_by(512) {
                let index = usize::try_from(at / 512).unwrap();
                seen[index].store(written[index].load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (bits, written) = (&bits, &written);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let at = (round * (7 + writer)) % GRANULES;
                        written[usize::try_from(at).unwrap()].fetch_add(1, Ordering::Relaxed);
                        bits.set(at * 512..(at + 1) * 512);
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            copy();
        }
    });
    copy();
    let all = |of: &[AtomicU64]| {
        of.iter()
            .map(|one| one.load(Ordering::Relaxed))
            .collect::<Vec<_>>()
    };
    assert!(all(&written) == all(&seen));
    assert_eq!(bits.count(), 0);
}
