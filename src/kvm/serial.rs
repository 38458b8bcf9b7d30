//! The serial console: a 16550 whose other end is standard input and output, or a file.
//!
//! [`Console`] is the host's end and outlives resets; [`Serial`] is the device on the bus of one machine.
//!
//! # Threads
//! The device runs on vcpu threads, the host's end on `qcontext-main`. They share two queues of bytes, a few flags and
//! the interrupt line, and no lock: a vcpu waits neither for a context nor for whoever reads the output. When the output's
//! queue is full the transmitter says that it is busy, and interrupts when it is not.
//!
//! # Invariants
//! 1. `input` is filled and `output` emptied on `qcontext-main` only; `input` is emptied and `output` filled only under
//!    the device's lock, which no context takes.
//! 2. Who changes one side's state looks at the other side's afterwards (sequentially consistent both), so of two who
//!    do so at the same time at least one sees the other: no byte waits for another one to come.
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
pub use console::Console;
use ring::ByteRing;

/// The number of registers.
pub const REGISTERS: u16 = 8;

/// What the queues hold.
const INPUT: usize = 4096;
const OUTPUT: usize = 64 << 10;
/// How much a driver sends without asking in between, when the transmitter was empty.
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

/// What both ends have in common.
#[derive(Debug)]
struct Wire {
    input: ByteRing,
    output: ByteRing,
    /// Tells the host's end of output, and of room for input.
    wake: EventNotifier,
    /// The host's end was told and has not looked yet.
    told: AtomicBool,
    /// The guest wants an interrupt for input.
    receiving: AtomicBool,
    /// The guest was told that the transmitter is busy.
    busy: AtomicBool,
    /// The transmitter is not busy any more, and the guest is to be told by the next interrupt.
    ready: AtomicBool,
    /// The host's end has more input than there is room.
    starved: AtomicBool,
}

/// The device.
pub struct Serial {
    uart: Mutex<Uart<InterruptTrigger, NoEvents, Transmitter>>,
    wire: Arc<Wire>,
}

/// Makes one edge on the device's interrupt line. Never waits.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

struct InterruptTrigger(Interrupt);

struct Transmitter(Arc<Wire>);

impl Wire {
    fn new() -> crate::Result<Wire> {
        Ok(Wire {
            input: ByteRing::new(INPUT),
            output: ByteRing::new(OUTPUT),
            wake: EventNotifier::new()?,
            told: AtomicBool::new(false),
            receiving: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        })
    }

    /// The flags that a reset takes back.
    fn reset(&self) {
        for flag in [&self.receiving, &self.busy, &self.ready] {
            flag.store(false, Ordering::SeqCst);
        }
    }

    /// Makes the host's end look.
    fn tell(&self) {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.wake.signal();
        }
    }

    /// Whether the transmitter takes a burst; if not, there will be an interrupt when it does.
    fn can_transmit(&self) -> bool {
        if self.output.room() >= BURST {
            return true;
        }
        self.busy.store(true, Ordering::SeqCst);
        self.output.room() >= BURST && self.busy.swap(false, Ordering::SeqCst)
    }
}

impl Serial {
    /// The device at the other end of a console, in place of an earlier machine's.
    pub fn new(console: &Console, interrupt: Interrupt) -> Serial {
        let wire = console.connect(&interrupt);
        let transmitter = Transmitter(Arc::clone(&wire));
        Serial {
            uart: Mutex::new(Uart::new(InterruptTrigger(interrupt), transmitter)),
            wire,
        }
    }

    fn read_register(&self, register: u8) -> u8 {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        self.receive(&mut uart);
        let value = uart.read(register);
        let is_full = register == LSR && !self.wire.can_transmit();
        drop(uart);
        if is_full {
            return value & !LSR_TRANSMITTER;
        }
        value
    }

    fn write_register(&self, register: u8, value: u8) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails only if interrupts or output do, and ours do not.
        let _ = uart.write(register, value);
        // The divisor's upper half is at the same place.
        if register == IER && uart.read(LCR) & LCR_DIVISOR == 0 {
            let enabled = value & IER_RECEIVE != 0;
            self.wire.receiving.store(enabled, Ordering::SeqCst);
        }
        self.receive(&mut uart);
        drop(uart);
    }

    /// Moves input into the device, as much as it takes, and raises its interrupts.
    fn receive(&self, uart: &mut Uart<InterruptTrigger, NoEvents, Transmitter>) {
        let wire = &self.wire;
        let divisor_is_shown = uart.read(LCR) & LCR_DIVISOR != 0;
        if !divisor_is_shown && wire.ready.swap(false, Ordering::SeqCst) {
            // Enabling an interrupt whose cause is there raises it.
            let enabled = uart.read(IER);
            let _ = uart.write(IER, enabled);
        }
        if wire.input.is_empty() || uart.read(MCR) & MCR_LOOP != 0 {
            return;
        }
        let mut bytes = [0; BURST];
        let room = uart.fifo_capacity().min(bytes.len());
        let count = wire.input.peek(&mut bytes[..room]);
        if count > 0 {
            let _ = uart.enqueue_raw_bytes(&bytes[..count]);
            wire.input.drop_first(count);
        }
        if wire.starved.swap(false, Ordering::SeqCst) {
            wire.tell();
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
    /// Never waits: what a driver sends although the transmitter is busy is lost, as on a real line.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.output.put(bytes);
        self.0.tell();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}
