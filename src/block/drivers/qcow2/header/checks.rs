//! What is refused of a qcow2 image.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::{
    COMPRESSION, CORRUPT, DATA_FILE, DIRTY, EXTENDED_L2, Qcow2Header, RAW_DATA, invalid, u64_at,
    unsupported,
};
use crate::Result;

/// QEMU's limits.
const L1_BYTES_MAX: u64 = 32 << 20;
pub(in crate::block::drivers::qcow2) const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;

impl Qcow2Header {
    /// Checks the fields against each other.
    pub(super) fn check_sizes(&self) -> Result<()> {
        let bits = self.cluster_bits;
        if !(9..=21).contains(&bits) {
            return Err(invalid(format!("Unsupported cluster size: 2^{bits}")));
        }
        if self.version >= 3 && self.header_len < 104 {
            return Err(invalid("qcow2 header too short"));
        }
        if u64::from(self.header_len) > self.cluster_size() {
            return Err(invalid("qcow2 header exceeds cluster size"));
        }
        if self.refcount_order > 6 {
            let message = "Reference count entry width too large; may not exceed 64 bits";
            return Err(invalid(message));
        }
        Ok(())
    }

    /// Checks what the image needs, and whether it can be written without damage.
    ///
    /// # Errors
    /// `Unsupported`, with the feature and what to do.
    pub(in crate::block::drivers::qcow2) fn check_features(&self, read_only: bool) -> Result<()> {
        match self.crypt_method {
            0 => {}
            1 => return Err(unsupported("AES encryption of qcow2 is not supported")),
            2 => return Err(unsupported("LUKS encryption of qcow2 is not supported")),
            _ => {
                return Err(invalid(format!(
                    "Unsupported encryption method {}",
                    self.crypt_method
                )));
            }
        }
        let known = [
            (
                DIRTY,
                "dirty bit (the image was not closed; 'qemu-img check -r all' repairs it)",
            ),
            (CORRUPT, "corrupt bit ('qemu-img check -r all' repairs it)"),
            (COMPRESSION, "compression type (zstd)"),
            (EXTENDED_L2, "extended L2 entries"),
        ];
        let mut names: Vec<String> = Vec::new();
        let mut left = self.incompatible & !DATA_FILE;
        for (bit, name) in known {
            if left & bit != 0 {
                names.push(name.to_owned());
                left &= !bit;
            }
        }
        if left != 0 {
            names.push(format!("Unknown incompatible feature: {left:x}"));
        }
        if !names.is_empty() {
            let message = format!("Unsupported qcow2 feature(s): {}", names.join(", "));
            return Err(unsupported(message));
        }
        if read_only {
            return Ok(());
        }
        if self.autoclear & RAW_DATA != 0 {
            let message = "writing to an image with data_file_raw=on is not supported: open it with read-only=on";
            return Err(unsupported(message));
        }
        Ok(())
    }

    /// Checks that the tables lie within the file, which has `file_len` bytes, and cover the disk.
    ///
    /// # Errors
    /// `InvalidArgument`, with the table.
    pub(in crate::block::drivers::qcow2) fn check_tables(&self, file_len: u64) -> Result<()> {
        let l1_len = u64::from(self.l1_size) * 8;
        if l1_len > L1_BYTES_MAX {
            return Err(invalid("Active L1 table too large"));
        }
        // One entry of the L1 table covers a cluster full of L2 entries.
        let covered_bits = 2 * self.cluster_bits - 3;
        let needed = self.size.div_ceil(1 << covered_bits);
        if needed > u64::from(self.l1_size) {
            return Err(invalid("L1 table is too small"));
        }
        self.check_range(self.l1_offset, l1_len, file_len, "Active L1 table")?;
        let refcount_len = u64::from(self.refcount_clusters) << self.cluster_bits;
        if refcount_len > REFCOUNT_TABLE_BYTES_MAX {
            return Err(invalid("Reference count table too large"));
        }
        if refcount_len == 0 {
            return Err(invalid("Image does not contain a reference count table"));
        }
        self.check_range(
            self.refcount_offset,
            refcount_len,
            file_len,
            "Reference count table",
        )
    }

    /// Checks that something lies within the file.
    pub(in crate::block::drivers::qcow2) fn check_range(
        &self,
        offset: u64,
        len: u64,
        file_len: u64,
        what: &str,
    ) -> Result<()> {
        let unit = self.cluster_size();
        let end = offset.checked_add(len);
        let file_end = file_len.checked_next_multiple_of(unit);
        let is_inside = end
            .zip(file_end)
            .is_some_and(|(end, file_end)| end <= file_end);
        let is_behind_header = offset >= unit || len == 0;
        if !offset.is_multiple_of(unit) || !is_inside || !is_behind_header {
            return Err(invalid(format!("{what} offset invalid")));
        }
        Ok(())
    }

    /// Checks the refcount table: no block may be outside of the file, or there twice. To look for free clusters then takes no
    /// longer than the file is large.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(in crate::block::drivers::qcow2) fn check_refcount_blocks(
        &self,
        table: &[u8],
        file_len: u64,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        for at in (0..table.len() / 8 * 8).step_by(8) {
            let offset = u64_at(table, at) & !0x1ff;
            if offset == 0 {
                continue;
            }
            self.check_range(
                offset,
                self.cluster_size(),
                file_len,
                "Reference count block",
            )?;
            if !seen.insert(offset) {
                return Err(invalid("Reference count block used twice"));
            }
        }
        Ok(())
    }
}
