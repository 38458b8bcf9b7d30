//! The I/O ports by which a guest powers off and resets.
//!
//! The ACPI tables (`boot::acpi`) name the ports of the sleep control, sleep status and reset registers of a hardware-reduced
//! platform (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7). With `reboot=k` Linux uses the keyboard controller's reset line instead.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::boot::layout::{
    KEYBOARD, KEYBOARD_RESET, RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_OFF,
};
use super::bus::BusDevice;
use super::{MachineControls, MachineEnd};

/// Sleep control: the bits of the sleep type, and the bit that enters it.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The ports of [`Power`].
pub(crate) const PORTS: Range<u16> = SLEEP_CONTROL..RESET + 1;

const CONTROL: u64 = 0;
const STATUS: u64 = (SLEEP_STATUS - SLEEP_CONTROL) as u64;
const RESET_OFFSET: u64 = (RESET - SLEEP_CONTROL) as u64;

/// The sleep and reset registers.
#[derive(Debug)]
pub(crate) struct Power(MachineControls);

impl Power {
    /// Registers that end a machine by its controls.
    pub(crate) fn new(controls: MachineControls) -> Power {
        Power(controls)
    }
}

impl BusDevice for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // Sleep status: no wake-up event. The reset register cannot be read.
        data.fill(if offset <= STATUS { 0 } else { 0xff });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(end) = requested(offset, data) {
            self.0.end(end);
        }
    }
}

/// The port of [`Keyboard`].
pub(crate) const KEYBOARD_PORTS: Range<u16> = KEYBOARD..KEYBOARD + 1;

/// The reset line of a keyboard controller. There is no keyboard.
#[derive(Debug)]
pub(crate) struct Keyboard(MachineControls);

impl Keyboard {
    /// A line that resets a machine by its controls.
    pub(crate) fn new(controls: MachineControls) -> Keyboard {
        Keyboard(controls)
    }
}

impl BusDevice for Keyboard {
    fn read(&self, _: u64, data: &mut [u8]) {
        // Status: no data, and ready for a command.
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data == [KEYBOARD_RESET] {
            self.0.end(MachineEnd::Reset);
        }
    }
}

/// The end that a write requests.
fn requested(offset: u64, data: &[u8]) -> Option<MachineEnd> {
    let &[value] = data else {
        return None;
    };
    let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
    match offset {
        CONTROL if value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_OFF => {
            Some(MachineEnd::PowerOff)
        }
        RESET_OFFSET if value == RESET_VALUE => Some(MachineEnd::Reset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_off_needs_its_type_and_the_enable_bit() {
        assert!(matches!(requested(0, &[0x34]), Some(MachineEnd::PowerOff)));
        for value in [0x14, 0x20, 0x30, 0x10, 0] {
            assert!(requested(0, &[value]).is_none(), "{value:#x}");
        }
    }

    #[test]
    fn reset_needs_its_value() {
        assert!(matches!(
            requested(2, &[RESET_VALUE]),
            Some(MachineEnd::Reset)
        ));
        assert!(requested(2, &[0xfe]).is_none());
        assert!(requested(1, &[RESET_VALUE]).is_none());
        assert!(requested(2, &[RESET_VALUE, 0]).is_none());
    }
}
