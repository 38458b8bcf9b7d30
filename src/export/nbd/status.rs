//! Metadata contexts: what a client may ask about ranges of an export.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use crate::block::{BlockBackend, BlockStatus, DirtyBitmap, DirtyBits};
use crate::nbd::protocol::meta::{BASE_ALLOCATION, Extent, MetaContext, allocation};

/// In which image of the backing chain a range is.
const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
/// The beginning of the names of dirty bitmaps.
const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
/// Flag of an extent of a dirty bitmap.
const DIRTY: u64 = 1;
/// The most extents in one answer, and the most questions to the node for it. A client asks again for the rest.
const EXTENTS_MAX: usize = 1024;
/// The longest extent of a header with lengths of 32 bits.
const LENGTH_MAX: u64 = u32::MAX as u64 & !(64 * 1024 - 1);

/// Which contexts an export has, or a client has chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusContexts {
    allocation: bool,
    depth: bool,
    /// With their numbers.
    bitmaps: Vec<(u32, Arc<DirtyBitmap>)>,
}

const ALLOCATION_ID: u32 = 0;
const DEPTH_ID: u32 = 1;
const FIRST_BITMAP_ID: u32 = 2;

impl StatusContexts {
    /// Those of an export.
    pub(super) fn of_export(depth: bool, bitmaps: Vec<Arc<DirtyBitmap>>) -> StatusContexts {
        StatusContexts {
            allocation: true,
            depth,
            bitmaps: (FIRST_BITMAP_ID..).zip(bitmaps).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.allocation && !self.depth && self.bitmaps.is_empty()
    }

    /// Adds those of `offered` that a query names. In a list, a query may name a whole name space.
    pub(super) fn add(&mut self, offered: &StatusContexts, query: &str, is_list: bool) {
        let fits = |name: &str, space: &str| query == name || (is_list && query == space);
        self.allocation |= offered.allocation && fits(BASE_ALLOCATION, "base:");
        self.depth |= offered.depth && fits(ALLOCATION_DEPTH, "qemu:");
        for (id, bitmap) in &offered.bitmaps {
            let is_all = is_list && query == DIRTY_BITMAP;
            let is_named = is_all || fits(&context_name(bitmap), "qemu:");
            if is_named && self.bitmaps.iter().all(|(known, _)| known != id) {
                self.bitmaps.push((*id, Arc::clone(bitmap)));
            }
        }
    }

    /// Their names and numbers.
    pub(super) fn list(&self) -> Vec<MetaContext> {
        let all = [
            (self.allocation, ALLOCATION_ID, BASE_ALLOCATION),
            (self.depth, DEPTH_ID, ALLOCATION_DEPTH),
        ];
        let there = all.into_iter().filter(|(is_there, ..)| *is_there);
        let plain = there.map(|(_, id, name)| MetaContext {
            id,
            name: name.to_owned(),
        });
        let bitmaps = self.bitmaps.iter().map(|(id, bitmap)| MetaContext {
            id: *id,
            name: context_name(bitmap),
        });
        plain.chain(bitmaps).collect()
    }

    /// What each context says of the range or of its beginning. With `is_one`, about one extent.
    pub(super) async fn ask(
        &self,
        backend: &BlockBackend,
        offset: u64,
        length: u64,
        is_one: bool,
    ) -> io::Result<Vec<(u32, Vec<Extent>)>> {
        let kinds = [
            (self.allocation, ALLOCATION_ID, allocation_flags as Flags),
            (self.depth, DEPTH_ID, depth_flags as Flags),
        ];
        let mut answers: Vec<_> = kinds
            .into_iter()
            .filter(|(is_chosen, ..)| *is_chosen)
            .map(|(_, id, flags)| (id, flags, Extents::new(is_one)))
            .collect();
        let (mut at, end) = (offset, offset + length);
        for _ in 0..EXTENTS_MAX {
            if at == end || answers.iter().all(|(.., extents)| extents.is_full) {
                break;
            }
            let status = backend.block_status(at, end - at).await?;
            for (_, flags, extents) in &mut answers {
                extents.add(status.length, flags(status));
            }
            at += status.length;
        }
        let plain = answers
            .into_iter()
            .map(|(id, _, extents)| (id, extents.list));
        let of = |bitmap: &DirtyBitmap| dirty_extents(bitmap.bits(), offset, length, is_one);
        let bitmaps = self.bitmaps.iter().map(|(id, bitmap)| (*id, of(bitmap)));
        Ok(plain.chain(bitmaps).collect())
    }
}

/// The name of the context that shows a bitmap.
fn context_name(bitmap: &DirtyBitmap) -> String {
    let name = bitmap.name().unwrap_or_default();
    format!("{}{name}", DIRTY_BITMAP)
}

/// What is dirty of a range or of its beginning. With `is_one`, one extent.
fn dirty_extents(bits: &DirtyBits, offset: u64, length: u64, is_one: bool) -> Vec<Extent> {
    let mut extents = Extents::new(is_one);
    let (mut at, end) = (offset, offset + length);
    while at < end && !extents.is_full {
        let run = bits.next_dirty(at..end).unwrap_or(end..end);
        if at < run.start {
            extents.add(run.start - at, 0);
        }
        if run.start < run.end {
            extents.add(run.end - run.start, DIRTY);
        }
        at = run.end;
    }
    extents.list
}

type Flags = fn(BlockStatus) -> u64;

fn allocation_flags(status: BlockStatus) -> u64 {
    let hole = if status.has_data { 0 } else { allocation::HOLE };
    let zero = if status.is_zero { allocation::ZERO } else { 0 };
    hole | zero
}

fn depth_flags(status: BlockStatus) -> u64 {
    status.depth.into()
}

/// The extents of one context, one after the other.
#[derive(Debug)]
struct Extents {
    list: Vec<Extent>,
    max: usize,
    is_full: bool,
}

impl Extents {
    fn new(is_one: bool) -> Extents {
        Extents {
            list: Vec::new(),
            max: if is_one { 1 } else { EXTENTS_MAX },
            is_full: false,
        }
    }

