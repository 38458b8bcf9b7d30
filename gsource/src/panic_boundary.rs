//! The panic boundary: a panic in a callback must neither cross into C nor end other handlers.
//!
//! Used wherever code of others is called: fd handlers, bottom halves, timers, GSource functions, jobs, tasks and destroy
//! notifies. The caller gets a value instead of the panic. It removes what panicked and goes on with the others.
//!
//! Unwind safety: a callback that panicked is dropped and never called again, so what it left half done is not used.
#![forbid(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A callback panicked; its owner is to be removed.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs `callback`; a panic is logged with what ran and becomes [`Panicked`].
pub(crate) fn guard<T>(
    what: &dyn std::fmt::Display,
    callback: impl FnOnce() -> T,
) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(callback)).map_err(|payload| {
        glib::g_warning!(
            "qcontext",
            "{what} panicked and was removed: {}",
            message(&*payload)
        );
        Panicked
    })
}

/// Runs `work` for a caller that waits for its result. A panic becomes an error with its message.
pub(crate) fn catch<T>(what: &str, work: impl FnOnce() -> T) -> crate::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = format!("{what} panicked: {}", message(&*payload));
        crate::Error::new(crate::ErrorKind::Panicked, message)
    })
}

/// Drops `value`, surviving a destructor that panics.
pub(crate) fn drop_guarded<T>(what: &dyn std::fmt::Display, value: T) {
    let _ = guard(what, || drop(value));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::guard;

    #[test]
    fn a_panic_becomes_a_value() {
        assert!(guard(&"test", || panic!("boom")).is_err());
        assert_eq!(guard(&"test", || 3).unwrap(), 3);
    }
}
