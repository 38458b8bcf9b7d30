//! Rust and C in one process share contexts: names, sources, callbacks, and where GLib and GIO land.
#![allow(unsafe_code)] // calls C
#![allow(clippy::unwrap_used)] // a test fails by panicking

use gio::prelude::*;
use glib::translate::{ToGlibPtr, from_glib_full};
use qcontext::object::{object_add, object_del, options};
use qcontext::{ErrorKind, QContext};
use qcontext_ffi as c;
use qcontext_shared_test::{Seen, half_attach_source, half_load_file, half_schedule_bh, half_see};
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn create(optarg: &str) -> QContext {
    let options = options::parse(Some("qom-type"), optarg).unwrap();
    let id = options.peek("id").unwrap().to_owned();
    object_add(options).unwrap();
    QContext::find(&id).unwrap()
}

/// The context as C has it.
fn pointer(context: &QContext) -> *mut c::QContext {
    context.as_raw().cast::<c::QContext>().cast_mut()
}

fn default_of(context: &QContext) -> *mut c_void {
    let gmain: *mut glib::ffi::GMainContext = context.main_context().to_glib_none().0;
    gmain.cast()
}

/// Returns when everything queued on the context before has been done.
fn settle(context: &QContext) {
    context.invoke_sync(|| ()).unwrap();
    context.invoke_sync(|| ()).unwrap();
}

fn assert_seen_on(context: &QContext, seen: &Seen) {
    assert_eq!(seen.thread.load(Ordering::SeqCst), context.thread_id());
    let here = seen.context.load(Ordering::SeqCst);
    assert!(ptr::eq(here, context.as_raw()));
    assert_eq!(
        seen.thread_default.load(Ordering::SeqCst),
        default_of(context)
    );
}

fn wait_for(count: &AtomicI32, wanted: i32) {
    let begin = std::time::Instant::now();
    while count.load(Ordering::SeqCst) < wanted {
        assert!(begin.elapsed() < PATIENCE, "nothing happens");
        std::thread::yield_now();
    }
}

fn next<T>(events: &Receiver<T>) -> T {
    events.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_context_of_the_command_line_is_found_from_c() {
    let ctx = create("qcontext,id=shared-ctx1,threaded=yes");
    let id = CString::new("shared-ctx1").unwrap();
    // SAFETY: a string, and no place for an error.
    let found = unsafe { c::qcontext_find_by_name(id.as_ptr(), ptr::null_mut()) };
    assert!(ptr::eq(found, pointer(&ctx)));
    // SAFETY: the reference just found.
    assert_eq!(unsafe { c::qcontext_get_thread_id(found) }, ctx.thread_id());
    object_del("shared-ctx1").unwrap();
    // SAFETY: as above; deleted, but the reference is good.
    assert_eq!(unsafe { c::qcontext_get_thread_id(found) }, -1);
    // SAFETY: given back once.
    unsafe { c::qcontext_unref(found) };
    // SAFETY: as for the first call.
    let gone = unsafe { c::qcontext_find_by_name(id.as_ptr(), ptr::null_mut()) };
    assert!(gone.is_null());
}

#[test]
fn a_context_of_c_is_found_from_rust() {
    let optarg = CString::new("qcontext,id=shared-ctx2,threaded=yes").unwrap();
    // SAFETY: a string, and no place for an error.
    let made = unsafe { c::qcontext_object_add(optarg.as_ptr(), ptr::null_mut()) };
    let found = QContext::find("shared-ctx2").unwrap();
    assert!(ptr::eq(made, pointer(&found)));
    // SAFETY: given back once.
    unsafe { c::qcontext_unref(made) };
    assert_eq!(found.invoke_sync(|| 6 * 7).unwrap(), 42);
    let id = CString::new("shared-ctx2").unwrap();
    // SAFETY: a string, and no place for an error.
    let deleted = unsafe { c::qcontext_object_del(id.as_ptr(), ptr::null_mut()) };
    assert_eq!(deleted, 1);
    let error = QContext::find("shared-ctx2").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let closed = found.invoke(|| ()).unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);
}

