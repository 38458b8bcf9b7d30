//! Jobs with works on an AioContext: users pause, limit and cancel them, and hear of them.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::{Error, ErrorKind, QContext, Result};

/// What the jobs of all tests have said.
static HEARD: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Moves units until it is cancelled or has moved `units`.
#[derive(Debug, Default)]
struct TestWork {
    units: u64,
    bytes: u64,
    fails: bool,
    panics: bool,
    fails_to_prepare: bool,
    steps: Mutex<Vec<JobStep>>,
    moved: AtomicU64,
}

impl JobWork for TestWork {
    fn run(self: Arc<Self>, control: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move {
            control.add_total(self.units);
            while self.moved.load(Ordering::Relaxed) < self.units && !control.is_cancelled() {
                control.pause_point().await;
                control.add_done(1);
                self.moved.fetch_add(1, Ordering::Relaxed);
                control.keep_speed(self.bytes).await;
            }
            assert!(!self.panics, "as the test wants");
            match self.fails {
                true => Err(Error::new(ErrorKind::InvalidArgument, "as the test wants")),
                false => Ok(()),
            }
        })
    }

    fn step(self: Arc<Self>, step: JobStep, _: Arc<RunningJob>) -> Option<WorkFuture> {
        Some(Box::pin(async move {
            self.steps.lock().unwrap().push(step);
            match self.fails_to_prepare {
                true => Err(Error::new(ErrorKind::InvalidArgument, "not prepared")),
                false => Ok(()),
            }
        }))
    }
}

fn options(id: &str) -> JobOptions {
    JobOptions {
        id: id.to_owned(),
        kind: JobType::Stream,
        auto_finalize: true,
        auto_dismiss: false,
        speed: 0,
    }
}

/// Remembers events. Their order is that of the changes.
fn listen() {
    on_event(|event| {
        let id = |name: &str| {
            let found = event.data.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str().unwrap_or_default().to_owned())
        };
        let text = match id("status") {
            Some(status) => status,
            None => event.event.name.to_owned(),
        };
        let job = id("id").or_else(|| id("device")).unwrap_or_default();
        HEARD.lock().unwrap().push((job, text));
    });
}

fn heard(id: &str) -> String {
    let heard = HEARD.lock().unwrap().clone();
    let own = heard.into_iter().filter(|(job, _)| job == id);
    let texts: Vec<_> = own.map(|(_, text)| text).collect();
    texts.join(" ")
}

fn info(id: &str) -> Option<JobInfo> {
    list().into_iter().find(|job| job.id == id)
}

/// Waits until the thread of the context has done what makes `is_true` so.
#[track_caller]
fn wait_for(context: &QContext, is_true: impl Fn() -> bool) {
    let (over, waits) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let outcome = waits.recv_timeout(Duration::from_secs(60));
        assert_eq!(outcome, Err(mpsc::RecvTimeoutError::Disconnected), "stuck");
    });
    while !is_true() && !watchdog.is_finished() {
        context.invoke_sync(|| ()).unwrap();
    }
    drop(over);
    watchdog.join().unwrap();
}

fn concluded(id: &str) -> bool {
    info(id).is_some_and(|job| job.status == JobStatus::Concluded)
}

#[test]
fn a_job_works_on_its_context_and_carries_out_its_steps() {
    listen();
    let context = QContext::anonymous(true).unwrap();
    let work = Arc::new(TestWork {
        units: 5,
        ..TestWork::default()
    });
    let watched = Arc::clone(&work);
    start(options("w1"), &context, work).unwrap();
    wait_for(&context, || concluded("w1"));
    let job = info("w1").unwrap();
    assert_eq!((job.done, job.total, job.error), (5, 5, None));
    assert_eq!(
        *watched.steps.lock().unwrap(),
        [JobStep::Prepare, JobStep::Commit]
    );
    let watched = {
        let weak = Arc::downgrade(&watched);
        drop(watched);
        weak
    };
    wait_for(&context, || watched.strong_count() == 0);
    apply(JobName::Block("w1"), JobVerb::Dismiss).unwrap();
    assert!(info("w1").is_none());
    assert_eq!(
        heard("w1"),
        "created running waiting pending BLOCK_JOB_COMPLETED concluded null"
    );
}

