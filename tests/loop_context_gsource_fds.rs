//! The fds of GSources that are not ours: when the context iterates itself, and when GLib iterates its GMainContext.
#![allow(unsafe_code)] // dup2(2), and the steps of an iteration
#![allow(clippy::unwrap_used)] // a test fails by panicking

use glib::translate::ToGlibPtr;
use qcontext::{AioContext, Clock, FdHandler, QContext, Wait};
use std::cell::Cell;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::fd_source::watch;

/// Puts `file` under the number of `place`, which is closed.
fn replace(place: RawFd, file: OwnedFd) {
    let number = file.into_raw_fd();
    // SAFETY: both are ours.
    assert_eq!(unsafe { libc::dup2(number, place) }, place);
    // SAFETY: ours, and not used any more.
    unsafe { libc::close(number) };
}

/// One iteration; true when something was dispatched.
type Turn = fn(&QContext, Wait) -> bool;

fn by_itself(context: &QContext, wait: Wait) -> bool {
    context.iterate(wait).unwrap()
}

fn by_glib(context: &QContext, wait: Wait) -> bool {
    context.main_context().iteration(wait == Wait::Block)
}

/// A blocking iteration that ends after some time even if a wake-up was lost; the assertions that follow then fail.
fn patiently(turn: Turn, context: &QContext) {
    let (done, expired) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if expired.recv_timeout(Duration::from_secs(30)).is_err() {
                context.notify();
            }
        });
        turn(context, Wait::Block);
        let _ = done.send(());
    });
}

struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
}

fn new_pipe() -> Pipe {
    let (reader, writer) = pipe().unwrap();
    Pipe { reader, writer }
}

/// In one dispatch a source closes its fd and another one begins to watch a new file with the same number.
fn a_reused_number_is_watched(turn: Turn) {
    let context = QContext::anonymous(false).unwrap();
    let (mut first, mut second) = (new_pipe(), new_pipe());
    let number = first.reader.as_raw_fd();
    let seen = Rc::new(Cell::new(0));
    let next = Cell::new(Some(OwnedFd::from(second.reader)));
    let (gmain, count) = (context.main_context(), Rc::clone(&seen));
    let old = watch(number, move || {
        replace(number, next.take().unwrap());
        let count = Rc::clone(&count);
        let new = watch(number, move || {
            count.set(count.get() + 1);
            false
        });
        new.attach(Some(&gmain));
        false
    });
    context.attach_source(&old, None).unwrap();
    while turn(&context, Wait::NoBlock) {}
    first.writer.write_all(b"1").unwrap();
    while !old.is_destroyed() {
        turn(&context, Wait::Block);
    }
    // All wake-ups of the changes are over; only the file itself can call now.
    for _ in 0..100 {
        turn(&context, Wait::NoBlock);
    }
    assert_eq!(seen.get(), 0);
    second.writer.write_all(b"2").unwrap();
    patiently(turn, &context);
    assert_eq!(seen.get(), 1, "the new file was not watched");
    let mut byte = [0];
    // `first.reader` has the number, and now the new file.
    first.reader.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"2");
}

#[test]
fn a_number_that_another_source_uses_again_is_watched() {
    a_reused_number_is_watched(by_itself);
}

#[test]
fn a_number_that_another_source_uses_again_is_watched_by_glib() {
    a_reused_number_is_watched(by_glib);
}

/// epoll refuses a regular file, which is ready at all times for poll(2). The source may recurse: else its dispatch would wake
/// the context.
fn a_regular_file_is_always_ready(turn: Turn) {
    let context = QContext::anonymous(false).unwrap();
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let seen = Rc::new(Cell::new(0));
    let count = Rc::clone(&seen);
    let source = watch(file.as_raw_fd(), move || {
        count.set(count.get() + 1);
        count.get() < 20
    });
    // SAFETY: the source is alive.
    unsafe { glib_sys::g_source_set_can_recurse(source.to_glib_none().0, glib_sys::GTRUE) };
    context.attach_source(&source, None).unwrap();
    while !source.is_destroyed() {
        let before = seen.get();
        patiently(turn, &context);
        patiently(turn, &context);
        assert!(seen.get() > before, "not called any more");
    }
    assert_eq!(seen.get(), 20);
}

#[test]
fn a_regular_file_is_served_again_and_again() {
    a_regular_file_is_always_ready(by_itself);
}

#[test]
fn a_regular_file_is_served_again_and_again_by_glib() {
    a_regular_file_is_always_ready(by_glib);
}

