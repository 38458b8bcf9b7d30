//! What a device reports of its failures, for the people who run the host: messages in the log, events for management, and
//! the property `fault`.
//!
//! A guest or a front end can cause any number of failures. So of each kind a limited number is shown in a second; of the
//! others, the last one is shown when the second is over, with the number of those before it. The event of a failure that stops the
//! guest is always shown, because somebody has to let the guest go on.
//!
//! # Threads
//! Reports come on any thread, with locks held: they are only stored. The device's control context shows them.
//!
//! # Invariants
//! 1. No lock is held while a message is logged or the program's event handler runs.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use gsource::{AioContext, Bh, Clock, Timer};

use super::error_stop::ErrorStop;
use super::event::{self, DEVICE_FAULT, DeviceEvent};
use crate::object::Dict;
use crate::rate_limit::{RateLimit, RateVerdict};
use crate::virtio::fault::{DeviceFault, FaultWatcher, IoStatus, RequestFailure};
use crate::virtio::pluggable::PluggableDevice;

/// How many faults are shown in a second. More than one, as one often explains the next.
const FAULTS: u32 = 8;
/// How many failed requests are shown in a second: QEMU's limit for its event.
const FAILURES: u32 = 1;
/// How many reports wait for a context that does not run.
const WAITING_MAX: usize = 64;

/// The failures of one device.
pub(super) struct FaultLog {
    id: String,
    /// Its path in the object tree. `None` for one that an export keeps.
    path: Option<String>,
    stop: ErrorStop,
    state: Mutex<FaultState>,
    show: Bh,
    /// Fires when something that was held back may be shown.
    later: Timer,
}

struct FaultState {
    /// The latest fault.
    fault: Option<String>,
    faults: RateLimit<Report>,
    failures: RateLimit<Report>,
    /// To be shown by the control context.
    waiting: Vec<Report>,
    /// Failures that stop the guest. A request that waits is in one of them, so there are not more than requests.
    stops: Vec<StopReport>,
}

/// A failure that stops the guest.
struct StopReport {
    status: IoStatus,
    event: Option<DeviceEvent>,
}

/// Something to show.
struct Report {
    text: String,
    event: Option<DeviceEvent>,
}

impl FaultLog {
    /// The log of `device`, the device `id`, which is at `path` in the object tree, or of the export of that id.
    pub(super) fn new(
        id: &str,
        path: Option<String>,
        device: &Arc<dyn PluggableDevice>,
        control: &AioContext,
    ) -> Arc<FaultLog> {
        Arc::new_cyclic(|this: &Weak<FaultLog>| {
            let [shown, released] = [(); 2].map(|()| Weak::clone(this));
            FaultLog {
                id: id.to_owned(),
                path,
                stop: ErrorStop::new(device),
                state: Mutex::new(FaultState {
                    fault: None,
                    faults: RateLimit::new(FAULTS),
                    failures: RateLimit::new(FAILURES),
                    waiting: Vec::new(),
                    stops: Vec::new(),
                }),
                show: control.bh("device-faults", move || with(&shown, FaultLog::show)),
                later: control.timer(Clock::Realtime, move || with(&released, FaultLog::release)),
            }
        })
    }

