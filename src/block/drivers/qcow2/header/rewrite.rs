//! Another backing file in a header.
#![forbid(unsafe_code)]

use super::{
    BACKING_FORMAT, BITMAPS, FIXED_LEN, NAME_MAX, bitmaps, get_u32, invalid, u32_at, u64_at,
};
use crate::Result;

/// A backing file, as an image names it.
#[derive(Clone, Debug)]
pub(in crate::block) struct BackingName {
    pub(in crate::block) file: String,
    pub(in crate::block) format: String,
}

/// Returns the first cluster with another backing file, or with none. Other extensions stay.
///
/// # Errors
/// The header cannot be understood, or the names do not fit.
pub(in crate::block::drivers::qcow2) fn with_backing(
    cluster: &[u8],
    backing: Option<&BackingName>,
) -> Result<Vec<u8>> {
    if cluster.len() < FIXED_LEN {
        return Err(invalid("Image is not in qcow2 format"));
    }
    let header_len = match u32_at(cluster, 4) {
        2 => 72,
        _ => u32_at(cluster, 100) as usize,
    };
    let extensions = kept_extensions(cluster, header_len, BACKING_FORMAT)?;
    let fixed = cluster.get(..header_len);
    let mut bytes = fixed.ok_or_else(|| invalid("Header too large"))?.to_vec();
    bytes.extend(extensions);
    let (mut offset, mut len) = (0_u64, 0_u32);
    if let Some(backing) = backing {
        push_extension(&mut bytes, BACKING_FORMAT, backing.format.as_bytes());
        offset = bytes.len() as u64 + 8;
        len = u32::try_from(backing.file.len()).unwrap_or(u32::MAX);
    }
    // The end of the extensions.
    bytes.extend([0; 8]);
    bytes.extend(backing.iter().flat_map(|backing| backing.file.bytes()));
    if len > NAME_MAX || bytes.len() > cluster.len() {
        return Err(invalid("Backing file name too long"));
    }
    bytes[8..16].copy_from_slice(&offset.to_be_bytes());
    bytes[16..20].copy_from_slice(&len.to_be_bytes());
    bytes.resize(cluster.len(), 0);
    Ok(bytes)
}

/// Returns the first cluster with another place of the bitmaps, or with none. The rest stays.
///
/// # Errors
/// The header cannot be understood, or has no room.
pub(in crate::block::drivers::qcow2) fn with_bitmaps(
    cluster: &[u8],
    extension: Option<&[u8]>,
) -> Result<Vec<u8>> {
    let header_len = u32_at(cluster, 100) as usize;
    let name_start = usize::try_from(u64_at(cluster, 8)).unwrap_or(0);
    let name_end = name_start.checked_add(u32_at(cluster, 16) as usize);
    let name = name_end.and_then(|end| cluster.get(name_start..end));
    let name = name.filter(|_| name_start != 0).unwrap_or_default();
    let fixed = cluster.get(..header_len);
    let mut bytes = fixed.ok_or_else(|| invalid("Header too large"))?.to_vec();
    bytes.extend(kept_extensions(cluster, header_len, bitmaps::EXTENSION)?);
    if let Some(extension) = extension {
        push_extension(&mut bytes, bitmaps::EXTENSION, extension);
    }
    // The end of the extensions.
    bytes.extend([0; 8]);
    if name_start != 0 {
        let offset = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
    }
    bytes.extend(name);
    if bytes.len() > cluster.len() {
        return Err(invalid("The image header has no room for bitmaps"));
    }
    let autoclear = u64_at(cluster, 88) & !BITMAPS;
    let has_bitmaps = if extension.is_some() { BITMAPS } else { 0 };
    bytes[88..96].copy_from_slice(&(autoclear | has_bitmaps).to_be_bytes());
    bytes.resize(cluster.len(), 0);
    Ok(bytes)
}

/// The extensions but for those of the type `dropped`, without their end.
fn kept_extensions(cluster: &[u8], start: usize, dropped: u32) -> Result<Vec<u8>> {
    let name = usize::try_from(u64_at(cluster, 8)).unwrap_or(0);
    // Old images have the name where extensions begin.
    let end = if name == 0 { cluster.len() } else { name };
    let mut kept = Vec::new();
    let mut at = start;
    while at + 8 <= end {
        let kind = get_u32(cluster, at)?;
        let len = get_u32(cluster, at + 4)? as usize;
        at += 8;
        let value = at.checked_add(len).and_then(|to| cluster.get(at..to));
        let value = value.ok_or_else(|| invalid("Header extension too large"))?;
        match kind {
            0 => break,
            _ if kind == dropped => {}
            _ => push_extension(&mut kept, kind, value),
        }
        at += len.next_multiple_of(8);
    }
    Ok(kept)
}

fn push_extension(bytes: &mut Vec<u8>, kind: u32, value: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::drivers::qcow2::header::Qcow2Header;

    /// A header of version 3 with an extension of another kind, which is 5 bytes long.
    fn cluster() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[7] = 3;
        bytes[23] = 9;
        bytes[99] = 4;
        bytes[103] = 112;
        let mut extension = Vec::new();
        push_extension(&mut extension, 0x1234_5678, b"other");
        bytes[112..112 + extension.len()].copy_from_slice(&extension);
        bytes
    }

    fn names(cluster: &[u8]) -> (Option<String>, Option<String>) {
        let mut header = Qcow2Header::parse(&cluster[..FIXED_LEN]).unwrap();
        header.parse_names(cluster).unwrap();
        (header.backing_file, header.backing_format)
    }

    #[test]
    fn a_backing_file_comes_changes_and_goes_and_the_rest_stays() {
        let backing = |file: &str| BackingName {
            file: file.to_owned(),
            format: "raw".to_owned(),
        };
        let first = with_backing(&cluster(), Some(&backing("a/long/name"))).unwrap();
        let pair = |file: &str| (Some(file.to_owned()), Some("raw".to_owned()));
        assert_eq!(names(&first), pair("a/long/name"));
        let second = with_backing(&first, Some(&backing("b"))).unwrap();
        assert_eq!(names(&second), pair("b"));
        let last = with_backing(&second, None).unwrap();
        assert_eq!(names(&last), (None, None));
        assert_eq!(last, cluster());
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let backing = BackingName {
            file: "n".repeat(400),
            format: "qcow2".to_owned(),
        };
        assert!(with_backing(&cluster(), Some(&backing)).is_err());
        assert!(with_backing(&[0; 16], None).is_err());
    }

    #[test]
    fn hostile_extensions_are_refused() {
        let mut bytes = cluster();
        bytes[116..120].fill(0xff);
        assert!(with_backing(&bytes, None).is_err());
        bytes[100..104].fill(0xff);
        assert!(with_backing(&bytes, None).is_err());
    }
}
