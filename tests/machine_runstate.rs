//! Stop, resume, reset and power button of a machine, in this process: events, their order, and the virtual clock.
//!
//! Needs /dev/kvm and says SKIP without.
#![forbid(unsafe_code)]
#![cfg(feature = "kvm")]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use qcontext::kvm::KernelImage;
use qcontext::kvm::MachineBuilder;
use qcontext::kvm::microvm::{
    MachineDevice, MachineEvent, MicroVm, MicroVmOptions, RunState, ShutdownCause,
};
use qcontext::kvm::serial::{Backend, Console};
use qcontext::object::{Value, tree};
use qcontext::{Clock, Error, ErrorKind, QContext, Result, Wait, kvm};
use support::deadline::DEADLINE;
use support::directory::TestDir;
use support::skip::skip;
use support::tiny_kernel;

/// The main context, the virtual clock and `/machine/cpu` are the process's, so machines run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

struct Rig {
    machine: MicroVm,
    events: Receiver<MachineEvent>,
    tell: Sender<MachineEvent>,
    ended: Option<Receiver<Result<ShutdownCause>>>,
    directory: TestDir,
    alone: Option<MutexGuard<'static, ()>>,
}

impl Rig {
    /// A machine with the busy kernel and two processors, of which the guest starts one; none without KVM.
    fn new(reboot: bool) -> Option<Rig> {
        if let Err(error) = kvm::open() {
            skip(error);
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        QContext::main();
        let directory = TestDir::new();
        std::fs::write(directory.file("kernel"), tiny_kernel::busy()).unwrap();
        let backend = Backend::file(&directory.file("console")).unwrap();
        let console = Console::new(backend, &QContext::main()).unwrap();
        let options = MicroVmOptions {
            cpus: 2,
            memory: 64 << 20,
            reboot,
        };
        let image = KernelImage::open(&directory.file("kernel")).unwrap();
        let (tell, events) = channel();
        Some(Rig {
            machine: MicroVm::new(options, image, Some(console)).unwrap(),
            events,
            tell,
            ended: None,
            directory,
            alone: Some(alone),
        })
    }

    fn start(&mut self, paused: bool) {
        let (sender, ended) = channel();
        let tell = self.tell.clone();
        let told = move |event| tell.send(event).unwrap();
        let at_end = move |outcome| sender.send(outcome).unwrap();
        self.machine.start(paused, told, at_end).unwrap();
        self.ended = Some(ended);
    }

    /// Gives an order, and waits for its answer.
    fn order(&self, give: impl FnOnce(&MicroVm, Answer)) -> Result<()> {
        let (sender, answer) = channel();
        give(
            &self.machine,
            Box::new(move |outcome| sender.send(outcome).unwrap()),
        );
        iterate_until("an answer", || answer.try_recv().ok())
    }

    fn pause(&self) {
        self.order(|machine, done| machine.pause(done)).unwrap();
    }

    fn resume(&self) {
        self.order(|machine, done| machine.resume(done)).unwrap();
    }

    fn event(&self) -> MachineEvent {
        iterate_until("an event", || self.events.try_recv().ok())
    }

    fn end(&self) -> Result<ShutdownCause> {
        let ended = self.ended.as_ref().unwrap();
        iterate_until("the end", || ended.try_recv().ok())
    }

    /// Waits until the guest says something else than before.
    fn is_alive(&self) {
        let size = self.said();
        iterate_until("the guest", || (self.said() > size).then_some(()));
    }

    fn said(&self) -> usize {
        std::fs::read(self.directory.file("console")).unwrap().len()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.machine.stop();
    }
}

type Answer = Box<dyn FnOnce(Result<()>) + Send>;

fn iterate_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        QContext::main().iterate(Wait::NoBlock).unwrap();
    }
}

/// The virtual time, if it does not change while the main context has a lot of turns.
fn standing_time() -> Option<i64> {
    let before = Clock::Virtual.now_ns();
    for _ in 0..1000 {
        QContext::main().iterate(Wait::NoBlock).unwrap();
    }
    (Clock::Virtual.now_ns() == before).then_some(before)
}

fn affinity(cpu: u8) -> Value {
    tree::get(&format!("/machine/cpu/{cpu}"), "cpu-affinity").unwrap()
}

fn thread(cpu: u8) -> Value {
    tree::get(&format!("/machine/cpu/{cpu}"), "thread-id").unwrap()
}

fn state(cpu: u8) -> Value {
    tree::get(&format!("/machine/cpu/{cpu}"), "state").unwrap()
}

#[test]
fn a_machine_that_begins_stopped_has_not_run_and_its_clock_stands() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(true);
    assert_eq!(rig.machine.status(), RunState::Prelaunch);
    let stood = standing_time().expect("the virtual clock stands");
    assert_eq!((rig.said(), state(0)), (0, "paused".into()));
    rig.resume();
    assert_eq!(
        (rig.event(), rig.machine.status()),
        (MachineEvent::Resumed, RunState::Running)
    );
    assert!(Clock::Virtual.is_running() && Clock::Virtual.now_ns() >= stood);
    rig.is_alive();
}

