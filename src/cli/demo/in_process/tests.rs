//! The drivers with a device that never answers.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, Weak};

use qcontext::virtio::{
    DeviceFault, DeviceLimits, F_VERSION_1, KickFd, QueueSetup, Rested, Stopped, VirtioDevice,
};
use qcontext::{AioContext, Wait};

use super::interrupt::PATIENCE;
use super::*;

/// A disk that reports when a queue starts, and serves none.
struct Silent(Mutex<Sender<()>>);

impl VirtioDevice for Silent {
    fn device_type(&self) -> u32 {
        2
    }

    fn features(&self, _: DeviceLimits) -> u64 {
        F_VERSION_1 | 1 << 9
    }

    fn queue_count(&self) -> u16 {
        1
    }

    fn queue_size_max(&self) -> u16 {
        256
    }

    fn read_config(&self, _: DeviceLimits, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, _: usize, _: &[u8]) {}

    fn watch_config(&self, _: Weak<dyn Signal>) {}

    fn report(&self, _: DeviceFault) {}

    fn start_queue(&self, _: u16, _: QueueSetup) -> Result<()> {
        self.0.lock().unwrap().send(()).unwrap();
        Ok(())
    }

    fn stop_queue(&self, _: u16, done: Stopped) {
        done(0);
    }

    fn is_started(&self, _: u16) -> bool {
        false
    }

    fn hold(&self, rested: Rested) {
        rested();
    }

    fn release(&self) {}

    fn set_call(&self, _: u16, _: Option<Arc<dyn Signal>>) -> Result<()> {
        Ok(())
    }

    fn set_kick(&self, _: u16, _: Option<KickFd>) -> Result<()> {
        Ok(())
    }
}

fn machine(control: &AioContext, started: Sender<()>) -> InProcessMachine {
    let mut machine = InProcessMachine::new().unwrap();
    let wanted = MmioDevice {
        id: "silent".to_owned(),
        device: Arc::new(Silent(Mutex::new(started))),
        queue_size_max: 256,
        control: control.clone(),
        ioeventfd: true,
        irqfd: true,
    };
    machine.add_virtio(wanted).unwrap();
    machine
}

#[test]
fn a_driver_that_waits_in_vain_gives_up_when_it_is_halted() {
    let control = AioContext::new().unwrap();
    let (sender, started) = channel();
    let machine = Arc::new(machine(&control, sender));
    let (tell, outcome) = channel();
    let at_work = Arc::clone(&machine);
    let runner = thread::spawn(move || tell.send(at_work.run(&[Job::default()])).unwrap());
    while started.try_recv().is_err() {
        control.poll(Wait::NoBlock).unwrap();
    }
    assert!(outcome.try_recv().is_err(), "it waits for the disk");
    machine.halt();
    // Well before its own patience ends, which would end the wait too.
    let halted = outcome.recv_timeout(PATIENCE / 2).unwrap().unwrap_err();
    assert_eq!(halted.kind(), ErrorKind::Closed);
    runner.join().unwrap();
}

#[test]
fn drivers_that_were_halted_do_not_begin() {
    let control = AioContext::new().unwrap();
    let (sender, started) = channel();
    let machine = machine(&control, sender);
    machine.halt();
    let halted = machine.run(&[Job::default()]).unwrap_err();
    assert_eq!(halted.kind(), ErrorKind::Closed);
    assert!(started.try_recv().is_err());
}
