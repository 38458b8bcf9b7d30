//! A context whose loop runs in a thread of its own.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, ThreadId};

use gsource::{AioContext, Drivers, Poller, Reactor, Wait};

use super::driven::{Loop, context};
use crate::deadline::deadline;
use crate::thread::{gettid, wait_asleep};

pub fn run_threaded(kind: Loop, poller: Poller, name: &str, case: impl FnOnce(&Running)) {
    let name = format!("{name} (threaded {kind:?}, {poller})");
    let _deadline = deadline(&name);
    if let Some(aio) = context(poller, &name) {
        let running = Running::start(kind, poller, aio);
        case(&running);
        running.stop();
    }
}

enum Stop {
    Flag(Arc<AtomicBool>),
    Quit(glib::MainLoop),
}

/// A loop that runs in a thread of its own.
pub struct Running {
    pub aio: AioContext,
    pub home: ThreadId,
    tid: libc::pid_t,
    thread: JoinHandle<()>,
    stop: Stop,
}

impl Running {
    fn start(kind: Loop, poller: Poller, aio: AioContext) -> Running {
        let (thread, stop) = match kind {
            Loop::Own => run_own(&aio, poller),
            Loop::Glib => run_glib(&aio),
        };
        let (send, receive) = channel();
        aio.schedule_oneshot("started", move || send.send(gettid()).unwrap());
        let tid = receive.recv().unwrap();
        Running {
            aio,
            home: thread.thread().id(),
            tid,
            thread,
            stop,
        }
    }

    /// Runs `work` on the home thread and waits for its answer.
    pub fn on_home<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = channel();
        self.aio.schedule_oneshot("on home", move || {
            send.send(work()).unwrap();
        });
        receive.recv().unwrap()
    }

    /// Returns when the home thread blocks in the kernel.
    pub fn wait_asleep(&self) {
        wait_asleep(self.tid);
    }

    fn stop(self) {
        match &self.stop {
            Stop::Flag(flag) => {
                flag.store(true, Ordering::SeqCst);
                self.aio.notify();
            }
            Stop::Quit(main_loop) => main_loop.quit(),
        }
        self.thread.join().unwrap();
    }
}

/// A home: a reactor that this thread alone drives.
fn run_own(aio: &AioContext, poller: Poller) -> (JoinHandle<()>, Stop) {
    let reactor = Reactor::with_poller(poller, Drivers::One).unwrap();
    aio.attach_to(&reactor).unwrap();
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let thread = std::thread::spawn(move || {
        while !seen.load(Ordering::SeqCst) {
            reactor.iterate(Wait::Block).unwrap();
        }
    });
    (thread, Stop::Flag(flag))
}

fn run_glib(aio: &AioContext) -> (JoinHandle<()>, Stop) {
    let (context, source) = (glib::MainContext::new(), aio.g_source().unwrap());
    let main_loop = glib::MainLoop::new(Some(&context), false);
    source.attach(Some(&context));
    let running = main_loop.clone();
    let thread = std::thread::spawn(move || {
        running.run();
        source.destroy();
    });
    (thread, Stop::Quit(main_loop))
}