#[test]
fn a_job_rests_while_a_user_wants_that_and_its_cancellation_ends_the_rest() {
    listen();
    let context = QContext::anonymous(true).unwrap();
    let work = TestWork {
        units: u64::MAX,
        bytes: 1 << 40,
        ..TestWork::default()
    };
    let slow = JobOptions {
        speed: 1,
        ..options("w2")
    };
    start(slow, &context, Arc::new(work)).unwrap();
    // One unit has to be paid for longer than anything lives.
    wait_for(&context, || info("w2").is_some_and(|job| job.done == 1));
    apply(JobName::Any("w2"), JobVerb::Pause).unwrap();
    let status = |status| move || info("w2").is_some_and(|job| job.status == status);
    wait_for(&context, status(JobStatus::Paused));
    assert!(!info("w2").unwrap().is_busy);
    apply(JobName::Any("w2"), JobVerb::Resume).unwrap();
    wait_for(&context, status(JobStatus::Running));
    set_speed("w2", 2).unwrap();
    wait_for(&context, || info("w2").is_some_and(|job| job.done >= 3));
    apply(JobName::Any("w2"), JobVerb::Pause).unwrap();
    wait_for(&context, status(JobStatus::Paused));
    apply(JobName::Any("w2"), JobVerb::Cancel).unwrap();
    wait_for(&context, || concluded("w2"));
    assert_eq!(
        heard("w2"),
        "created running paused running paused running aborting BLOCK_JOB_CANCELLED concluded"
    );
}

#[test]
fn a_work_that_fails_or_panics_ends_its_job() {
    listen();
    let context = QContext::anonymous(true).unwrap();
    let failing = TestWork {
        fails: true,
        ..TestWork::default()
    };
    start(options("w3"), &context, Arc::new(failing)).unwrap();
    let panicking = TestWork {
        panics: true,
        ..TestWork::default()
    };
    start(options("w4"), &context, Arc::new(panicking)).unwrap();
    let unprepared = TestWork {
        fails_to_prepare: true,
        ..TestWork::default()
    };
    start(options("w5"), &context, Arc::new(unprepared)).unwrap();
    for (id, error) in [
        ("w3", "as the test wants"),
        ("w4", "the job panicked"),
        ("w5", "not prepared"),
    ] {
        wait_for(&context, || concluded(id));
        assert_eq!(info(id).unwrap().error.as_deref(), Some(error));
    }
    assert_eq!(
        heard("w5"),
        "created running waiting pending aborting BLOCK_JOB_COMPLETED concluded"
    );
}

#[test]
fn there_is_no_job_on_a_context_that_has_stopped() {
    let context = QContext::anonymous(true).unwrap();
    context.stop().unwrap();
    let refused = start(options("w6"), &context, Arc::new(TestWork::default()));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    assert!(info("w6").is_none());
}

#[test]
fn a_context_is_not_deleted_while_it_has_a_job() {
    let context = QContext::new("job-home", true).unwrap();
    let work = TestWork {
        units: u64::MAX,
        bytes: 1 << 40,
        ..TestWork::default()
    };
    let slow = JobOptions {
        speed: 1,
        ..options("w7")
    };
    start(slow, &context, Arc::new(work)).unwrap();
    let busy = QContext::delete("job-home").unwrap_err();
    assert_eq!(
        busy.to_string(),
        "object 'job-home' is in use by device 'w7', can not be deleted"
    );
    apply(JobName::Any("w7"), JobVerb::Cancel).unwrap();
    wait_for(&context, || concluded("w7"));
    wait_for(&context, || QContext::delete("job-home").is_ok());
}

/// Ends when a user cancels it, and only then.
#[derive(Debug)]
struct StuckWork;

impl JobWork for StuckWork {
    fn run(self: Arc<Self>, control: Arc<RunningJob>) -> WorkFuture {
        Box::pin(async move {
            let is_hurried = AtomicBool::new(false);
            let stuck = poll_fn(|_| match is_hurried.load(Ordering::Relaxed) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            let hurry = || is_hurried.store(true, Ordering::Relaxed);
            control.hurried_by_cancel(stuck, hurry).await;
            Ok(())
        })
    }
}

#[test]
fn a_cancellation_hurries_work_that_waits_for_requests() {
    let context = QContext::anonymous(true).unwrap();
    start(options("w8"), &context, Arc::new(StuckWork)).unwrap();
    wait_for(&context, || info("w8").is_some_and(|job| job.is_busy));
    apply(JobName::Any("w8"), JobVerb::Cancel).unwrap();
    wait_for(&context, || concluded("w8"));
}

#[test]
fn results_are_results() -> Result<()> {
    let unknown = apply(JobName::Any("nosuch"), JobVerb::Cancel).unwrap_err();
    assert_eq!(unknown.to_string(), "Job not found");
    assert!(set_speed("nosuch", 1).is_err() && cancel_block_job("nosuch", true).is_err());
    Ok(())
}
