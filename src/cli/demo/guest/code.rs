//! The embedded guest's code, as the assembler made it.
#![allow(unsafe_code)] // symbols of the assembler

use std::arch::global_asm;

global_asm!(include_str!("disks.s"), options(att_syntax, raw));

unsafe extern "C" {
    static qcontext_guest_start: u8;
    static qcontext_guest_end: u8;
}

/// Drives disks; see `disks.s`.
pub(super) fn disks() -> &'static [u8] {
    between(
        &raw const qcontext_guest_start,
        &raw const qcontext_guest_end,
    )
}

/// What lies between two labels of one section.
fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    let length = end.addr().saturating_sub(start.addr());
    // SAFETY: the assembler put both labels into one read-only section, in this order, with nothing but bytes between.
    unsafe { std::slice::from_raw_parts(start, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_there_and_stays_clear_of_its_stacks() {
        let code = disks();
        // cli; cld
        assert_eq!(code[..2], [0xfa, 0xfc]);
        assert!(code.len() < 0x4000, "{}", code.len());
    }
}