/// Everything that can end a wait: an fd of ours, one of GLib's, a timer, a bottom half and a notification from elsewhere.
fn each_event_ends_a_wait(turn: Turn) {
    let context = QContext::anonymous(false).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let (mut ours, mut theirs) = (new_pipe(), new_pipe());
    let calls = Arc::new(AtomicU32::new(0));
    let count = |by: u32| {
        let place = Arc::clone(&calls);
        move || {
            place.fetch_add(by, Ordering::Relaxed);
        }
    };
    let read = |mut file: &std::fs::File| assert_eq!(file.read(&mut [0]).unwrap(), 1);
    let own_end: std::fs::File = OwnedFd::from(ours.reader).into();
    let (own_fd, own_call) = (own_end.as_raw_fd(), count(1));
    let handler = FdHandler::new().on_read(move || {
        read(&own_end);
        own_call();
    });
    aio.set_fd_handler(own_fd, handler).unwrap();
    let their_end: std::fs::File = OwnedFd::from(theirs.reader).into();
    let their_call = count(10);
    let source = watch(their_end.as_raw_fd(), move || {
        read(&their_end);
        their_call();
        true
    });
    context.attach_source(&source, None).unwrap();
    let timer = aio.timer(Clock::Realtime, count(100));
    let bh = aio.bh("test", count(1000));
    while turn(&context, Wait::NoBlock) {}
    let mut expected = 0;
    for _ in 0..20 {
        ours.writer.write_all(b"o").unwrap();
        theirs.writer.write_all(b"t").unwrap();
        timer.arm_in_ns(1000);
        std::thread::scope(|scope| {
            scope.spawn(|| bh.schedule());
        });
        expected += 1111;
        for _ in 0..4 {
            if calls.load(Ordering::Relaxed) < expected {
                patiently(turn, &context);
            }
        }
        assert_eq!(calls.load(Ordering::Relaxed), expected);
        context.notify();
        patiently(turn, &context);
    }
}

#[test]
fn each_event_ends_a_wait_of_ours() {
    each_event_ends_a_wait(by_itself);
}

#[test]
fn each_event_ends_a_wait_of_glib() {
    each_event_ends_a_wait(by_glib);
}

/// A source is attached, and GLib queries it in a nested iteration before the context does.
#[test]
fn a_source_that_only_a_nested_iteration_was_told_of_is_served() {
    let context = QContext::anonymous(false).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    while by_itself(&context, Wait::NoBlock) {}
    let fired = Arc::new(AtomicU32::new(0));
    let (gmain, count) = (context.main_context(), Arc::clone(&fired));
    let nested = aio.bh("nested", move || {
        let count = Arc::clone(&count);
        let delay = Duration::from_millis(20);
        let source = glib::timeout_source_new(delay, None, glib::Priority::DEFAULT, move || {
            count.fetch_add(1, Ordering::Relaxed);
            glib::ControlFlow::Break
        });
        source.attach(Some(&gmain));
        gmain.iteration(false);
    });
    nested.schedule();
    for _ in 0..4 {
        if fired.load(Ordering::Relaxed) == 0 {
            patiently(by_itself, &context);
        }
    }
    assert_eq!(fired.load(Ordering::Relaxed), 1);
}

/// Polls for `gmain`, which the calling thread owns; true when something was dispatched.
fn by_hand(gmain: &glib::MainContext) -> bool {
    let (_, priority) = gmain.prepare();
    let raw: *mut glib_sys::GMainContext = gmain.to_glib_none().0;
    let empty = || glib_sys::GPollFD {
        fd: -1,
        events: 0,
        revents: 0,
    };
    let mut fds = [(); 8].map(|()| empty());
    let mut timeout = 0;
    // SAFETY: eight places for as many fds.
    let count = unsafe {
        let place = fds.as_mut_ptr();
        glib_sys::g_main_context_query(raw, priority, &raw mut timeout, place, 8)
    };
    assert!(count <= 8);
    // SAFETY: a GPollFD is a struct pollfd.
    unsafe { libc::poll(fds.as_mut_ptr().cast(), count.unsigned_abs().into(), 0) };
    // SAFETY: these are the fds of the query.
    let ready = unsafe { glib_sys::g_main_context_check(raw, priority, fds.as_mut_ptr(), count) };
    if ready != 0 {
        gmain.dispatch();
    }
    ready != 0
}

