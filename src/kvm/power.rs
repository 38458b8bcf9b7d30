//! The ports by which a guest powers off and resets: ACPI's sleep control, sleep status and reset registers.
//!
//! Used by machines that boot a kernel, whose ACPI tables name the ports (see [`super::boot::acpi`]). The registers are
//! those of a hardware-reduced platform (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7). Kernels that were told so
//! (`reboot=k`) pull the reset line of a keyboard controller instead.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::boot::layout::{
    KEYBOARD, KEYBOARD_RESET, RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_OFF,
};
use super::bus::BusDevice;
use super::{MachineControls, MachineEnd};

/// Sleep control: the sleep type's place, and the bit that makes it happen.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The registers' ports.
pub const PORTS: Range<u16> = SLEEP_CONTROL..RESET + 1;

const CONTROL: u64 = 0;
const STATUS: u64 = (SLEEP_STATUS - SLEEP_CONTROL) as u64;
const RESET_OFFSET: u64 = (RESET - SLEEP_CONTROL) as u64;

/// The registers.
#[derive(Debug)]
pub struct Power(MachineControls);

impl Power {
    /// Registers that end the machine of these controls.
    pub fn new(controls: MachineControls) -> Power {
        Power(controls)
    }
}

impl BusDevice for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // No sleep type is set, and nothing has woken: a machine that sleeps is off.
        data.fill(if offset <= STATUS { 0 } else { 0xff });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(end) = asked(offset, data) {
            self.0.end(end);
        }
    }
}

/// The port of [`Keyboard`].
pub const KEYBOARD_PORTS: Range<u16> = KEYBOARD..KEYBOARD + 1;

/// The reset line of a keyboard controller, without keys.
#[derive(Debug)]
pub struct Keyboard(MachineControls);

impl Keyboard {
    /// A line that ends the machine of these controls.
    pub fn new(controls: MachineControls) -> Keyboard {
        Keyboard(controls)
    }
}

impl BusDevice for Keyboard {
    fn read(&self, _: u64, data: &mut [u8]) {
        // Nothing to be read, and ready for a command.
        data.fill(0);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data == [KEYBOARD_RESET] {
            self.0.end(MachineEnd::Reset);
        }
    }
}

/// What a write asks for.
fn asked(offset: u64, data: &[u8]) -> Option<MachineEnd> {
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
        assert!(matches!(asked(0, &[0x34]), Some(MachineEnd::PowerOff)));
        for value in [0x14, 0x20, 0x30, 0x10, 0] {
            assert!(asked(0, &[value]).is_none(), "{value:#x}");
        }
    }

    #[test]
    fn reset_needs_its_value() {
        assert!(matches!(asked(2, &[RESET_VALUE]), Some(MachineEnd::Reset)));
        assert!(asked(2, &[0xfe]).is_none());
        assert!(asked(1, &[RESET_VALUE]).is_none());
        assert!(asked(2, &[RESET_VALUE, 0]).is_none());
    }
}
