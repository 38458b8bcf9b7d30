//! The console from both sides: a driver that accesses registers, and pipes for keyboard and screen.
#![forbid(unsafe_code)]
#![allow(clippy::shadow_unrelated)] // a test names its steps alike

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

mod slow;

use super::*;
use crate::{QContext, Wait};

const DATA: u64 = 0;
const IIR: u64 = 2;
/// The interrupt cause in IIR, without the FIFO bits.
const CAUSE: u8 = 0xf;
const NOTHING: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 2;
const RECEIVED: u8 = 4;
const IER_TRANSMIT: u8 = 2;

/// A device with its console on an unthreaded context, which the test iterates.
struct Setup {
    serial: Serial,
    console: Console,
    context: QContext,
    interrupts: Arc<AtomicUsize>,
    keyboard: PipeWriter,
    screen: PipeReader,
}

impl Setup {
    fn new() -> Setup {
        let (screen, output) = pipe().unwrap();
        Setup {
            screen,
            ..Setup::with_output(output)
        }
    }

    /// With another output than a pipe.
    fn with_output(output: impl Into<OwnedFd>) -> Setup {
        let context = QContext::anonymous(false).unwrap();
        let (input, keyboard) = pipe().unwrap();
        let backend = Backend::fds(input.into(), output.into());
        let console = Console::new(backend, &context).unwrap();
        let interrupts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&interrupts);
        let interrupt: Interrupt = Arc::new(move || {
            counted.fetch_add(1, SeqCst);
        });
        Setup {
            serial: Serial::new(&console, interrupt),
            console,
            context,
            interrupts,
            keyboard,
            screen: pipe().unwrap().0,
        }
    }

    fn get(&self, register: u64) -> u8 {
        let mut data = [0];
        self.serial.read(register, &mut data);
        data[0]
    }

    fn set(&self, register: u64, value: u8) {
        self.serial.write(register, &[value]);
    }

    fn interrupts(&self) -> usize {
        self.interrupts.swap(0, SeqCst)
    }

    /// Iterates the host's side until it has nothing to do.
    fn settle(&self) {
        while self.context.iterate(Wait::NoBlock).unwrap() {}
    }

    fn can_transmit(&self) -> bool {
        self.get(LSR.into()) & LSR_TRANSMITTER == LSR_TRANSMITTER
    }
}

#[test]
fn what_the_guest_sends_comes_out() {
    let mut setup = Setup::new();
    assert_eq!(setup.console.unsent(), 0);
    for byte in b"hello\n" {
        assert!(setup.can_transmit());
        setup.set(DATA, *byte);
    }
    assert!(setup.console.unsent() > 0);
    setup.settle();
    assert_eq!(setup.console.unsent(), 0);
    let mut seen = [0; 6];
    setup.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello\n");
}

#[test]
fn what_is_typed_interrupts_the_guest_and_is_read_in_order() {
    let mut setup = Setup::new();
    setup.set(IER.into(), IER_RECEIVE);
    setup.interrupts();
    setup.keyboard.write_all(b"ls\n").unwrap();
    setup.settle();
    assert!(setup.interrupts() > 0);
    assert_eq!(setup.get(IIR) & CAUSE, RECEIVED);
    let typed = [DATA; 3].map(|register| {
        assert_eq!(setup.get(LSR.into()) & 1, 1);
        setup.get(register)
    });
    assert_eq!(&typed, b"ls\n");
    assert_eq!(setup.get(LSR.into()) & 1, 0);
    assert_eq!(setup.get(IIR) & CAUSE, NOTHING);
}

#[test]
fn what_is_typed_early_interrupts_when_the_guest_wants_it() {
    let mut setup = Setup::new();
    setup.keyboard.write_all(b"x").unwrap();
    setup.settle();
    assert_eq!(setup.interrupts(), 0);
    setup.set(IER.into(), IER_RECEIVE);
    assert!(setup.interrupts() > 0);
    assert_eq!(setup.get(IIR) & CAUSE, RECEIVED);
    assert_eq!(setup.get(DATA), b'x');
}

