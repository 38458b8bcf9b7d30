//! The main loop of programs that have none: iterations of the default GMainContext. They drop the program's big lock while
//! they wait, and poll the fds of libraries that only know poll(2).
#![allow(unsafe_code)] // pointers from C, and GLib's steps exist in C only

use crate::argument::entry;
use crate::boundary::Fault;
use crate::callback::{QContextFillFunc, QContextFunc, QContextPolledFunc};
use crate::run::{append_query, wait};
use crate::user::{UserData, register};
use glib::translate::ToGlibPtr;
use glib_sys::{GArray, GDestroyNotify, GError, GMainContext, GPollFD, gboolean, gpointer};
use qcontext::QContext as Context;
use qcontext::{Error, ErrorKind, Wait};
use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone)]
struct PollHook {
    id: u32,
    fill: QContextFillFunc,
    polled: QContextPolledFunc,
    user: Arc<UserData>,
}

#[derive(Clone, Default)]
struct MainLoopHooks {
    lock: QContextFunc,
    unlock: QContextFunc,
    data: HookData,
    polls: Vec<PollHook>,
    last: u32,
}

#[derive(Clone, Copy)]
struct HookData(gpointer);

// SAFETY: C says by setting hooks that their data may be used on the thread that iterates.
unsafe impl Send for HookData {}

impl Default for HookData {
    fn default() -> Self {
        HookData(ptr::null_mut())
    }
}

static HOOKS: Mutex<Option<MainLoopHooks>> = Mutex::new(None);

fn hooks() -> MutexGuard<'static, Option<MainLoopHooks>> {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// qcontext_main_init:
/// Creates qcontext-main, so that a lack of fds is reported here.
/// @error: OS
///
/// Returns: FALSE on failure.
///
/// Any thread, any locks held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_main_init(error: *mut *mut GError) -> gboolean {
    entry!(qcontext_main_init, 0, error, || {
        // The attempt of `new` takes as many fds, and gives them back.
        drop(Context::anonymous(false)?);
        Context::main();
        Ok(1)
    })
}

/// qcontext_main_poll:
/// Runs one iteration of the default GMainContext, which includes qcontext-main.
/// @may_block: whether to wait until something happens
/// @error: WRONG_THREAD while another thread runs the default GMainContext
///
/// Returns: whether something was dispatched or a notification came.
///
/// Any one thread that can acquire the default GMainContext.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_main_poll(
    may_block: gboolean,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_main_poll, 0, error, || {
        Ok(poll_main(wait(may_block))?.into())
    })
}

/// qcontext_main_iterate:
/// The old form of qcontext_main_poll(). Its argument has the opposite sense.
/// @nonblock: whether to return without waiting
///
/// Returns: 1 when something was dispatched or a notification came, else 0. A call while another thread runs the default GMainContext is a critical and 0.
///
/// Any one thread that can acquire the default GMainContext.
#[deprecated(note = "use qcontext_main_poll")]
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_main_iterate(nonblock: gboolean) -> c_int {
    entry!(qcontext_main_iterate, 0, || {
        let dispatched = poll_main(wait(gboolean::from(nonblock == 0)));
        let dispatched = dispatched.map_err(|error| match error.kind() {
            ErrorKind::WrongThread => Fault::Misuse("another thread runs the default GMainContext"),
            _ => Fault::Error(error),
        })?;
        Ok(dispatched.into())
    })
}

fn poll_main(wait: Wait) -> Result<bool, Error> {
    let context = Context::main();
    let (main, notifications) = (context.main_context(), context.glib_notifications());
    let _owner = main.acquire().map_err(|_| {
        let message = "another thread runs the default GMainContext";
        Error::new(ErrorKind::WrongThread, message)
    })?;
    let current = hooks().clone().unwrap_or_default();
    // SAFETY: the thread owns the GMainContext.
    let dispatched = unsafe { iterate(main.to_glib_none().0, wait, &current) };
    Ok(dispatched || context.glib_notifications() != notifications)
}

