//! The vcpus of a machine: they run, are paused, go on, and end in every possible way.
//!
//! Needs /dev/kvm and says SKIP without.
#![deny(unsafe_code)] // one test blocks a signal
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

mod clock;

use std::collections::BTreeSet;
use std::sync::mpsc::channel;

use qcontext::kvm::{MachineConfig, MachineEnd};
use qcontext::{ErrorKind, QContext, kvm};
use support::deadline::DEADLINE;
use support::real_mode::{Bench, Running, slots};
use support::skip::skip;

/// Makes tests of functions that need a machine.
macro_rules! with_kvm {
    ($($name:ident),* $(,)?) => {
        mod on_kvm {
            $(#[test] fn $name() {
                match support::real_mode::missing() {
                    Some(reason) => super::skip(reason),
                    None => super::$name(),
                }
            })*
        }
    };
}

with_kvm!(
    a_guest_reports_through_a_port_and_switches_off,
    wide_and_repeated_port_accesses_arrive_item_by_item,
    addresses_without_a_device_read_as_ones,
    a_triple_fault_ends_the_machine,
    an_instruction_that_nobody_can_run_ends_the_machine,
    every_vcpu_has_a_thread_of_its_own,
    a_paused_machine_stands_still_and_goes_on,
    a_machine_may_begin_paused,
    a_stopped_machine_tells_nobody,
    a_halted_machine_stops,
    a_machine_stops_whatever_signals_its_starter_blocks,
    configurations_that_cannot_be_had_are_refused,
);

/// Reports AL and switches off.
const REPORT_AND_OFF: [u8; 6] = [
    0xe6, 0x10, // out 0x10, al
    0xe6, 0x11, // out 0x11, al
    0xeb, 0xfe, // jmp $
];

/// Reports what the counting port answers, for ever.
const COUNT: [u8; 6] = [
    0xe4, 0x10, // in al, 0x10
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfa, // jmp the start
];

fn a_guest_reports_through_a_port_and_switches_off() {
    let mut code = vec![0xb0, 42]; // mov al, 42
    code.extend(REPORT_AND_OFF);
    let running = Bench::new(1).start(&code, false);
    assert_eq!(running.next(), [42]);
    assert!(matches!(running.end(), MachineEnd::PowerOff));
    assert!(!running.machine.is_running());
}

fn wide_and_repeated_port_accesses_arrive_item_by_item() {
    let code = [
        0xb8, 0x34, 0x12, // mov ax, 0x1234
        0xe7, 0x10, // out 0x10, ax
        0xbe, 0x20, 0x00, // mov si, 0x20
        0xb9, 0x03, 0x00, // mov cx, 3
        0xba, 0x10, 0x00, // mov dx, 0x10
        0xf3, 0x6f, // rep outsw
        0xe6, 0x11, // out 0x11, al
        0xeb, 0xfe, // jmp $
    ];
    let bench = Bench::new(1);
    let data = [1, 2, 3, 4, 5, 6];
    assert!(bench.builder.ram().memory().write(0x1020, &data));
    let running = bench.start(&code, false);
    let reports: Vec<_> = (0..4).map(|_| running.next()).collect();
    assert_eq!(reports, [[0x34, 0x12], [1, 2], [3, 4], [5, 6]]);
    assert!(matches!(running.end(), MachineEnd::PowerOff));
}

fn addresses_without_a_device_read_as_ones() {
    let mut code = vec![
        0xb8, 0x00, 0xa0, // mov ax, 0xa000
        0x8e, 0xd8, // mov ds, ax
        0xc6, 0x06, 0x00, 0x00, 0x07, // mov byte [0], 7
        0xa0, 0x00, 0x00, // mov al, [0]
    ];
    code.extend(REPORT_AND_OFF);
    let running = Bench::new(1).start(&code, false);
    assert_eq!(running.next(), [0xff]);
}