    /// Why the device or a queue did not serve its driver the last time, or why its front end was refused.
    pub(super) fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }

    /// The stop of the guest for failed requests.
    pub(super) fn stop(&self) -> &ErrorStop {
        &self.stop
    }

    /// Shows everything that is held back or waits. For the end of the device.
    pub(super) fn flush(&self) {
        let mut state = self.lock();
        let held = [state.faults.flush(), state.failures.flush()];
        let held = held.into_iter().flatten().map(counted);
        state.waiting.extend(held);
        drop(state);
        self.show();
    }

    /// Shows what was held back for long enough.
    fn release(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let released = [state.faults.release(now), state.failures.release(now)];
        let released = released.into_iter().flatten().map(counted);
        state.waiting.extend(released);
        self.arm(&state);
        drop(state);
        self.show();
    }

    fn show(&self) {
        self.stop_guest();
        let waiting = std::mem::take(&mut self.lock().waiting);
        for report in waiting {
            let kind = self.kind();
            glib::g_message!("qcontext", "{kind} '{}': {}", self.id, report.text);
            report.event.into_iter().for_each(event::emit);
        }
    }

    /// Stops the guest for the failures that demand it. Who learns of it by the event can let the guest go on at once.
    fn stop_guest(&self) {
        let stops = std::mem::take(&mut self.lock().stops);
        let is_stopped = !stops.is_empty();
        for StopReport { status, event } in stops {
            self.stop.begin(status);
            event.into_iter().for_each(event::emit);
        }
        if is_stopped {
            self.stop.stop_machine();
        }
    }

    /// Stores what passes its limit, and has it shown. Has the timer release what is held back.
    fn offer(
        &self,
        report: Report,
        limit: impl FnOnce(&mut FaultState, Report) -> RateVerdict<Report>,
    ) {
        let mut state = self.lock();
        let verdict = limit(&mut state, report);
        if matches!(verdict, RateVerdict::Hold) {
            self.arm(&state);
        }
        let RateVerdict::Pass(passed) = verdict else {
            return;
        };
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push(passed);
        }
        drop(state);
        self.show.schedule();
    }

    /// What it is, in lines and events.
    fn kind(&self) -> &'static str {
        match self.path {
            Some(_) => "device",
            None => "export",
        }
    }

    fn arm(&self, state: &FaultState) {
        let ends = [state.faults.held_until(), state.failures.held_until()];
        if let Some(end) = ends.into_iter().flatten().min() {
            let wait = end.saturating_duration_since(Instant::now());
            let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
            self.later.arm_in_ns(wait);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultWatcher for FaultLog {
    fn broken(&self, fault: DeviceFault) {
        let text = match fault.queue {
            Some(queue) => format!("queue {queue} is broken: {}", fault.reason),
            None => fault.reason.clone(),
        };
        let mut data: Dict = vec![(self.kind().to_owned(), self.id.as_str().into())];
        let path = self.path.as_deref();
        data.extend(path.map(|path| ("path".to_owned(), path.into())));
        data.extend(
            fault
                .queue
                .map(|queue| ("queue".to_owned(), i64::from(queue).into())),
        );
        data.push(("reason".to_owned(), fault.reason.as_str().into()));
        let report = Report {
            text: text.clone(),
            event: Some(DeviceEvent {
                event: &DEVICE_FAULT,
                data,
            }),
        };
        self.offer(report, |state, report| {
            state.fault = Some(text);
            state.faults.offer(report, Instant::now())
        });
    }

    fn request_failed(&self, failure: RequestFailure) {
        let with_path = |(event, data)| {
            let path = self.path.as_deref().unwrap_or_default();
            let mut all: Dict = vec![("qom-path".to_owned(), path.into())];
            all.extend::<Dict>(data);
            DeviceEvent { event, data: all }
        };
        let mut report = Report {
            text: format!("queue {}: {}", failure.queue, failure.reason),
            event: failure.event.map(with_path),
        };
        if let Some(status) = failure.stops {
            let event = report.event.take();
            report.text = format!("{}; {}", report.text, self.stop.describe());
            self.lock().stops.push(StopReport { status, event });
            self.show.schedule();
        }
        self.offer(report, |state, report| {
            state.failures.offer(report, Instant::now())
        });
    }
}

/// The report that was held back last, with the number of those before it.
fn counted((mut report, before): (Report, u64)) -> Report {
    if before > 0 {
        report.text = format!("{} ({before} more before it)", report.text);
    }
    report
}

fn with(log: &Weak<FaultLog>, act: impl FnOnce(&FaultLog)) {
    if let Some(log) = log.upgrade() {
        act(&log);
    }
}
