//! What is particular to a poller: the system calls it needs, what stands in its way, and the threads that drive it.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(unsafe_code)] // sigaction(2), pthread_kill(3)

use gsource::{AioContext, Clock, Drivers, Poller, Reactor, Wait};
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use support::deadline::deadline;
use support::loops::{Count, context, watched_notifier};
use support::seccomp::{Penalty, forbid};
use support::skip::skip_case;
use support::thread::{gettid, wait_asleep};

/// All system calls that wait.
const WAITS: [libc::c_long; 6] = [
    libc::SYS_io_uring_enter,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_poll,
    libc::SYS_ppoll,
];

/// A home with `poller`, on the calling thread; or why the test cannot run here.
fn home(poller: Poller, name: &str) -> Option<(Arc<Reactor>, AioContext)> {
    let reactor = Reactor::with_poller(poller, Drivers::One)
        .inspect_err(|error| skip_case(name, error))
        .ok()?;
    let aio = AioContext::new().unwrap();
    aio.attach_to(&reactor).unwrap();
    Some((reactor, aio))
}

#[test]
fn an_empty_iteration_of_the_ring_makes_no_system_call() {
    const NAME: &str = "an_empty_iteration_of_the_ring_makes_no_system_call";
    let iterate = || {
        let (reactor, aio) = home(Poller::IoUring, NAME)?;
        let (notifier, count) = watched_notifier(&aio);
        notifier.signal();
        assert!(reactor.iterate(Wait::NoBlock).unwrap());
        assert!(!reactor.iterate(Wait::NoBlock).unwrap());
        if let Err(error) = forbid(&WAITS, Penalty::Death) {
            skip_case(NAME, error);
            return None;
        }
        for _ in 0..1000 {
            assert!(!reactor.iterate(Wait::NoBlock).unwrap());
        }
        // The event is in the completion queue without a system call; fetching it would need one.
        assert_eq!(count.get(), 1);
        // This thread cannot leave the ring in order any more.
        Some((reactor, aio))
    };
    let left = std::thread::scope(|scope| scope.spawn(iterate).join().unwrap());
    drop(left);
}

/// A bottom half that schedules itself keeps the loop awake; all it needs is the ring's memory.
#[test]
fn a_busy_loop_on_the_ring_makes_no_system_call() {
    const NAME: &str = "a_busy_loop_on_the_ring_makes_no_system_call";
    let iterate = || {
        let (reactor, aio) = home(Poller::IoUring, NAME)?;
        let count = Count::new();
        let hit = count.clone();
        let bh = aio.bh("test", move || {
            hit.hit();
        });
        assert!(!reactor.iterate(Wait::NoBlock).unwrap());
        if let Err(error) = forbid(&WAITS, Penalty::Death) {
            skip_case(NAME, error);
            return None;
        }
        for _ in 0..1000 {
            bh.schedule();
            assert!(reactor.iterate(Wait::Block).unwrap());
        }
        assert_eq!(count.get(), 1000);
        Some((reactor, aio, bh))
    };
    let left = std::thread::scope(|scope| scope.spawn(iterate).join().unwrap());
    drop(left);
}

#[test]
fn a_kernel_that_forbids_io_uring_is_an_error_that_says_so() {
    let refused = std::thread::spawn(|| {
        forbid(&[libc::SYS_io_uring_setup], Penalty::Errno(libc::EPERM))?;
        Ok(AioContext::with_poller(Poller::IoUring).unwrap_err())
    });
    match refused.join().unwrap() {
        Err::<_, std::io::Error>(error) => skip_case("a kernel that forbids io_uring", error),
        Ok(error) => {
            let text = error.to_string();
            let refusal = "cannot create an io_uring: Operation not permitted (os error 1); ";
            assert!(text.starts_with(refusal), "{text}");
            assert!(text.contains("kernel.io_uring_disabled"), "{text}");
        }
    }
}

#[test]
fn a_kernel_without_epoll_pwait2_sleeps_in_ppoll() {
    let _deadline = deadline("a_kernel_without_epoll_pwait2_sleeps_in_ppoll");
    let sleeping = std::thread::spawn(|| {
        forbid(&[libc::SYS_epoll_pwait2], Penalty::Errno(libc::ENOSYS))?;
        let (aio, count) = (AioContext::new().unwrap(), Count::new());
        let timer = aio.timer(Clock::Realtime, count.hitter());
        for ticks in 1..=3 {
            let start = Clock::Realtime.now_ns();
            timer.arm_in_ns(2_000_000);
            let mut polls = 0;
            while count.get() < ticks {
                aio.poll(Wait::Block).unwrap();
                polls += 1;
            }
            assert!(Clock::Realtime.now_ns() - start >= 2_000_000);
            assert!(polls < 10, "it sleeps, {polls} polls");
        }
        Ok(())
    });
    if let Err::<_, std::io::Error>(error) = sleeping.join().unwrap() {
        skip_case("a kernel without epoll_pwait2", error);
    }
}

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// A handler that does not restart what it interrupts.
fn catch(signal: libc::c_int) {
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    // SAFETY: a zeroed sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the action is valid for the call, and the handler is signal-safe.
    let answer = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(answer, 0);
}

