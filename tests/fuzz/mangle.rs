//! Changes that a careless or hostile sender might make.
#![forbid(unsafe_code)]

use support::random::Random;

/// Numbers at whose edges mistakes live.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// A reproducible vandal.
pub struct Mangler(Random);

impl Mangler {
    pub fn new(seed: u64) -> Mangler {
        // A xorshift must not begin with 0.
        Mangler(Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.0.below(limit as u64)).unwrap()
    }

    pub fn number(&mut self) -> u64 {
        match self.below(3) {
            0 => self.0.number(),
            1 => self.0.below(0x4000),
            _ => EDGES[self.below(EDGES.len())],
        }
    }

    /// One of `seeds`, changed in a few places, or spliced with another.
    pub fn mangled(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        if self.below(8) == 0 {
            let other = &seeds[self.below(seeds.len())];
            bytes.truncate(self.below(bytes.len() + 1));
            bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
        }
        for _ in 0..self.below(5) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let len = self.below(9).min(bytes.len() - at);
        match self.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = b"\0\"'\\,=.:{}[]-+eE0189\xff\x80"[self.below(22)],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let copy = bytes[at..at + len].repeat(1 + self.below(40));
                bytes.splice(at..at, copy);
            }
            5 => {
                let number = self.number().to_string();
                bytes.splice(at..at + len, number.into_bytes());
            }
            _ => {
                let width = 1 << self.below(4);
                let number = self.number().to_le_bytes();
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number[..width].iter().copied());
            }
        }
    }
}