#[test]
fn sources_of_both_languages_run_on_one_context_and_are_found_by_the_other() {
    const TIMES: i32 = 200;
    let ctx = create("qcontext,id=shared-sources,threaded=yes");
    let from_c = Arc::new(Seen::default());
    let (sender, from_rust) = channel();
    let mut left = TIMES;
    let tick = move || {
        left -= 1;
        let here = QContext::current().map(|context| context.id().to_owned());
        let _ = sender.send((here, std::thread::current().id()));
        glib::ControlFlow::from(left > 0)
    };
    let source = glib::idle_source_new(None, glib::Priority::DEFAULT, tick);
    let name = CString::new("of-c").unwrap();
    // SAFETY: the context and the record outlive the source, which the deletion below ends.
    let attached = unsafe {
        half_attach_source(
            pointer(&ctx).cast(),
            name.as_ptr(),
            TIMES,
            &raw const *from_c,
        )
    };
    assert_eq!(attached, 1);
    ctx.attach_source(&source, Some("of-rust")).unwrap();
    let home = ctx.invoke_sync(|| std::thread::current().id()).unwrap();
    for _ in 0..TIMES {
        assert_eq!(next(&from_rust), (Some("shared-sources".to_owned()), home));
    }
    wait_for(&from_c.calls, TIMES);
    settle(&ctx);
    assert_seen_on(&ctx, &from_c);
    assert_eq!(from_c.calls.load(Ordering::SeqCst), TIMES);
    object_del("shared-sources").unwrap();
    assert_eq!(from_c.destroyed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_source_attached_by_one_language_is_found_and_destroyed_by_the_other() {
    let ctx = create("qcontext,id=shared-names,threaded=yes");
    let source = glib::timeout_source_new(PATIENCE, None, glib::Priority::DEFAULT, || {
        glib::ControlFlow::Continue
    });
    ctx.attach_source(&source, Some("of-rust")).unwrap();
    let name = CString::new("of-rust").unwrap();
    // SAFETY: the context is alive, the string is one.
    let found = unsafe { c::qcontext_find_source_by_name(pointer(&ctx), name.as_ptr()) };
    // SAFETY: the context and the source are alive.
    let destroyed = unsafe { c::qcontext_destroy_source(pointer(&ctx), found) };
    assert_eq!(destroyed, 1);
    // SAFETY: the reference that was found.
    let found: glib::Source = unsafe { from_glib_full(found) };
    assert!(found == source && source.is_destroyed());
    assert!(ctx.find_source("of-rust").is_none());
    object_del("shared-names").unwrap();
}

#[test]
fn bottom_halves_of_c_run_where_rust_iterates() {
    // Unthreaded: the thread of the test is the home.
    let ctx = create("qcontext,id=shared-bh");
    let seen = Seen::default();
    // SAFETY: the record outlives the bottom half, which runs below.
    let scheduled = unsafe { half_schedule_bh(pointer(&ctx).cast(), &raw const seen) };
    assert_eq!(scheduled, 1);
    assert!(ctx.iterate(qcontext::Wait::Block).unwrap());
    assert_eq!(seen.calls.load(Ordering::SeqCst), 1);
    assert_eq!(seen.destroyed.load(Ordering::SeqCst), 1);
    assert!(ptr::eq(seen.context.load(Ordering::SeqCst), ctx.as_raw()));
    object_del("shared-bh").unwrap();
}

#[test]
fn glib_code_in_c_lands_on_the_context_of_the_callback_it_is_in() {
    let ctx = create("qcontext,id=shared-default,threaded=yes");
    let (looked, loaded) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let (look, load) = (Arc::clone(&looked), Arc::clone(&loaded));
    let begin = move || {
        // SAFETY: both records outlive what is begun, which is waited for below.
        unsafe { half_see(&raw const *look) };
        // SAFETY: as above.
        unsafe { half_load_file(&raw const *load) };
    };
    ctx.invoke_sync(begin).unwrap();
    wait_for(&loaded.destroyed, 1);
    settle(&ctx);
    assert_seen_on(&ctx, &looked);
    assert_eq!(loaded.calls.load(Ordering::SeqCst), 1, "GIO has finished");
    assert_seen_on(&ctx, &loaded);
    object_del("shared-default").unwrap();
}

#[test]
fn glib_code_in_rust_lands_there_too() {
    let ctx = create("qcontext,id=shared-futures,threaded=yes");
    let (sender, told) = channel();
    let begin = move || {
        let file = gio::File::for_path("/proc/self/comm");
        let gmain = glib::MainContext::thread_default().unwrap();
        gmain.spawn_local(async move {
            let contents = file.load_contents_future().await.unwrap().0;
            let here = QContext::current().map(|context| context.id().to_owned());
            let _ = sender.send((here, contents.is_empty()));
        });
    };
    ctx.invoke_sync(begin).unwrap();
    assert_eq!(next(&told), (Some("shared-futures".to_owned()), false));
    object_del("shared-futures").unwrap();
}
