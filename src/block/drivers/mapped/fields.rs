//! Little-endian fields of a header that was read whole.
#![forbid(unsafe_code)]

/// The bytes of a header. A field behind their end is 0.
#[derive(Clone, Copy, Debug)]
pub(in crate::block::drivers) struct HeaderFields<'a>(pub(in crate::block::drivers) &'a [u8]);

impl HeaderFields<'_> {
    pub(in crate::block::drivers) fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(in crate::block::drivers) fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(in crate::block::drivers) fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(in crate::block::drivers) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let rest = self.0.get(at..);
        let chunk = rest.and_then(|rest| rest.first_chunk());
        chunk.copied().unwrap_or([0; N])
    }
}
