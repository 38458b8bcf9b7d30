//! CRC-32C, the checksum of VHDX's metadata.
#![forbid(unsafe_code)]

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    let mut start: u32 = 0;
    while byte < table.len() {
        let mut crc = start;
        let mut bit = 0;
        while bit < 8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0x82f6_3b78;
            }
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
        start += 1;
    }
    table
}

/// The checksum of bytes.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        crc >> 8 ^ TABLE[usize::from(low ^ byte)]
    };
    !bytes.iter().fold(!0, step)
}

/// Whether the checksum at byte 4, made while that was zero, is right.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    let mut copy = bytes.to_vec();
    let Some(field) = copy.get_mut(4..8) else {
        return false;
    };
    let mut found = [0; 4];
    found.copy_from_slice(field);
    field.fill(0);
    crc32c(&copy) == u32::from_le_bytes(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[]), 0);
    }
}