#[test]
fn more_than_fits_is_typed_and_nothing_is_lost() {
    const COUNT: usize = 3 * INPUT;
    let mut setup = Setup::new();
    let typed: Vec<u8> = (0..COUNT)
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect();
    setup.keyboard.write_all(&typed).unwrap();
    let mut read = Vec::new();
    while read.len() < COUNT {
        setup.settle();
        assert_eq!(
            setup.get(LSR.into()) & 1,
            1,
            "nothing after {} bytes",
            read.len()
        );
        read.push(setup.get(DATA));
    }
    assert!(read == typed);
}

#[test]
fn a_transmitter_that_is_busy_says_so_and_interrupts_when_it_is_not() {
    let mut setup = Setup::new();
    setup.set(IER.into(), IER_TRANSMIT);
    let mut sent = 0;
    while setup.can_transmit() {
        setup.set(DATA, b'x');
        sent += 1;
        // As a driver acknowledges.
        setup.get(IIR);
    }
    assert_eq!(sent, OUTPUT - BURST + 1);
    setup.interrupts();
    let mut seen = vec![0; sent];
    while setup.interrupts() == 0 {
        setup.settle();
        let count = setup.screen.read(&mut seen).unwrap();
        assert!(count > 0);
        sent -= count;
    }
    assert_eq!(setup.get(IIR) & CAUSE, TRANSMITTER_EMPTY);
    assert!(setup.can_transmit());
    while sent > 0 {
        setup.settle();
        sent -= setup.screen.read(&mut seen).unwrap();
    }
    assert_eq!(setup.console.unsent(), 0);
}

#[test]
fn the_guest_continues_without_a_reader_of_its_output() {
    let setup = Setup::new();
    let Setup { screen, .. } = setup;
    drop(screen);
    let setup = Setup {
        screen: pipe().unwrap().0,
        ..setup
    };
    for _ in 0..2 * OUTPUT {
        if !setup.can_transmit() {
            setup.settle();
        }
        assert!(setup.can_transmit());
        setup.set(DATA, b'x');
    }
    setup.settle();
    assert_eq!(setup.console.unsent(), 0);
}

#[test]
fn the_end_of_input_is_no_busy_loop() {
    let Setup {
        keyboard,
        context,
        console,
        serial,
        ..
    } = Setup::new();
    drop(keyboard);
    while context.iterate(Wait::NoBlock).unwrap() {}
    assert!(!context.iterate(Wait::NoBlock).unwrap());
    let mut data = [0];
    serial.read(LSR.into(), &mut data);
    assert_eq!(data[0] & 1, 0);
    drop(console);
}

#[test]
fn a_second_machine_takes_the_console_over() {
    let mut setup = Setup::new();
    setup.set(IER.into(), IER_RECEIVE);
    setup.set(DATA, b'1');
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&interrupts);
    let interrupt: Interrupt = Arc::new(move || {
        counted.fetch_add(1, SeqCst);
    });
    let second = Serial::new(&setup.console, interrupt);
    setup.interrupts();
    second.write(DATA, b"2");
    setup.keyboard.write_all(b"x").unwrap();
    setup.settle();
    assert_eq!(setup.interrupts(), 0);
    second.write(IER.into(), &[IER_RECEIVE]);
    assert!(interrupts.load(SeqCst) > 0);
    let mut seen = [0; 2];
    setup.screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"12");
}

#[test]
fn accesses_that_are_too_wide_or_beyond_the_end_do_no_harm() {
    let setup = Setup::new();
    let mut data = [0; 8];
    setup.serial.read(0, &mut data);
    assert_eq!(data[5] & LSR_TRANSMITTER, LSR_TRANSMITTER);
    setup.serial.read(6, &mut data);
    assert_eq!(data[2..], [0xff; 6]);
    setup.serial.write(7, &[0x55; 8]);
    assert_eq!(setup.get(7), 0x55);
}
