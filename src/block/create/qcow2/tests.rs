//! New images of many shapes: each cluster is counted once, and the tables refer to each other.
#![forbid(unsafe_code)]

use super::*;
use crate::object::Value;

fn recipe(options: &[(&str, Value)], preallocation: Preallocation) -> Result<Qcow2Recipe> {
    let entries = options.iter().cloned();
    let entries = entries
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    Qcow2Recipe::take(&mut Options::from_dict(entries), None, preallocation)
}

/// The tables of a whole image.
fn image(layout: &Qcow2Layout, recipe: &Qcow2Recipe) -> Vec<u8> {
    let size = layout.cluster_size();
    let mut bytes = Vec::new();
    for index in 0..layout.table_clusters() {
        let mut cluster = vec![0; size];
        layout.fill(index, &mut cluster);
        bytes.extend(cluster);
    }
    let header = layout.header(recipe);
    bytes[..header.len()].copy_from_slice(&header);
    bytes
}

fn number(bytes: &[u8], offset: u64) -> u64 {
    let at = usize::try_from(offset).unwrap();
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The refcount of a cluster, as the specification says.
fn refcount(bytes: &[u8], cluster: u64, bits: u64, cluster_size: u64) -> u64 {
    let per_block = cluster_size * 8 / bits;
    let table = number(bytes, 48);
    let block = number(bytes, table + cluster / per_block * 8);
    assert!(block.is_multiple_of(cluster_size) && block > 0);
    let bit = cluster % per_block * bits;
    let byte = usize::try_from(block + bit / 8).unwrap();
    match bits < 8 {
        true => u64::from(bytes[byte]) >> (bit % 8) & ((1 << bits) - 1),
        false => {
            let len = usize::try_from(bits / 8).unwrap();
            let one = bytes[byte..byte + len].iter();
            one.fold(0, |sum, digit| sum << 8 | u64::from(*digit))
        }
    }
}

#[test]
fn every_cluster_is_counted_once_whatever_the_shape() {
    for (cluster_size, size) in [
        (512, 0),
        (512, 40 << 20),
        (4096, 300 << 20),
        (65536, 1 << 30),
    ] {
        for order in 0..7 {
            for preallocation in [Preallocation::Off, Preallocation::Metadata] {
                let bits = 1_i64 << order;
                let options = [
                    ("size", Value::Int(size)),
                    ("cluster-size", Value::Int(cluster_size)),
                    ("refcount-bits", Value::Int(bits)),
                ];
                let recipe = recipe(&options, preallocation).unwrap();
                let allocates = preallocation != Preallocation::Off;
                let layout = Qcow2Layout::new(&recipe, allocates).unwrap();
                let bytes = image(&layout, &recipe);
                let [bits, unit] = [bits, cluster_size].map(i64::cast_unsigned);
                let total = layout.file_length() / unit;
                let wrong = (0..total).find(|&one| refcount(&bytes, one, bits, unit) != 1);
                assert_eq!(wrong, None, "{options:?} {preallocation:?}");
                // What is behind the end is free.
                let per_block = unit * 8 / bits;
                if !total.is_multiple_of(per_block) {
                    assert_eq!(refcount(&bytes, total, bits, unit), 0);
                }
            }
        }
    }
}

#[test]
fn with_preallocation_each_guest_cluster_has_a_cluster_of_its_own() {
    let size = 5 << 20;
    let options = [
        ("size", Value::Int(size)),
        ("cluster-size", Value::Int(4096)),
    ];
    let recipe = recipe(&options, Preallocation::Metadata).unwrap();
    let layout = Qcow2Layout::new(&recipe, true).unwrap();
    let bytes = image(&layout, &recipe);
    let l1 = number(&bytes, 40);
    let flags = |entry: u64| (entry & !(1 << 63), entry >> 63);
    let mut expected = layout.data_area().0;
    for guest in 0..size.cast_unsigned() / 4096 {
        let (l2, is_copied) = flags(number(&bytes, l1 + guest / 512 * 8));
        assert_eq!(is_copied, 1);
        let entry = number(&bytes, l2 + guest % 512 * 8);
        assert_eq!(flags(entry), (expected, 1));
        expected += 4096;
    }
    assert_eq!(expected, layout.file_length());
}

#[test]
fn tables_that_are_too_large_are_refused_before_anything_is_computed() {
    for size in [i64::MAX - 511, 1 << 62] {
        for cluster_size in [512, 2 << 20] {
            let options = [
                ("size", Value::Int(size)),
                ("cluster-size", Value::Int(cluster_size)),
            ];
            let recipe = recipe(&options, Preallocation::Off).unwrap();
            let layout = Qcow2Layout::new(&recipe, true);
            assert!(layout.is_err(), "{options:?}");
        }
    }
}

#[test]
fn names_that_do_not_fit_are_refused() {
    for (len, cluster_size) in [(1024, 65536), (400, 512)] {
        let options = [
            ("size", Value::Int(0)),
            ("cluster-size", Value::Int(cluster_size)),
            ("backing-file", Value::from("n".repeat(len))),
        ];
        let refused = recipe(&options, Preallocation::Off).unwrap_err();
        assert_eq!(refused.to_string(), "Backing file name too long");
    }
}
