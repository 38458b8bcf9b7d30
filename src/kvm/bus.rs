//! Finds the device that answers a trapped access, to an I/O port or to memory.
//!
//! The vcpu threads use a bus without a lock: it is complete before the machine starts and does not change afterwards.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// A device with registers.
///
/// Called on vcpu threads, also on several at once. An implementation must not take a lock that a context can hold, and must not
/// wait for a context.
pub trait BusDevice: Send + Sync {
    /// Answers a read of `data.len()` bytes, 1 to 8, at `offset` from the device's start.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes a write of `data.len()` bytes, 1 to 8, at `offset` from the device's start.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The devices of one address space.
#[derive(Default)]
pub struct Bus {
    /// Sorted, without overlap.
    entries: Vec<BusEntry>,
}

struct BusEntry {
    range: Range<u64>,
    name: String,
    device: Arc<dyn BusDevice>,
}

impl Bus {
    /// Puts a device on the bus. `name` is for messages.
    ///
    /// # Errors
    /// `InvalidArgument` if the range is empty or overlaps another device's.
    pub fn add(&mut self, range: Range<u64>, name: &str, device: Arc<dyn BusDevice>) -> Result<()> {
        let at = self
            .entries
            .partition_point(|entry| entry.range.end <= range.start);
        let next = self.entries.get(at);
        let (start, end) = (range.start, range.end);
        if range.is_empty() {
            let message = format!("device '{name}' at {start:#x} has no registers");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if let Some(other) = next.filter(|other| other.range.start < end) {
            let message = format!(
                "device '{name}' at {start:#x}..{end:#x} overlaps device '{}'",
                other.name
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let name = name.to_owned();
        let entry = BusEntry {
            range,
            name,
            device,
        };
        self.entries.insert(at, entry);
        Ok(())
    }

    /// Whether any device has a register in `range`.
    pub fn is_taken(&self, range: &Range<u64>) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.range.start < range.end && range.start < entry.range.end)
    }

    /// Reads. Where no device is, all bits are set.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes. Where no device is, this has no effect.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&dyn BusDevice, u64)> {
        let at = self
            .entries
            .partition_point(|entry| entry.range.end <= address);
        let entry = self.entries.get(at)?;
        let offset = address.checked_sub(entry.range.start)?;
        Some((&*entry.device, offset))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.iter();
        f.debug_map()
            .entries(entries.map(|entry| (&entry.range, &entry.name)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn bus() -> (Bus, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let mut bus = Bus::default();
        for start in [0x300, 0x100, 0x200] {
            let device: Arc<dyn BusDevice> = Arc::<Recorder>::clone(&recorder);
            bus.add(start..start + 0x80, "recorder", device).unwrap();
        }
        (bus, recorder)
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let (bus, recorder) = bus();
        let mut data = [0; 2];
        bus.read(0x17f, &mut data);
        assert_eq!(data, [0x7f; 2]);
        bus.write(0x200, &[1, 2, 3, 4]);
        assert_eq!(*recorder.0.lock().unwrap(), [(0, vec![1, 2, 3, 4])]);
    }

    #[test]
    fn where_no_device_is_all_bits_are_set_and_writes_are_ignored() {
        let (bus, recorder) = bus();
        for address in [0, 0xff, 0x180, 0x1ff, 0x380, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
            bus.write(address, &[1]);
        }
        assert!(recorder.0.lock().unwrap().is_empty());
    }

    #[test]
    fn overlapping_and_empty_devices_are_refused() {
        let (mut bus, recorder) = bus();
        for range in [0x17f..0x190, 0xf0..0x101, 0x110..0x120, 0..0x1000] {
            let device: Arc<dyn BusDevice> = Arc::<Recorder>::clone(&recorder);
            assert!(bus.is_taken(&range));
            let error = bus.add(range, "second", device).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("'second'"), "{message}");
            assert!(message.contains("overlaps device 'recorder'"), "{message}");
        }
        let error = bus.add(0x500..0x500, "empty", recorder).unwrap_err();
        assert!(error.to_string().contains("no registers"), "{error}");
    }
}
