//! A disk against a model of it in memory.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::driven_disk::{Disk, IN, OUT};

const SECTOR: usize = 512;

/// Random reads and writes at `depth` against a model; returns how many were done.
pub fn compare_with_model(disk: &mut Disk, model: &mut [u8], depth: usize, count: usize) -> usize {
    let mut flying: BTreeMap<u16, (usize, usize, bool)> = BTreeMap::new();
    let mut put = 0;
    let mut done = 0;
    while done < count {
        while put < count && flying.len() < depth {
            let sectors = 1 + usize::try_from(disk.random.below(20)).unwrap();
            let len = sectors * SECTOR;
            let places = (model.len() - len) / SECTOR;
            let start = usize::try_from(disk.random.below(places as u64)).unwrap() * SECTOR;
            let clash = flying
                .values()
                .any(|&(other, size, _)| start < other + size && other < start + len);
            if clash {
                break;
            }
            let write = disk.random.below(2) == 0;
            let pieces = 2 + disk.random.below(5);
            let sector = (start / 512) as u64;
            let head = if write {
                disk.random.fill(&mut model[start..start + len]);
                let data = model[start..start + len].to_vec();
                disk.put(0, (OUT, sector), &data, 0, pieces)
            } else {
                disk.put(0, (IN, sector), &[], len, pieces)
            };
            flying.insert(head, (start, len, write));
            put += 1;
        }
        disk.kick(0);
        disk.iterate(1);
        while let Some((head, finished)) = disk.take_done(0) {
            let (start, len, write) = flying.remove(&head).unwrap();
            assert_eq!(finished.status, 0, "{start}+{len} write={write}");
            if !write {
                assert_eq!(finished.written as usize, len + 1);
                assert!(
                    finished.data == model[start..start + len],
                    "wrong data at {start}+{len}"
                );
            }
            done += 1;
        }
    }
    done
}
