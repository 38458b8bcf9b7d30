//! A GSource of GLib that watches an fd: a GIOChannel's.
#![allow(unsafe_code)] // GIOChannel watches have no safe binding

use glib::ffi as glib_sys;
use glib::translate::from_glib_full;
use std::os::fd::RawFd;

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
pub fn watch(fd: RawFd, callback: impl Fn() -> bool + 'static) -> glib::Source {
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
