//! The monitor's thread: how other threads reach it, and its next turn.
#![forbid(unsafe_code)]

/// Runs `action` on the thread that iterates the default `GMainContext`.
pub(super) fn post(action: impl FnOnce() + Send + 'static) {
    let mut action = Some(action);
    let source = glib::idle_source_new(
        Some("qcontext-monitor-post"),
        glib::Priority::DEFAULT,
        move || {
            if let Some(action) = action.take() {
                action();
            }
            glib::ControlFlow::Break
        },
    );
    source.attach(Some(&glib::MainContext::default()));
}

/// A source that calls `action` in each turn of the main loop.
pub(super) fn idle_source(
    action: impl FnMut() -> glib::ControlFlow + Send + 'static,
) -> glib::Source {
    let name = Some("qcontext-monitor-again");
    glib::idle_source_new(name, glib::Priority::DEFAULT, action)
}
