//! A kernel that drives a disk by a script: batches of requests, of which it waits for all and says each status, and then powers off.
//!
//! The rings, the requests and the data are in the file of the kernel; the code of a few instructions only stores words, waits for the
//! used index, and writes to the serial port. So a guest with a disk boots where no Linux does, and again after a reset.
#![forbid(unsafe_code)]

use crate::tiny_kernel::{self, START};

/// The unit of data, in the guest's memory and on the disk.
pub const BLOCK: usize = 4096;

/// What the guest asks the disk for.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// Writes the block of memory to the block of the disk.
    Write(usize, u64),
    /// Reads the block of the disk into the block of memory.
    Read(usize, u64),
    Flush,
}

/// Takes pairs of words from a script: stores the second at the address that is the first. An address of 0 powers off, 1 waits for
/// that used index, 2 says the byte there as a digit.
const CODE: [u8; 71] = [
    0xbe, 0, 0, 0, 0,    //                    mov esi, script
    0xad, //                                next: lodsd
    0x89, 0xc7, //                          mov edi, eax
    0xad, //                                lodsd
    0x85, 0xff, //                          test edi, edi
    0x74, 0x31, //                          jz end
    0x83, 0xff, 0x01, //                    cmp edi, 1
    0x74, 0x09, //                          je wait
    0x83, 0xff, 0x02, //                    cmp edi, 2
    0x74, 0x10, //                          je say
    0x89, 0x07, //                          mov [rdi], eax
    0xeb, 0xea, //                          jmp next
    0x66, 0x3b, 0x04, 0x25, 0, 0, 0, 0, //  wait: cmp ax, [used index]
    0x75, 0xf6, //                          jne wait
    0xeb, 0xde, //                          jmp next
    0x8a, 0x18, //                          say: mov bl, [rax]
    0x80, 0xc3, 0x30, //                    add bl, '0'
    0x66, 0xba, 0xfd, 0x03, //              ready: mov dx, 0x3fd
    0xec, //                                in al, dx
    0xa8, 0x20, //                          test al, 0x20
    0x74, 0xf7, //                          jz ready
    0x66, 0xba, 0xf8, 0x03, //              mov dx, 0x3f8
    0x88, 0xd8, //                          mov al, bl
    0xee, //                                out dx, al
    0xeb, 0xc7, //                          jmp next
    0x66, 0xba, 0x00, 0x06, //              end: mov dx, 0x600
    0xb0, 0x34, //                          mov al, 5 << 2 | 1 << 5
    0xee, //                                out dx, al
    0xeb, 0xfe, //                          jmp .
];
/// Where the code has the addresses of the script and of the used index.
const SCRIPT_IN_CODE: usize = 1;
const USED_IN_CODE: usize = 31;

const POWER_OFF: u32 = 0;
const WAIT: u32 = 1;
const SAY: u32 = 2;

/// The registers of the first disk.
const REGISTERS: u32 = 0xd000_0000;

// From the start of the kernel.
const DESCRIPTORS: usize = 0x1000;
const AVAILABLE: usize = 0x2000;
const USED: usize = 0x3000;
const HEADERS: usize = 0x4000;
const STATUSES: usize = 0x5000;
const SCRIPT: usize = 0x6000;
const DATA: usize = 0x8000;
/// How many blocks of memory there are.
const BLOCKS: usize = 16;
const QUEUE_SIZE: u32 = 64;

fn address(of: usize) -> u32 {
    u32::try_from(START).unwrap() + u32::try_from(of).unwrap()
}

/// What block `number` of the guest's memory is full of at the beginning.
pub fn content(number: usize) -> u8 {
    u8::try_from(number).unwrap() + 1
}

/// The kernel's memory as it is loaded.
struct Image {
    bytes: Vec<u8>,
    script: Vec<u32>,
    descriptors: u16,
    requests: u16,
}

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn store(&mut self, register: u32, value: u32) {
        self.script.extend([REGISTERS + register, value]);
    }

    /// Resets the disk and starts its first queue (virtio 1.2, sections 3.1.1 and 4.2.3).
    fn start_queue(&mut self) {
        for status in [0, 1, 3] {
            self.store(0x70, status);
        }
        // VERSION_1
        self.store(0x24, 1);
        self.store(0x20, 1);
        self.store(0x70, 0xb);
        self.store(0x30, 0);
        self.store(0x38, QUEUE_SIZE);
        for (register, part) in [(0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED)] {
            self.store(register, address(part));
            self.store(register + 4, 0);
        }
        self.store(0x44, 1);
        self.store(0x70, 0xf);
    }

    fn descriptor(&mut self, place: u32, length: usize, flags: u16) {
        let mut bytes = u64::from(place).to_le_bytes().to_vec();
        bytes.extend(u32::try_from(length).unwrap().to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend((self.descriptors + 1).to_le_bytes());
        self.put(DESCRIPTORS + usize::from(self.descriptors) * 16, &bytes);
        self.descriptors += 1;
    }

    /// Makes a request available, when the index says so.
    fn add(&mut self, request: Request) {
        const NEXT: u16 = 1;
        const WRITABLE: u16 = 2;
        let (kind, memory, block) = match request {
            Request::Read(memory, block) => (0u32, Some((memory, WRITABLE)), block),
            Request::Write(memory, block) => (1, Some((memory, 0)), block),
            Request::Flush => (4, None, 0),
        };
        let (number, first) = (usize::from(self.requests), self.descriptors);
        let header = HEADERS + number * 16;
        self.put(header, &kind.to_le_bytes());
        self.put(header + 8, &(block * BLOCK as u64 / 512).to_le_bytes());
        self.descriptor(address(header), 16, NEXT);
        if let Some((memory, flags)) = memory {
            self.descriptor(address(DATA + memory * BLOCK), BLOCK, NEXT | flags);
        }
        self.put(STATUSES + number, &[9]);
        self.descriptor(address(STATUSES + number), 1, WRITABLE);
        self.put(AVAILABLE + 4 + number * 2, &first.to_le_bytes());
        self.requests += 1;
    }

    fn run(&mut self, batch: &[Request]) {
        let first = self.requests;
        batch.iter().for_each(|request| self.add(*request));
        let end = u32::from(self.requests);
        // The flags, which want no interrupt, and the index.
        self.script.extend([address(AVAILABLE), end << 16 | 1]);
        self.store(0x50, 0);
        self.script.extend([WAIT, end]);
        for number in first..self.requests {
            let status = address(STATUSES + usize::from(number));
            self.script.extend([SAY, status]);
        }
    }
}

/// The kernel that sends these batches to the first disk of the machine.
pub fn kernel(batches: &[&[Request]]) -> Vec<u8> {
    let mut image = Image {
        bytes: vec![0; DATA + BLOCKS * BLOCK],
        script: Vec::new(),
        descriptors: 0,
        requests: 0,
    };
    image.put(0, &CODE);
    image.put(SCRIPT_IN_CODE, &address(SCRIPT).to_le_bytes());
    image.put(USED_IN_CODE, &address(USED + 2).to_le_bytes());
    for number in 0..BLOCKS {
        image.put(DATA + number * BLOCK, &[content(number); BLOCK]);
    }
    image.start_queue();
    batches.iter().for_each(|batch| image.run(batch));
    image.script.extend([POWER_OFF, 0]);
    let script: Vec<u8> = image
        .script
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert!(script.len() <= DATA - SCRIPT);
    image.put(SCRIPT, &script);
    tiny_kernel::file(&image.bytes)
}
