//! The serial console: a 16550 that is connected to standard input and output, or to a file.
//!
//! [`Console`] is the host's side. It outlives resets. `Serial` is the device on the bus of one machine.
//!
//! * `console`: the host's side, on `qcontext-main`
//! * `backend`: the fds, used so that they do not block
//! * `ring`: a queue of bytes between the two sides
//! * `terminal`: raw mode, while the process is in the foreground
//!
//! # Threads
//! The device runs on vcpu threads, the host's side on `qcontext-main`. They share a `SerialLink` (two queues of bytes and some
//! flags) and the interrupt line, but no lock. So a vcpu never waits for a context, nor for the reader of the output. If the
//! output queue is full, the transmitter reads as busy, and the device interrupts when there is room again.
//!
//! # Invariants
//! 1. Only `qcontext-main` fills `input` and empties `output`. Only a holder of the device's lock empties `input` and fills
//!    `output`; contexts do not take that lock.
//! 2. Each side first stores its own flag and then reads the other side's queue, and the other way round, all sequentially
//!    consistent. So if both sides change something at the same time, at least one of them sees the other's change, and no byte
//!    waits until another byte comes.
#![deny(unsafe_code)] // children that need it say why

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gsource::EventNotifier;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Uart};

use super::bus::BusDevice;

mod backend;
mod console;
mod ring;
mod terminal;
#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use console::{Console, JobControl};
use ring::ByteRing;
pub use terminal::restore_terminal;

/// The number of registers.
pub(super) const REGISTERS: u16 = 8;

/// The sizes of the queues in bytes.
const INPUT: usize = 4096;
const OUTPUT: usize = 64 << 10;
/// How many bytes a driver may send after it has read that the transmitter is empty.
const BURST: usize = 64;

/// Registers and bits (National Semiconductor PC16550D, section 8).
const IER: u8 = 1;
const IER_RECEIVE: u8 = 1;
const LCR: u8 = 3;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR: u8 = 4;
const MCR_LOOP: u8 = 1 << 4;
const LSR: u8 = 5;
const LSR_TRANSMITTER: u8 = 0x60;

/// What both sides share.
#[derive(Debug)]
struct SerialLink {
    input: ByteRing,
    output: ByteRing,
    /// Wakes the host's side: there is output, or room for input.
    wake: EventNotifier,
    /// The host's side was woken and has not run yet.
    wake_pending: AtomicBool,
    /// The guest has enabled the interrupt for input.
    wants_input: AtomicBool,
    /// The guest has read that the transmitter is busy.
    seen_busy: AtomicBool,
    /// The transmitter is not busy any more; the device raises the transmitter's interrupt at its next access.
    now_ready: AtomicBool,
    /// The host's side has more input than fits into the queue.
    has_more_input: AtomicBool,
}

/// The device; see the module.
pub(super) struct Serial {
    uart: Mutex<Uart<InterruptTrigger, NoEvents, Transmitter>>,
    link: Arc<SerialLink>,
}

/// Makes one edge on the device's interrupt line. Does not block.
pub(super) type Interrupt = Arc<dyn Fn() + Send + Sync>;

struct InterruptTrigger(Interrupt);

struct Transmitter(Arc<SerialLink>);

impl SerialLink {
    fn new() -> crate::Result<SerialLink> {
        Ok(SerialLink {
            input: ByteRing::new(INPUT),
            output: ByteRing::new(OUTPUT),
            wake: EventNotifier::new()?,
            wake_pending: AtomicBool::new(false),
            wants_input: AtomicBool::new(false),
            seen_busy: AtomicBool::new(false),
            now_ready: AtomicBool::new(false),
            has_more_input: AtomicBool::new(false),
        })
    }

    /// Clears the flags that belong to the guest, for a new machine.
    fn reset(&self) {
        for flag in [&self.wants_input, &self.seen_busy, &self.now_ready] {
            flag.store(false, Ordering::SeqCst);
        }
    }

    /// Wakes the host's side.
    fn wake_host(&self) {
        if !self.wake_pending.swap(true, Ordering::SeqCst) {
            self.wake.signal();
        }
    }

    /// True if the output queue has room for a burst. Otherwise an interrupt follows when it has.
    fn can_transmit(&self) -> bool {
        if self.output.room() >= BURST {
            return true;
        }
        self.seen_busy.store(true, Ordering::SeqCst);
        self.output.room() >= BURST && self.seen_busy.swap(false, Ordering::SeqCst)
    }
}

impl Serial {
    /// The device that is connected to a console. It replaces the device of an earlier machine.
    pub(super) fn new(console: &Console, interrupt: Interrupt) -> Serial {
        let link = console.connect(&interrupt);
        let transmitter = Transmitter(Arc::clone(&link));
        Serial {
            uart: Mutex::new(Uart::new(InterruptTrigger(interrupt), transmitter)),
            link,
        }
    }

    fn read_register(&self, register: u8) -> u8 {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        self.receive(&mut uart);
        let value = uart.read(register);
        let is_full = register == LSR && !self.link.can_transmit();
        drop(uart);
        if is_full {
            return value & !LSR_TRANSMITTER;
        }
        value
    }

    fn write_register(&self, register: u8, value: u8) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only if the interrupt or the output fails, and both do not.
        let _ = uart.write(register, value);
        // The upper half of the divisor has the same address.
        if register == IER && uart.read(LCR) & LCR_DIVISOR == 0 {
            let enabled = value & IER_RECEIVE != 0;
            self.link.wants_input.store(enabled, Ordering::SeqCst);
        }
        self.receive(&mut uart);
        drop(uart);
    }

    /// Moves as much input into the device as it takes, and raises its interrupts.
    fn receive(&self, uart: &mut Uart<InterruptTrigger, NoEvents, Transmitter>) {
        let link = &self.link;
        let divisor_is_shown = uart.read(LCR) & LCR_DIVISOR != 0;
        if !divisor_is_shown && link.now_ready.swap(false, Ordering::SeqCst) {
            // Writing the enabled interrupts again raises the transmitter's.
            let enabled = uart.read(IER);
            let _ = uart.write(IER, enabled);
        }
        if link.input.is_empty() || uart.read(MCR) & MCR_LOOP != 0 {
            return;
        }
        let mut bytes = [0; BURST];
        let room = uart.fifo_capacity().min(bytes.len());
        let count = link.input.peek(&mut bytes[..room]);
        if count > 0 {
            let _ = uart.enqueue_raw_bytes(&bytes[..count]);
            link.input.drop_first(count);
        }
        if link.has_more_input.swap(false, Ordering::SeqCst) {
            link.wake_host();
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (register, byte) in (offset..).zip(data) {
            *byte = register_number(register).map_or(0xff, |register| self.read_register(register));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (register, byte) in (offset..).zip(data) {
            if let Some(register) = register_number(register) {
                self.write_register(register, *byte);
            }
        }
    }
}

fn register_number(offset: u64) -> Option<u8> {
    let number = u8::try_from(offset).ok();
    number.filter(|number| u16::from(*number) < REGISTERS)
}

impl Trigger for InterruptTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

impl io::Write for Transmitter {
    /// Does not block. Bytes that a driver sends although the transmitter is busy are lost, as on a real line.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.output.put(bytes);
        self.0.wake_host();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