/// A program calls prepare, query, poll and check by hand; GLib's loop follows.
#[test]
fn a_context_is_polled_by_hand() {
    let context = QContext::anonymous(false).unwrap();
    let aio = AioContext::new().unwrap();
    context.attach(&aio, None).unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let bh = aio.bh("test", move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let gmain = context.main_context();
    let _owner = gmain.acquire().unwrap();
    for expected in (2..10).step_by(2) {
        bh.schedule();
        while calls.load(Ordering::Relaxed) < expected - 1 {
            by_hand(&gmain);
        }
        bh.schedule();
        while calls.load(Ordering::Relaxed) < expected {
            by_glib(&context, Wait::Block);
        }
    }
}

/// The GMainContext may outlive its context, with a loop that goes on.
#[test]
fn glibs_loop_goes_on_when_the_context_has_been_stopped() {
    for _ in 0..200 {
        let context = QContext::anonymous(false).unwrap();
        let gmain = context.main_context();
        let main_loop = glib::MainLoop::new(Some(&gmain), false);
        let looped = main_loop.clone();
        let (tell, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            looped.run();
            tell.send(()).unwrap();
        });
        context.invoke_sync(|| ()).unwrap();
        context.stop().unwrap();
        drop(context);
        // It still serves others.
        let (served, is_served) = mpsc::channel();
        gmain.invoke(move || served.send(()).unwrap());
        is_served
            .recv_timeout(Duration::from_secs(30))
            .expect("the loop serves nobody any more");
        assert!(ended.try_recv().is_err());
        main_loop.quit();
        ended
            .recv_timeout(Duration::from_secs(30))
            .expect("the loop does not hear of its end");
        thread.join().unwrap();
    }
}

/// How many turns the context takes until it sleeps for good.
fn turns_until_it_sleeps(turn: Turn, context: &QContext) -> usize {
    // SAFETY: no arguments.
    let thread = unsafe { libc::gettid() };
    let (turns, sleeps) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_asleep(thread, &turns);
            sleeps.store(true, Ordering::SeqCst);
            context.notify();
        });
        while !sleeps.load(Ordering::SeqCst) {
            turns.fetch_add(1, Ordering::SeqCst);
            turn(context, Wait::Block);
        }
    });
    turns.into_inner()
}

/// Waits until the thread has been found asleep in the same turn many times, or has taken far too many turns.
fn wait_asleep(thread: libc::pid_t, turns: &AtomicUsize) {
    let path = format!("/proc/self/task/{thread}/stat");
    let (mut turn, mut times) = (0, 0);
    while times < 100 && turn < TOO_MANY {
        let stat = std::fs::read_to_string(&path).unwrap();
        let is_asleep = stat.rsplit(") ").next().unwrap().starts_with('S');
        let now = turns.load(Ordering::SeqCst);
        times = if is_asleep && now == turn {
            times + 1
        } else {
            0
        };
        turn = now;
        std::thread::yield_now();
    }
}

/// More turns than anything needs to come to rest.
const TOO_MANY: usize = 1000;

/// A file that is closed under its number and lives on under another one stays in an epoll set for ever.
fn a_file_closed_too_early_comes_to_rest(turn: Turn) {
    let context = QContext::anonymous(false).unwrap();
    for _ in 0..10 {
        let Pipe { reader, mut writer } = new_pipe();
        let survivor = reader.try_clone().unwrap();
        let source = watch(reader.as_raw_fd(), || true);
        context.attach_source(&source, None).unwrap();
        while turn(&context, Wait::NoBlock) {}
        drop(reader);
        source.destroy();
        writer.write_all(b"1").unwrap();
        let turns = turns_until_it_sleeps(turn, &context);
        assert!(turns < 20, "{turns} turns");
        drop(survivor);
    }
}

#[test]
fn a_file_that_was_closed_too_early_and_lives_on_wakes_nobody_for_long() {
    a_file_closed_too_early_comes_to_rest(by_itself);
}

#[test]
fn a_file_that_was_closed_too_early_and_lives_on_wakes_nobody_for_long_by_glib() {
    a_file_closed_too_early_comes_to_rest(by_glib);
}

/// The same while the source still exists, and while its number belongs to another file, which stays watched.
fn a_ghost_beside_its_number_is_laid(turn: Turn) {
    let context = QContext::anonymous(false).unwrap();
    let (mut first, mut second) = (new_pipe(), new_pipe());
    let number = first.reader.as_raw_fd();
    let survivor = first.reader.try_clone().unwrap();
    let seen = Rc::new(Cell::new(0));
    let count = Rc::clone(&seen);
    let source = watch(number, move || {
        count.set(count.get() + 1);
        false
    });
    context.attach_source(&source, None).unwrap();
    while turn(&context, Wait::NoBlock) {}
    replace(number, OwnedFd::from(second.reader));
    first.writer.write_all(b"1").unwrap();
    let turns = turns_until_it_sleeps(turn, &context);
    assert!(turns < 20, "{turns} turns");
    assert_eq!(seen.get(), 0);
    second.writer.write_all(b"2").unwrap();
    while seen.get() == 0 {
        turn(&context, Wait::Block);
    }
    drop(survivor);
}

#[test]
fn a_ghost_beside_a_watched_file_of_the_same_number_is_laid() {
    a_ghost_beside_its_number_is_laid(by_itself);
}

#[test]
fn a_ghost_beside_a_watched_file_of_the_same_number_is_laid_by_glib() {
    a_ghost_beside_its_number_is_laid(by_glib);
}