#[test]
fn a_wait_that_a_signal_interrupts_loses_nothing() {
    catch(libc::SIGUSR1);
    for poller in Poller::ALL {
        let name = format!("a wait that a signal interrupts ({poller})");
        let _deadline = deadline(&name);
        let Some(aio) = context(poller, &name) else {
            continue;
        };
        let (notifier, count) = watched_notifier(&aio);
        // A look first lets the ring wait, then not, as its request stands or does not.
        for looks_first in [true, false, true] {
            let before = count.get();
            if looks_first {
                aio.poll(Wait::NoBlock).unwrap();
            }
            // SAFETY: takes no arguments.
            let (tid, thread) = (gettid(), unsafe { libc::pthread_self() });
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    wait_asleep(tid);
                    // SAFETY: the thread lives: it waits for this scope.
                    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
                    notifier.signal();
                });
                while count.get() == before {
                    aio.poll(Wait::Block).unwrap();
                }
            });
        }
    }
}

#[test]
fn one_context_is_polled_by_one_thread_after_the_other() {
    for poller in Poller::ALL {
        let name = format!("one thread after the other ({poller})");
        let _deadline = deadline(&name);
        let Some(aio) = context(poller, &name) else {
            continue;
        };
        let (notifier, count) = watched_notifier(&aio);
        for round in 1..=20 {
            std::thread::scope(|scope| {
                scope.spawn(|| while aio.poll(Wait::NoBlock).unwrap() {});
            });
            notifier.signal();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while count.get() < round {
                        aio.poll(Wait::Block).unwrap();
                    }
                });
            });
        }
        assert_eq!(count.get(), 20);
    }
}

/// The other threads look at the context again and again while they live; who waits must not depend on them.
#[test]
fn a_thread_that_polled_once_and_lives_on_keeps_no_event() {
    for poller in Poller::ALL {
        let name = format!("a thread that polled once ({poller})");
        let _deadline = deadline(&name);
        let Some(aio) = context(poller, &name) else {
            continue;
        };
        let (notifier, count) = watched_notifier(&aio);
        let ((polled, has_polled), (over, is_over)) = (channel(), channel::<()>());
        std::thread::scope(|scope| {
            let first = aio.clone();
            scope.spawn(move || {
                first.poll(Wait::NoBlock).unwrap();
                drop(first);
                polled.send(()).unwrap();
                let _ = is_over.recv();
            });
            has_polled.recv().unwrap();
            for round in 1..=20 {
                notifier.signal();
                while count.get() < round {
                    aio.poll(Wait::Block).unwrap();
                }
            }
            drop(over);
        });
    }
}

/// Files, timers, bottom halves and fds of one home, with each poller.
#[test]
fn files_are_read_while_fds_and_timers_go_on() {
    for poller in Poller::ALL {
        let name = format!("files and fds ({poller})");
        let _deadline = deadline(&name);
        let Some((reactor, aio)) = home(poller, &name) else {
            continue;
        };
        let mut content = File::from(memory_file());
        content.write_all(&[7; 4096]).unwrap();
        content.rewind().unwrap();
        let file = aio.file(content);
        let (notifier, count) = watched_notifier(&aio);
        let (sum, sleeper) = (Arc::new(Mutex::new(0)), aio.clone());
        let total = Arc::clone(&sum);
        let driving = reactor.drive().unwrap();
        let task = aio
            .spawn_local(async move {
                for offset in 0..100 {
                    let (read, bytes) = file.read_at(vec![0; 16], offset).await;
                    *total.lock().unwrap() += usize::from(bytes[0]) * read.unwrap();
                    sleeper.sleep_ns(Clock::Realtime, 10_000).await;
                    notifier.signal();
                }
            })
            .unwrap();
        while *sum.lock().unwrap() < 100 * 16 * 7 || count.get() == 0 {
            reactor.iterate(Wait::Block).unwrap();
        }
        while reactor.iterate(Wait::NoBlock).unwrap() {}
        drop((task, driving));
        assert_eq!(*sum.lock().unwrap(), 100 * 16 * 7);
    }
}

fn memory_file() -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"qcontext-test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: the kernel just gave us this fd.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

#[test]
fn a_change_by_another_thread_reaches_a_home_that_sleeps() {
    for poller in Poller::ALL {
        let name = format!("a change by another thread ({poller})");
        let _deadline = deadline(&name);
        let Some(aio) = context(poller, &name) else {
            continue;
        };
        while aio.poll(Wait::NoBlock).unwrap() {}
        let (tid, called) = (gettid(), Mutex::new(None));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_asleep(tid);
                let (notifier, count) = watched_notifier(&aio);
                notifier.signal();
                *called.lock().unwrap() = Some((notifier, count));
                // The home may have been called before it could see this.
                aio.notify();
            });
            while !matches!(&*called.lock().unwrap(), Some((_, count)) if count.get() == 1) {
                aio.poll(Wait::Block).unwrap();
            }
        });
    }
}