/// # Safety
/// The calling thread owns `gmain`.
unsafe fn iterate(gmain: *mut GMainContext, wait: Wait, hooks: &MainLoopHooks) -> bool {
    let size = u32::try_from(size_of::<GPollFD>()).unwrap_or(0);
    // SAFETY: plain values.
    let fds = unsafe { glib_sys::g_array_new(0, 0, size) };
    let (mut priority, mut timeout) = (0, -1);
    // SAFETY: the caller owns the GMainContext.
    unsafe { glib_sys::g_main_context_prepare(gmain, &raw mut priority) };
    // SAFETY: as above; the array is one of GPollFD.
    let own = unsafe { append_query(gmain, priority, &raw mut timeout, fds) };
    for hook in &hooks.polls {
        hook.user.call_fill(hook.fill, fds, &mut timeout);
    }
    if wait == Wait::NoBlock {
        timeout = 0;
    }
    // SAFETY: the array is one of GPollFD.
    unsafe { poll(fds, timeout, hooks) };
    for hook in &hooks.polls {
        hook.user.call_polled(hook.polled, fds);
    }
    // SAFETY: the array is alive.
    let data = unsafe { (*fds).data }.cast::<GPollFD>();
    // SAFETY: the caller owns the GMainContext; its own fds come first.
    let ready = unsafe { glib_sys::g_main_context_check(gmain, priority, data, own) } != 0;
    if ready {
        // SAFETY: the caller owns the GMainContext.
        unsafe { glib_sys::g_main_context_dispatch(gmain) };
    }
    // SAFETY: the array made above.
    unsafe { glib_sys::g_array_free(fds, 1) };
    ready
}

/// Waits, without the program's lock if it blocks.
///
/// # Safety
/// `fds` is an array of GPollFD.
unsafe fn poll(fds: *mut GArray, timeout_ms: i32, hooks: &MainLoopHooks) {
    // SAFETY: the caller's word.
    let fds = unsafe { &*fds };
    let (data, count) = (fds.data.cast::<GPollFD>(), fds.len);
    let blocks = timeout_ms != 0;
    if blocks {
        call(hooks.unlock, hooks.data);
    }
    // SAFETY: the entries of the array.
    unsafe { glib_sys::g_poll(data, count, timeout_ms) };
    if blocks {
        call(hooks.lock, hooks.data);
    }
}

fn call(hook: QContextFunc, data: HookData) {
    if let Some(hook) = hook {
        // SAFETY: C set this hook with this data.
        unsafe { hook(data.0) };
    }
}

/// qcontext_main_set_lock_hooks:
/// Sets the hooks of the program's big lock. qcontext_main_poll() is called with the lock held and drops it while it waits.
/// @lock: (nullable): takes the lock
/// @unlock: (nullable): releases it
/// @user_data: data of both
///
/// Any thread, any locks held; before the loop runs.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_main_set_lock_hooks(
    lock: QContextFunc,
    unlock: QContextFunc,
    user_data: gpointer,
) {
    entry!(qcontext_main_set_lock_hooks, (), || {
        let mut guard = hooks();
        let hooks = guard.get_or_insert_default();
        (hooks.lock, hooks.unlock, hooks.data) = (lock, unlock, HookData(user_data));
        drop(guard);
        Ok(())
    });
}

/// qcontext_main_add_poll_hook:
/// Adds the fds of a library that only knows poll(2) to those that qcontext_main_poll() waits for.
/// @fill: (nullable): appends fds before each wait
/// @polled: (nullable): called with the result after each wait
/// @user_data: data of both
/// @destroy: (nullable): runs when the hook was removed and its last call has returned
///
/// Returns: an id for qcontext_main_remove_poll_hook().
///
/// Any thread, any locks held; takes effect at the next iteration.
#[unsafe(no_mangle)]
pub extern "C" fn qcontext_main_add_poll_hook(
    fill: QContextFillFunc,
    polled: QContextPolledFunc,
    user_data: gpointer,
    destroy: GDestroyNotify,
) -> u32 {
    entry!(qcontext_main_add_poll_hook, 0, || {
        let send_home = |late: Box<dyn FnOnce() + Send>| late();
        let id = register(user_data, destroy, send_home, |user, _| {
            let mut guard = hooks();
            let hooks = guard.get_or_insert_default();
            hooks.last += 1;
            let id = hooks.last;
            hooks.polls.push(PollHook {
                id,
                fill,
                polled,
                user,
            });
            drop(guard);
            Ok(id)
        })?;
        Context::main().notify();
        Ok(id)
    })
}

/// qcontext_main_remove_poll_hook:
/// Removes a poll hook.
/// @id: the id of qcontext_main_add_poll_hook()
/// @error: NOT_FOUND
///
/// Returns: FALSE on failure.
///
/// Any thread, any locks held; a call that has begun may still run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qcontext_main_remove_poll_hook(
    id: u32,
    error: *mut *mut GError,
) -> gboolean {
    entry!(qcontext_main_remove_poll_hook, 0, error, || {
        let mut guard = hooks();
        let polls = &mut guard.get_or_insert_default().polls;
        let found = polls.iter().position(|hook| hook.id == id);
        let removed = found.map(|index| polls.remove(index));
        drop(guard);
        // Dropped without the lock.
        match removed.map(drop) {
            Some(()) => Ok(1),
            None => Err(Fault::Error(Error::new(
                ErrorKind::NotFound,
                format!("there is no poll hook {id}"),
            ))),
        }
    })
}
