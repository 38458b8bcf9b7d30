//! Recognises image formats by their first bytes.
//!
//! An image of another format than raw whose `format` was not given is refused, because serving its bytes as a disk would show the
//! guest garbage and let it rewrite the header. It is not opened as what it looks like either: a guest could have written a header
//! into a raw disk.
#![forbid(unsafe_code)]

/// How much of the image [`probe`] wants to see.
pub(super) const PROBE_LEN: usize = 512;

/// Magic numbers at the start of images.
const MAGICS: [(&[u8], &str); 10] = [
    (b"QFI\xfb", "qcow2"),
    (b"QED\0", "qed"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vpc"),
    (b"LUKS\xba\xbe", "luks"),
    (b"WithoutFreeSpace", "parallels"),
    (b"WithouFreSpacExt", "parallels"),
];

const VDI_MAGIC: (usize, &[u8]) = (0x40, &[0x7f, 0x10, 0xda, 0xbe]);

/// The format that `start`, the first bytes of an image, belongs to; `None` for raw.
pub(super) fn probe(start: &[u8]) -> Option<&'static str> {
    let (at, vdi) = VDI_MAGIC;
    if start.get(at..).is_some_and(|rest| rest.starts_with(vdi)) {
        return Some("vdi");
    }
    MAGICS
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_formats_are_recognised() {
        let mut vdi = [0; PROBE_LEN];
        vdi[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        let cases: [(&[u8], Option<&str>); 6] = [
            (b"QFI\xfb\0\0\0\x03", Some("qcow2")),
            (b"QFI", None),
            (b"", None),
            (&[0; PROBE_LEN], None),
            (&vdi, Some("vdi")),
            (b"LUKS\xba\xbe\0\x02", Some("luks")),
        ];
        for (start, expected) in cases {
            assert_eq!(probe(start), expected);
        }
    }
}
