//! A guest and a client that write the same blocks: the guest whole sectors, the client any bytes. What one has written is there,
//! whatever the other writes beside it.
//!
//! The guest has the even sectors of a block of 4 KiB. The client has the odd ones, and writes the ends of the even ones together with
//! them. What is there in the end depends on who was last.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use crate::front_end::{Guest, Io};
use crate::over::Over;

const SECTOR: usize = 512;
const BLOCK: usize = 8 * SECTOR;
/// How much of an even sector's end the client writes.
const END: usize = 100;
const ROUNDS: usize = 300;

/// The memory that the guest needs.
pub const GUEST_MEMORY: usize = SECTOR;

/// A client that reads and writes any bytes of the guest's disk.
pub trait ByteClient: Send {
    fn read(&mut self, offset: u64, len: usize) -> Vec<u8>;
    fn write(&mut self, offset: u64, bytes: &[u8]);
}

impl ByteClient for File {
    fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.write_all_at(bytes, offset).unwrap();
    }
}

/// The first of the bytes with which the guest fills its sectors, in turn, and that of the client.
const GUEST_FIRST: u8 = 1;
const CLIENT_FIRST: u8 = 101;

/// Both write at the same time, and before each write look whether their last one is still there. The disk begins with zeroes.
pub fn exercise(guest: &mut Guest, client: &mut impl ByteClient) {
    let over = Over::default();
    let (guests, clients) = thread::scope(|scope| {
        let client = &mut *client;
        let byte_writer = scope.spawn(|| {
            let mut last = 0;
            while !over.is_set() {
                last = client_round(client, last);
            }
            last
        });
        let end = over.when_dropped();
        let mut last = 0;
        for _ in 0..ROUNDS {
            // It ends early if it has failed.
            if byte_writer.is_finished() {
                break;
            }
            last = guest_round(guest, last);
        }
        drop(end);
        (last, byte_writer.join().unwrap())
    });
    guest_round(guest, guests);
    client_round(client, clients);
}

fn next(byte: u8, first: u8) -> u8 {
    match byte == 0 || byte == first + 99 {
        true => first,
        false => byte + 1,
    }
}

/// The guest's bytes are `last`, and then what is returned.
fn guest_round(guest: &mut Guest, last: u8) -> u8 {
    let new = next(last, GUEST_FIRST);
    for sector in (0..8).step_by(2) {
        let mut io = Io {
            write: false,
            offset: (sector * SECTOR) as u64,
            segments: vec![(0, SECTOR)],
        };
        assert_eq!(guest.run(0, &io), 0);
        let start = if sector == 0 { 0 } else { END };
        let own = &guest.memory.bytes()[start..SECTOR - END];
        let is_there = own.iter().all(|&byte| byte == last);
        assert!(is_there, "the guest's write of {last} is lost: {own:?}");
        io.write = true;
        guest.memory.bytes()[..SECTOR].fill(new);
        assert_eq!(guest.run(0, &io), 0);
    }
    new
}

/// The client's bytes are `last`, and then what is returned.
fn client_round(client: &mut impl ByteClient, last: u8) -> u8 {
    let new = next(last, CLIENT_FIRST);
    for sector in (1..8).step_by(2) {
        let own = client.read((sector * SECTOR) as u64, SECTOR);
        let is_there = own.iter().all(|&byte| byte == last);
        assert!(is_there, "the client's write of {last} is lost: {own:?}");
        let start = sector * SECTOR - END;
        let end = ((sector + 1) * SECTOR + END).min(BLOCK);
        client.write(start as u64, &vec![new; end - start]);
    }
    new
}
