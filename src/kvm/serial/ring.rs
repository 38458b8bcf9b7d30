//! A queue of bytes between two threads, without a lock.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// A bounded queue. At any time at most one thread puts in and at most one thread takes out; the owner makes sure of that.
#[derive(Debug)]
pub(super) struct ByteRing {
    bytes: Box<[AtomicU8]>,
    /// How many bytes were ever taken out. The taking thread writes it.
    taken: AtomicUsize,
    /// How many bytes were ever put in. The putting thread writes it.
    put: AtomicUsize,
}

impl ByteRing {
    /// A queue for `size` bytes, a power of two.
    pub(super) fn new(size: usize) -> ByteRing {
        debug_assert!(size.is_power_of_two());
        ByteRing {
            bytes: (0..size).map(|_| AtomicU8::new(0)).collect(),
            taken: AtomicUsize::new(0),
            put: AtomicUsize::new(0),
        }
    }

    /// Puts in as many bytes as fit. Answers how many.
    pub(super) fn put(&self, bytes: &[u8]) -> usize {
        let put = self.put.load(Ordering::Relaxed);
        let count = bytes.len().min(self.room());
        for (index, byte) in bytes.iter().take(count).enumerate() {
            self.at(put.wrapping_add(index))
                .store(*byte, Ordering::Relaxed);
        }
        self.put.store(put.wrapping_add(count), Ordering::SeqCst);
        count
    }

    /// Copies the first bytes without taking them out. Answers how many.
    pub(super) fn peek(&self, bytes: &mut [u8]) -> usize {
        let taken = self.taken.load(Ordering::Relaxed);
        let count = bytes.len().min(self.len());
        for (index, byte) in bytes.iter_mut().take(count).enumerate() {
            *byte = self.at(taken.wrapping_add(index)).load(Ordering::Relaxed);
        }
        count
    }

    /// Takes out the first `count` bytes, which `peek` has copied.
    pub(super) fn drop_first(&self, count: usize) {
        let taken = self.taken.load(Ordering::Relaxed);
        let count = count.min(self.len());
        self.taken
            .store(taken.wrapping_add(count), Ordering::SeqCst);
    }

    /// How many bytes are in the queue.
    pub(super) fn len(&self) -> usize {
        let put = self.put.load(Ordering::SeqCst);
        put.wrapping_sub(self.taken.load(Ordering::SeqCst))
    }

    /// How many more bytes fit.
    pub(super) fn room(&self) -> usize {
        self.bytes.len() - self.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn at(&self, count: usize) -> &AtomicU8 {
        &self.bytes[count & (self.bytes.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let ring = ByteRing::new(8);
        assert_eq!(ring.put(b"abcde"), 5);
        assert_eq!(ring.put(b"fghij"), 3);
        assert_eq!((ring.room(), ring.put(b"x")), (0, 0));
        let mut bytes = [0; 16];
        assert_eq!(ring.peek(&mut bytes), 8);
        assert_eq!(&bytes[..8], b"abcdefgh");
        ring.drop_first(3);
        assert_eq!(ring.put(b"ijklm"), 3);
        assert_eq!(ring.peek(&mut bytes), 8);
        assert_eq!(&bytes[..8], b"defghijk");
        ring.drop_first(100);
        assert!(ring.is_empty());
    }

    #[test]
    fn bytes_pass_between_threads_in_order() {
        const COUNT: usize = 100_000;
        let ring = ByteRing::new(64);
        let of = |index: usize| u8::try_from(index % 251).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut index = 0;
                while index < COUNT {
                    index += ring.put(&[of(index)]);
                }
            });
            let mut index = 0;
            while index < COUNT {
                let mut bytes = [0; 7];
                let count = ring.peek(&mut bytes);
                for byte in &bytes[..count] {
                    assert_eq!(*byte, of(index));
                    index += 1;
                }
                ring.drop_first(count);
            }
        });
        assert!(ring.is_empty());
    }
}