#[test]
fn the_virtual_clock_stands_while_the_machine_is_stopped() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(false);
    rig.is_alive();
    assert_eq!(state(0), "running".into());
    for _ in 0..20 {
        assert!(Clock::Virtual.is_running());
        rig.pause();
        assert_eq!(
            (rig.event(), rig.machine.status()),
            (MachineEvent::Stopped, RunState::Paused)
        );
        assert_eq!([state(0), state(1)], ["paused".into(), "paused".into()]);
        let stood = standing_time().expect("the virtual clock stands");
        iterate_until("the console", || (rig.machine.unsent() == 0).then_some(()));
        let said = rig.said();
        assert_eq!(standing_time(), Some(stood));
        assert_eq!(rig.said(), said, "the guest went on");
        rig.resume();
        assert_eq!(
            (rig.event(), rig.machine.status()),
            (MachineEvent::Resumed, RunState::Running)
        );
        rig.is_alive();
    }
}

#[test]
fn orders_are_carried_out_one_after_the_other() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(false);
    let (sender, answers) = channel();
    let answer = |name: &'static str| {
        let sender = sender.clone();
        move |outcome: Result<()>| sender.send((name, outcome.is_ok())).unwrap()
    };
    rig.machine.pause(answer("stop"));
    rig.machine.pause(answer("stop again"));
    rig.machine.resume(answer("go on"));
    rig.machine.reset(answer("reset"));
    rig.machine.pause(answer("stop"));
    rig.machine.reset(answer("reset"));
    let events: Vec<_> = (0..5).map(|_| rig.event()).collect();
    let reset = MachineEvent::Reset(ShutdownCause::HostReset);
    let expected = [
        MachineEvent::Stopped,
        MachineEvent::Resumed,
        reset,
        MachineEvent::Stopped,
        reset,
    ];
    assert_eq!(events, expected);
    let answers: Vec<_> = answers.try_iter().collect();
    let names = ["stop", "stop again", "go on", "reset", "stop", "reset"];
    assert_eq!(answers, names.map(|name| (name, true)));
    assert_eq!(rig.machine.status(), RunState::Prelaunch);
    standing_time().expect("the virtual clock stands");
    rig.resume();
    rig.is_alive();
}

#[test]
fn a_reset_gives_a_processor_another_thread_with_the_same_affinity() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(false);
    let Value::List(mut all) = affinity(1) else {
        panic!("{:?}", affinity(1))
    };
    let last = Value::List(vec![all.pop().unwrap()]);
    let path = "/machine/cpu/1";
    tree::set(path, "cpu-affinity", last.clone()).unwrap();
    let (before, elsewhere) = (thread(1), affinity(0));
    rig.order(|machine, done| machine.reset(done)).unwrap();
    assert_eq!(rig.event(), MachineEvent::Reset(ShutdownCause::HostReset));
    assert_ne!(thread(1), before);
    assert_eq!((affinity(1), affinity(0)), (last.clone(), elsewhere));
    let none = tree::set(path, "cpu-affinity", Value::List(Vec::new())).unwrap_err();
    let message = "Property 'cpu-affinity' of '/machine/cpu/1': a list of CPUs must not be empty";
    assert_eq!(none.to_string(), message);
    assert_eq!(affinity(1), last);
    rig.machine.stop();
    assert!(tree::get(path, "index").is_err());
}

#[test]
fn the_power_button_reaches_the_guest_and_nothing_can_be_asked_afterwards() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(false);
    rig.is_alive();
    rig.order(|machine, done| machine.press_power_button(done))
        .unwrap();
    assert_eq!(rig.event(), MachineEvent::ButtonPressed);
    assert_eq!(rig.end().unwrap(), ShutdownCause::GuestShutdown);
    assert_eq!(rig.machine.status(), RunState::Shutdown);
    let refused: Error = rig.order(|machine, done| machine.resume(done)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed);
    assert_eq!((state(0), thread(0)), ("gone".into(), Value::Int(-1)));
}

#[test]
fn a_button_pressed_while_the_machine_stands_is_found_later() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(false);
    rig.is_alive();
    rig.pause();
    rig.order(|machine, done| machine.press_power_button(done))
        .unwrap();
    assert_eq!(rig.machine.status(), RunState::Paused);
    rig.resume();
    assert_eq!(rig.end().unwrap(), ShutdownCause::GuestShutdown);
}

#[test]
fn a_reset_is_the_end_of_a_machine_that_does_not_reboot() {
    let Some(mut rig) = Rig::new(false) else {
        return;
    };
    rig.start(true);
    standing_time().expect("the virtual clock stands");
    rig.order(|machine, done| machine.reset(done)).unwrap();
    assert_eq!(rig.end().unwrap(), ShutdownCause::HostReset);
    assert_eq!(rig.machine.status(), RunState::Shutdown);
    assert!(
        Clock::Virtual.is_running(),
        "stopped for the pause, and no one else would start it"
    );
}