    fn add(&mut self, length: u64, flags: u64) {
        if self.is_full {
            return;
        }
        if let Some(last) = self.list.last_mut()
            && last.flags == flags
            && last.length + length <= LENGTH_MAX
        {
            last.length += length;
            return;
        }
        if self.list.len() == self.max {
            self.is_full = true;
            return;
        }
        let first = length.min(LENGTH_MAX);
        self.list.push(Extent {
            length: first,
            flags,
        });
        // What is longer is left to the client's next question.
        self.is_full = first < length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(is_one: bool, parts: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut extents = Extents::new(is_one);
        for (length, flags) in parts {
            extents.add(*length, *flags);
        }
        let list = extents.list.iter();
        list.map(|extent| (extent.length, extent.flags)).collect()
    }

    #[test]
    fn equal_neighbours_are_one_extent() {
        let parts = [(512, 0), (512, 0), (4096, 3), (512, 0)];
        assert_eq!(extents(false, &parts), [(1024, 0), (4096, 3), (512, 0)]);
        assert_eq!(extents(true, &parts), [(1024, 0)]);
    }

    #[test]
    fn an_extent_fits_into_32_bits_and_nothing_is_left_out() {
        assert_eq!(extents(false, &[(1 << 40, 3), (512, 0)]), [(LENGTH_MAX, 3)]);
        let half = LENGTH_MAX / 2 + 1;
        assert_eq!(
            extents(false, &[(half, 3), (half, 3)]),
            [(half, 3), (half, 3)]
        );
    }

    #[test]
    fn the_number_of_extents_is_limited() {
        let parts: Vec<_> = (0..5000).map(|number| (512, number % 2)).collect();
        assert_eq!(extents(false, &parts).len(), EXTENTS_MAX);
    }

    #[test]
    fn queries_name_a_context_or_in_a_list_all_of_a_name_space() {
        let offered = StatusContexts::of_export(true, Vec::new());
        let chosen = |query: &str, is_list| {
            let mut chosen = StatusContexts::default();
            chosen.add(&offered, query, is_list);
            let names = chosen.list().into_iter().map(|context| context.name);
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chosen("base:allocation", false), "base:allocation");
        assert_eq!(chosen("base:", true), "base:allocation");
        assert_eq!(chosen("base:", false), "");
        assert_eq!(
            chosen("qemu:allocation-depth", false),
            "qemu:allocation-depth"
        );
        assert_eq!(chosen("qemu:", true), "qemu:allocation-depth");
        for dirty in ["qemu:dirty-bitmap:b", "qemu:dirty-bitmap:"] {
            assert_eq!(chosen(dirty, true), "");
        }
        let mut none = StatusContexts::default();
        none.add(&StatusContexts::of_export(false, Vec::new()), "qemu:", true);
        assert!(none.is_empty());
    }
}
