//! Kernels of a few instructions: one does what is typed, one is busy until the power button is pressed.
#![forbid(unsafe_code)]

/// The kernel: says `A` on the serial port, then obeys letters. `q` powers off, `r` writes to the reset register, `k` pulls
/// the keyboard controller's reset line, `t` makes a triple fault, anything else comes back.
const CODE: [u8; 82] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, 0x41, //             mov al, 'A'
    0xee, //                   send: out dx, al
    0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
    0xec, //                   in al, dx
    0xa8, 0x01, //             test al, 1
    0x74, 0xf7, //             jz wait
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xec, //                   in al, dx
    0x3c, 0x71, //             cmp al, 'q'
    0x74, 0x0e, //             je off
    0x3c, 0x72, //             cmp al, 'r'
    0x74, 0x13, //             je reset
    0x3c, 0x6b, //             cmp al, 'k'
    0x74, 0x18, //             je keyboard
    0x3c, 0x74, //             cmp al, 't'
    0x74, 0x1a, //             je triple
    0xeb, 0xdf, //             jmp send
    0x66, 0xba, 0x00, 0x06, // off: mov dx, 0x600
    0xb0, 0x34, //             mov al, 5 << 2 | 1 << 5
    0xee, //                   out dx, al
    0xeb, 0xfe, //             jmp .
    0x66, 0xba, 0x02, 0x06, // reset: mov dx, 0x602
    0xb0, 0x01, //             mov al, 1
    0xee, //                   out dx, al
    0xeb, 0xfe, //             jmp .
    0xb0, 0xfe, //             keyboard: mov al, 0xfe
    0xe6, 0x64, //             out 0x64, al
    0xeb, 0xfe, //             jmp .
    0x0f, 0x01, 0x1d, 0x02, 0x00, 0x00, 0x00, // triple: lidt [zero]
    0x0f, 0x0b, //             ud2
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // zero
];

/// The other kernel: says `A` and then dots without end; powers off with a `P` when it finds an edge on line 9, the power
/// button's, in the interrupt request register of the second PIC.
const BUSY: [u8; 41] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, 0x41, //             mov al, 'A'
    0xee, //                   out dx, al
    0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
    0xec, //                   in al, dx
    0xa8, 0x20, //             test al, 0x20
    0x74, 0xf7, //             jz wait
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, 0x2e, //             mov al, '.'
    0xee, //                   out dx, al
    0xe4, 0xa0, //             in al, 0xa0
    0xa8, 0x02, //             test al, 2
    0x74, 0xea, //             jz wait
    0xb0, 0x50, //             mov al, 'P'
    0xee, //                   out dx, al
    0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
    0xb0, 0x34, //             mov al, 5 << 2 | 1 << 5
    0xee, //                   out dx, al
    0xeb, 0xfe, //             jmp .
];

/// Where the kernel is loaded.
pub const START: u64 = 0x20_0000;

/// The kernel that does what is typed.
pub fn elf() -> Vec<u8> {
    file(&CODE)
}

/// The busy kernel.
pub fn busy() -> Vec<u8> {
    file(&BUSY)
}

/// An ELF file without a PVH note, so the code starts in 64-bit mode.
pub fn file(code: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Executable, x86-64, version 1, entry, program headers at 64, no sections, flags.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(START.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend([0; 12]);
    // Sizes of this header and of the one program header.
    file.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let length = code.len() as u64;
    for field in [0x78, START, START, length, length, 0] {
        file.extend(u64::to_le_bytes(field));
    }
    file.extend(code);
    file
}
