//! The descriptor of a VMDK image: lines of text.
#![forbid(unsafe_code)]

use crate::Result;
use crate::block::drivers::mapped::{invalid, unsupported};
use crate::block::image_info::VmdkInfo;
use crate::block::request::SECTOR;

/// Each is an open file.
const EXTENTS_MAX: usize = 1024;
const NO_PARENT: &str = "ffffffff";
const TYPES: [&str; 4] = [
    "monolithicFlat",
    "twoGbMaxExtentFlat",
    "twoGbMaxExtentSparse",
    "vmfs",
];

/// What a descriptor says.
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    create_type: String,
    cid: u32,
    parent: Option<String>,
    pub(super) extents: Vec<ExtentLine>,
}

/// An extent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// In bytes.
    pub(super) length: u64,
    pub(super) kind: ExtentKind,
    /// The kind, as the line has it.
    pub(super) kind_name: &'static str,
    pub(super) file: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Zeroes,
    Flat {
        /// Where it begins in its file.
        offset: u64,
    },
    Sparse,
}

impl Descriptor {
    /// Reads a descriptor, which may have zeroes behind it.
    ///
    /// # Errors
    /// It is none, or describes something that is not supported.
    pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor> {
        let end = bytes.iter().position(|&byte| byte == 0);
        let text = str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]);
        let text = text.map_err(|_| invalid("Image not in VMDK format"))?;
        let mut descriptor = Descriptor::default();
        for line in text.lines().map(str::trim) {
            if let Some(extent) = extent(line)? {
                descriptor.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                descriptor.take(key.trim(), value.trim().trim_matches('"'));
            }
        }
        if descriptor.create_type.is_empty() {
            return Err(invalid("Image not in VMDK format"));
        }
        if descriptor.extents.len() > EXTENTS_MAX {
            let message = format!("the VMDK image has more than {EXTENTS_MAX} extents");
            return Err(unsupported(message));
        }
        Ok(descriptor)
    }

    fn take(&mut self, key: &str, value: &str) {
        match key {
            "createType" => value.clone_into(&mut self.create_type),
            "CID" => self.cid = u32::from_str_radix(value, 16).unwrap_or(0),
            "parentCID" if value != NO_PARENT => self.parent = Some(value.to_owned()),
            _ => {}
        }
    }

    /// Checks that the image stands alone.
    pub(super) fn check_parent(&self) -> Result<()> {
        match self.parent {
            None => Ok(()),
            Some(_) => Err(unsupported("VMDK images with a parent are not supported")),
        }
    }

    /// What queries show of it, without the extents. It stands alone.
    pub(super) fn info(&self) -> VmdkInfo {
        VmdkInfo {
            create_type: self.create_type.clone(),
            cid: self.cid,
            parent_cid: u32::MAX,
            extents: Vec::new(),
        }
    }

    /// Checks that the extents are those of a type that is supported.
    pub(super) fn check_type(&self) -> Result<()> {
        let name = &self.create_type;
        match TYPES.contains(&name.as_str()) {
            true => Ok(()),
            false => Err(unsupported(format!("Unsupported image type '{name}'"))),
        }
    }
}

/// Reads a line such as `RW 4192256 SPARSE "disk-s001.vmdk"`. A line that describes no extent is `None`.
fn extent(line: &str) -> Result<Option<ExtentLine>> {
    let mut words = line.splitn(4, ' ');
    let access = words.next().unwrap_or("");
    if !["RW", "RDONLY", "NOACCESS"].contains(&access) {
        return Ok(None);
    }
    let wrong = || invalid(format!("Invalid extent line: {line}"));
    if access == "NOACCESS" {
        return Err(unsupported(format!("Unsupported extent: {line}")));
    }
    let length = sectors(words.next()).ok_or_else(wrong)?;
    let kind = words.next().ok_or_else(wrong)?;
    let rest = words.next().unwrap_or("").trim();
    let (file, offset) = file_and_offset(rest).unwrap_or(("", ""));
    let flat = || {
        let offset = if offset.is_empty() { "0" } else { offset };
        let offset = sectors(Some(offset)).ok_or_else(wrong)?;
        Ok(ExtentKind::Flat { offset })
    };
    let (kind, kind_name) = match kind {
        "ZERO" => (ExtentKind::Zeroes, "ZERO"),
        "SPARSE" => (ExtentKind::Sparse, "SPARSE"),
        "FLAT" => (flat()?, "FLAT"),
        "VMFS" => (flat()?, "VMFS"),
        other => return Err(unsupported(format!("Unsupported extent type '{other}'"))),
    };
    if kind != ExtentKind::Zeroes && file.is_empty() {
        return Err(wrong());
    }
    Ok(Some(ExtentLine {
        length,
        kind,
        kind_name,
        file: file.to_owned(),
    }))
}

/// The name in quotation marks, and what is behind it.
fn file_and_offset(text: &str) -> Option<(&str, &str)> {
    let (file, rest) = text.strip_prefix('"')?.split_once('"')?;
    Some((file, rest.trim()))
}

/// A number of sectors, in bytes.
fn sectors(word: Option<&str>) -> Option<u64> {
    word?.parse::<u64>().ok()?.checked_mul(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(lines: &str) -> Result<Descriptor> {
        let text = format!("# Disk DescriptorFile\ncreateType=\"vmfs\"\n{lines}\n\0\0");
        Descriptor::parse(text.as_bytes())
    }

    #[test]
    fn extents_are_read_with_their_places() {
        let lines = "RW 8 FLAT \"a b.vmdk\" 2\n RW 1 ZERO\r\nRDONLY 16 SPARSE \"c.vmdk\"\nparentCID=ffffffff";
        let descriptor = descriptor(lines).unwrap();
        let found = descriptor.extents.iter();
        let found: Vec<_> = found
            .map(|extent| (extent.length, extent.kind, extent.file.as_str()))
            .collect();
        let expected = [
            (4096, ExtentKind::Flat { offset: 1024 }, "a b.vmdk"),
            (512, ExtentKind::Zeroes, ""),
            (8192, ExtentKind::Sparse, "c.vmdk"),
        ];
        assert_eq!(found, expected);
        assert!(descriptor.check_parent().is_ok() && descriptor.check_type().is_ok());
    }

    #[test]
    fn what_makes_no_sense_or_is_not_supported_is_refused() {
        let cases = [
            "RW x FLAT \"a\" 0",
            "RW 36028797018963968 FLAT \"a\" 0",
            "RW 8 FLAT \"a\" -1",
            "RW 8 FLAT a",
            "RW 8 SPARSE \"a",
            "RW 8",
            "NOACCESS 8 ZERO",
            "RW 8 SESPARSE \"a\"",
        ];
        for line in cases {
            assert!(descriptor(line).is_err(), "{line}");
        }
        assert!(
            descriptor("parentCID=12345678")
                .unwrap()
                .check_parent()
                .is_err()
        );
        assert!(
            descriptor("createType=\"seSparse\"")
                .unwrap()
                .check_type()
                .is_err()
        );
        assert!(Descriptor::parse(b"createType").is_err());
        assert!(Descriptor::parse(&[0xff; 512]).is_err());
        let many = "RW 1 ZERO\n".repeat(EXTENTS_MAX + 1);
        assert!(descriptor(&many).is_err());
    }
}