fn a_triple_fault_ends_the_machine() {
    let code = [
        0x0f, 0x01, 0x1e, 0x20, 0x00, // lidt [0x20], which is all zeroes
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x0c, 0x01, // or al, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax: protected mode
        0xb8, 0xf8, 0xff, // mov ax, 0xfff8
        0x8e, 0xd8, // mov ds, ax: no such segment, and no way to say so
    ];
    let running = Bench::new(1).start(&code, false);
    let end = running.end();
    assert!(matches!(end, MachineEnd::TripleFault), "{end:?}");
}

fn an_instruction_that_nobody_can_run_ends_the_machine() {
    // An undefined instruction at an address that is neither memory nor a device.
    let code = [0xea, 0x00, 0x00, 0x00, 0xb0]; // jmp 0xb000:0
    let running = Bench::new(1).start(&code, false);
    let end = running.end();
    assert!(
        matches!(end, MachineEnd::Failed(_) | MachineEnd::TripleFault),
        "{end:?}"
    );
}

fn every_vcpu_has_a_thread_of_its_own() {
    let code = [0xe6, 0x10, 0xeb, 0xfe]; // out 0x10, al; jmp $
    let running = Bench::new(2).start(&code, false);
    let cpus = BTreeSet::from([running.next(), running.next()]);
    assert_eq!(cpus, BTreeSet::from([vec![0], vec![1]]));
    let threads = running.machine.thread_ids();
    let names: Vec<String> = threads
        .iter()
        .map(|id| std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap())
        .collect();
    assert_eq!(names, ["vcpu0\n", "vcpu1\n"]);
}

fn pause(running: &Running) {
    let (sender, paused) = channel();
    running.machine.pause(move || sender.send(()).unwrap());
    paused.recv_timeout(DEADLINE).unwrap();
}

fn a_paused_machine_stands_still_and_goes_on() {
    let running = Bench::new(2).start(&COUNT, false);
    running.next();
    for _ in 0..100 {
        pause(&running);
        assert!(!running.machine.is_running());
        let so_far = running.reports.try_iter().count();
        // Both vcpus are parked, so nothing is on its way any more.
        assert!(running.reports.try_recv().is_err(), "after {so_far}");
        running.machine.resume();
        running.next();
    }
}

fn a_machine_may_begin_paused() {
    let running = Bench::new(1).start(&COUNT, true);
    pause(&running);
    assert!(running.reports.try_recv().is_err());
    assert!(running.machine.thread_ids()[0] > 0);
    running.machine.resume();
    assert_eq!(running.next(), [0]);
}

fn a_stopped_machine_tells_nobody() {
    let running = Bench::new(2).start(&COUNT, false);
    running.next();
    running.machine.stop();
    running.machine.controls().end(MachineEnd::PowerOff);
    assert!(running.ended.recv().is_err(), "the callback is gone");
}

fn a_halted_machine_stops() {
    let code = [0xe6, 0x10, 0xf4]; // out 0x10, al; hlt
    let running = Bench::new(1).start(&code, false);
    running.next();
    pause(&running);
    running.machine.resume();
    running.machine.stop();
    assert!(running.ended.recv().is_err());
}

/// Signal masks are inherited: a program that blocks signals may start the vcpu threads.
#[allow(unsafe_code)] // pthread_sigmask(3)
fn a_machine_stops_whatever_signals_its_starter_blocks() {
    // SAFETY: a zeroed set is a valid place for one.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: the set is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut()) };
    a_halted_machine_stops();
}

fn configurations_that_cannot_be_had_are_refused() {
    let config = |cpus, ram| MachineConfig {
        ram: Vec::from([ram]),
        cpus,
        pit: false,
        virtio: slots(),
        context: QContext::main(),
    };
    let refused = |wrong| kvm::MachineBuilder::new(wrong).unwrap_err();
    assert_eq!(
        refused(config(0, 0..0x1000)).kind(),
        ErrorKind::LimitExceeded
    );
    assert_eq!(
        refused(config(1 << 20, 0..0x1000)).kind(),
        ErrorKind::LimitExceeded
    );
    assert_eq!(refused(config(1, 0..1)).kind(), ErrorKind::InvalidArgument);
}
