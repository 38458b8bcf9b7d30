//! How another thread reaches the monitor's thread.
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
