//! The fds of foreign GSources: numbers that are closed and used again.
#![allow(unsafe_code)] // GIOChannel watches have no safe binding
#![allow(clippy::unwrap_used)] // a test fails by panicking

use glib::translate::from_glib_full;
use qcontext::{QContext, Wait};
use std::cell::Cell;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

type Callback = Box<dyn Fn() -> bool>;

unsafe extern "C" fn call(
    _channel: *mut glib_sys::GIOChannel,
    _condition: glib_sys::GIOCondition,
    data: glib_sys::gpointer,
) -> glib_sys::gboolean {
    // SAFETY: `watch` gave a callback, which the source owns.
    let callback = unsafe { &*data.cast::<Callback>() };
    glib_sys::gboolean::from(callback())
}

unsafe extern "C" fn drop_callback(data: glib_sys::gpointer) {
    // SAFETY: as above; GLib calls this once.
    drop(unsafe { Box::from_raw(data.cast::<Callback>()) });
}

/// A GSource that calls `callback` while `fd` is readable, until that answers false.
fn watch(fd: RawFd, callback: impl Fn() -> bool + 'static) -> glib::Source {
    let callback: Callback = Box::new(callback);
    let data = Box::into_raw(Box::new(callback));
    // SAFETY: the channel does not own the fd.
    let channel = unsafe { glib_sys::g_io_channel_unix_new(fd) };
    // SAFETY: a fresh channel.
    let source = unsafe { glib_sys::g_io_create_watch(channel, glib_sys::G_IO_IN) };
    // SAFETY: the source holds a reference of its own.
    unsafe { glib_sys::g_io_channel_unref(channel) };
    type Function = unsafe extern "C" fn(glib_sys::gpointer) -> glib_sys::gboolean;
    // SAFETY: the callback of a watch is a GIOFunc, which g_source_set_callback takes as any function.
    let function =
        unsafe { std::mem::transmute::<glib_sys::GIOFunc, Option<Function>>(Some(call)) };
    // SAFETY: the data is what the function and its destructor expect.
    unsafe { glib_sys::g_source_set_callback(source, function, data.cast(), Some(drop_callback)) };
    // SAFETY: the reference of a new source is ours.
    unsafe { from_glib_full(source) }
}

/// Puts `file` under the number of `place`, which is closed.
fn replace(place: RawFd, file: OwnedFd) {
    let number = file.into_raw_fd();
    // SAFETY: both are ours.
    assert_eq!(unsafe { libc::dup2(number, place) }, place);
    // SAFETY: ours, and not used any more.
    unsafe { libc::close(number) };
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
#[test]
fn a_number_that_another_source_uses_again_is_watched() {
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
    while context.iterate(Wait::NoBlock).unwrap() {}
    first.writer.write_all(b"1").unwrap();
    while !old.is_destroyed() {
        context.iterate(Wait::Block).unwrap();
    }
    // Whatever the changes have caused is over; only the file itself can call now.
    for _ in 0..100 {
        context.iterate(Wait::NoBlock).unwrap();
    }
    assert_eq!(seen.get(), 0);
    second.writer.write_all(b"2").unwrap();
    let (done, expired) = std::sync::mpsc::channel::<()>();
    let context = &context;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A lost wake-up ends here instead of never.
            if expired
                .recv_timeout(std::time::Duration::from_secs(30))
                .is_err()
            {
                context.notify();
            }
        });
        context.iterate(Wait::Block).unwrap();
        let _ = done.send(());
    });
    assert_eq!(seen.get(), 1, "the new file was not watched");
    let mut byte = [0];
    // `first.reader` has the number, and now the new file.
    first.reader.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"2");
}

/// How many turns the context takes until it sleeps for good.
fn turns_until_it_sleeps(context: &QContext) -> usize {
    // SAFETY: no arguments.
    let thread = unsafe { libc::gettid() };
    let (turns, sleeps) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_asleep(thread, &turns);
            sleeps.store(true, SeqCst);
            context.notify();
        });
        while !sleeps.load(SeqCst) {
            turns.fetch_add(1, SeqCst);
            context.iterate(Wait::Block).unwrap();
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
        let now = turns.load(SeqCst);
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
#[test]
fn a_file_that_was_closed_too_early_and_lives_on_wakes_nobody_for_long() {
    let context = QContext::anonymous(false).unwrap();
    for _ in 0..10 {
        let Pipe { reader, mut writer } = new_pipe();
        let survivor = reader.try_clone().unwrap();
        let source = watch(reader.as_raw_fd(), || true);
        context.attach_source(&source, None).unwrap();
        while context.iterate(Wait::NoBlock).unwrap() {}
        drop(reader);
        source.destroy();
        writer.write_all(b"1").unwrap();
        let turns = turns_until_it_sleeps(&context);
        assert!(turns < 20, "{turns} turns");
        drop(survivor);
    }
}

/// The same while the source is still there, and while the number is another file's, which is watched as before.
#[test]
fn a_ghost_beside_a_watched_file_of_the_same_number_is_laid() {
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
    while context.iterate(Wait::NoBlock).unwrap() {}
    replace(number, OwnedFd::from(second.reader));
    first.writer.write_all(b"1").unwrap();
    let turns = turns_until_it_sleeps(&context);
    assert!(turns < 20, "{turns} turns");
    assert_eq!(seen.get(), 0);
    second.writer.write_all(b"2").unwrap();
    while seen.get() == 0 {
        context.iterate(Wait::Block).unwrap();
    }
    drop(survivor);
}