#[test]
fn who_waits_for_a_machine_that_is_told_to_stop_is_answered_and_the_clock_runs() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    rig.start(false);
    rig.is_alive();
    let (sender, answers) = channel();
    let answer = |name: &'static str| {
        let sender = sender.clone();
        move |outcome: Result<()>| sender.send((name, outcome.unwrap_err().kind())).unwrap()
    };
    // The answers wait for the main context, which does not run here.
    rig.machine.pause(answer("stop"));
    rig.machine.resume(answer("go on"));
    rig.machine.reset(answer("reset"));
    assert!(!Clock::Virtual.is_running());
    rig.machine.stop();
    let answers: Vec<_> = answers.try_iter().collect();
    let names = ["stop", "go on", "reset"];
    assert_eq!(answers, names.map(|name| (name, ErrorKind::Closed)));
    assert!(
        Clock::Virtual.is_running(),
        "stopped for the pause, and no one else would start it"
    );
    // The stop, the resume and the reset are cancelled.
    standing_time();
    assert_eq!(rig.machine.status(), RunState::Shutdown);
    assert!(rig.events.try_recv().is_err());
    let refused = rig.order(|machine, done| machine.pause(done)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed);
}

#[test]
fn an_end_that_comes_before_a_stop_is_carried_out_starts_the_clock_again() {
    let Some(mut rig) = Rig::new(false) else {
        return;
    };
    rig.start(false);
    rig.is_alive();
    rig.order(|machine, done| machine.press_power_button(done))
        .unwrap();
    // Stops and resumes until the guest has powered off, during a stop or between two.
    while rig.order(|machine, done| machine.pause(done)).is_ok() {
        rig.machine.resume(drop);
    }
    assert_eq!(rig.end().unwrap(), ShutdownCause::GuestShutdown);
    assert!(
        Clock::Virtual.is_running(),
        "stopped for the pause, and no one else would start it"
    );
}

/// A device that does not finish holding: it keeps the callback.
#[derive(Default)]
struct Tardy(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

impl MachineDevice for Tardy {
    fn unplug(&self, done: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(done);
    }

    fn hold(&self, done: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(done);
    }

    fn release(&self) {}

    fn plug(&self, _: &mut MachineBuilder) -> Result<()> {
        Ok(())
    }
}

/// Drops the machine; its console is gone before the main context runs again, even if a stop or a reset was pending.
fn goes_with_its_console(mut rig: Rig) {
    let alone = rig.alone.take();
    drop(rig);
    assert!(QContext::main().find_aio("serial").is_none());
    drop(alone);
}

#[test]
fn a_machine_that_goes_amid_a_stop_or_a_reset_takes_its_console_with_it() {
    for order in [MicroVm::pause, MicroVm::reset] {
        let Some(mut rig) = Rig::new(true) else {
            return;
        };
        rig.start(false);
        rig.is_alive();
        order(&rig.machine, Box::new(drop::<Result<()>>) as Answer);
        goes_with_its_console(rig);
    }
}

#[test]
fn a_device_that_is_not_ready_keeps_no_machine() {
    for order in [MicroVm::pause, MicroVm::reset] {
        let Some(mut rig) = Rig::new(true) else {
            return;
        };
        let device = Arc::new(Tardy::default());
        rig.machine.add(|_| Ok(Arc::clone(&device))).unwrap();
        rig.start(false);
        rig.is_alive();
        order(&rig.machine, Box::new(drop::<Result<()>>) as Answer);
        let asked = || (!device.0.lock().unwrap().is_empty()).then_some(());
        iterate_until("the device to be asked", asked);
        goes_with_its_console(rig);
        let late: Vec<_> = device.0.lock().unwrap().drain(..).collect();
        late.into_iter().for_each(|done| done());
    }
}

/// A device that looks at its machine once, on another thread, when it goes on.
struct Curious(Mutex<Option<MicroVm>>, Mutex<Vec<RunState>>);

impl MachineDevice for Curious {
    fn unplug(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    fn hold(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    fn release(&self) {
        let machine = self.0.lock().unwrap().take().unwrap();
        let (sender, status) = channel();
        let looks = std::thread::spawn(move || {
            sender.send(machine.status()).unwrap();
        });
        if let Ok(seen) = status.recv_timeout(DEADLINE / 4) {
            // That thread holds the machine no more.
            looks.join().unwrap();
            self.1.lock().unwrap().push(seen);
        }
    }

    fn plug(&self, _: &mut MachineBuilder) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_device_that_goes_on_may_look_at_its_machine() {
    let Some(mut rig) = Rig::new(true) else {
        return;
    };
    let device = Arc::new(Curious(
        Mutex::new(Some(rig.machine.clone())),
        Mutex::default(),
    ));
    rig.machine.add(|_| Ok(Arc::clone(&device))).unwrap();
    rig.start(false);
    rig.pause();
    rig.resume();
    assert_eq!(*device.1.lock().unwrap(), [RunState::Running]);
}
