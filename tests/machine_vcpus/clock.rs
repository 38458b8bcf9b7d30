//! The clock that KVM shows to guests does not advance during a pause, as a guest sees it.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::Cap;
use support::real_mode::{Bench, Running, missing};
use support::skip::skip;

use super::pause;

/// Where KVM writes what a guest needs to tell the time by its cycle counter, and the register that says so (Linux,
/// Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_SYSTEM_TIME_NEW`). The host sets it, as some hosts run no `wrmsr` in real mode.
const PAGE: u64 = 0x3000;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const ENABLED: u64 = 1;

/// Reports a byte and the two halves of the cycle counter, for ever.
const READ_CYCLES: [u8; 15] = [
    0xe6, 0x10, // out 0x10, al
    0x0f, 0x31, // rdtsc
    0x66, 0xe7, 0x10, // out 0x10, eax
    0x66, 0x89, 0xd0, // mov eax, edx
    0x66, 0xe7, 0x10, // out 0x10, eax
    0xeb, 0xf1, // jmp the start
];

/// How long the machine stands still, by the host's clock.
const STANDSTILL: Duration = Duration::from_millis(300);

/// A machine whose guest reads its cycle counter, and for which the clock page is enabled.
fn start() -> Option<Running> {
    if let Some(reason) = missing() {
        skip(reason);
        return None;
    }
    let bench = Bench::new(1);
    if !bench.builder.kvm().check_extension(Cap::AdjustClock) {
        skip("KVM has no clock for guests here");
        return None;
    }
    let entry = kvm_msr_entry {
        index: SYSTEM_TIME,
        data: PAGE | ENABLED,
        ..kvm_msr_entry::default()
    };
    let msrs = Msrs::from_entries(&[entry]).unwrap();
    let running = bench.start_with(&READ_CYCLES, false, move |vcpu| {
        assert_eq!(vcpu.set_msrs(&msrs).unwrap(), 1);
    });
    Some(running)
}

/// The cycle counter as the guest reads it next.
fn cycles(running: &Running) -> u64 {
    while running.next().len() != 1 {}
    let half = |bytes: Vec<u8>| u64::from(u32::from_le_bytes(bytes.try_into().unwrap()));
    let low = half(running.next());
    low | half(running.next()) << 32
}

/// The guest's time, by the arithmetic of the document above.
fn time(running: &Running) -> Duration {
    let cycles = cycles(running);
    let mut page = [0; 32];
    assert!(running.machine.ram().memory().read(PAGE, &mut page));
    let long = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    let (stamp, base) = (long(8), long(16));
    let multiplier = u32::from_le_bytes(page[24..28].try_into().unwrap());
    let shift = i32::from(page[28].cast_signed());
    assert!(multiplier > 0, "KVM has not written the clock");
    let passed = i128::from(cycles) - i128::from(stamp);
    let scaled = (passed * i128::from(multiplier)) >> (32 - shift);
    Duration::from_nanos(u64::try_from(i128::from(base) + scaled).unwrap())
}

#[test]
fn no_time_passes_for_a_guest_while_its_machine_stands() {
    let begin = Instant::now();
    let Some(running) = start() else { return };
    let before = time(&running);
    pause(&running);
    running.reports.try_iter().for_each(drop);
    let standing = Instant::now();
    while standing.elapsed() < STANDSTILL {
        std::thread::yield_now();
    }
    let stood = standing.elapsed();
    running.machine.resume();
    let passed = time(&running).checked_sub(before).expect("time goes on");
    // The machine ran for no longer than this; the two clocks differ by much less than a tenth.
    let ran = begin.elapsed() - stood;
    assert!(
        passed < ran + stood / 10,
        "{passed:?} passed for the guest, which ran for {ran:?} and stood for {stood:?}"
    );
}
