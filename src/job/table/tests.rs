//! Sequences of what users and works do, against what qemu-storage-daemon says of the same, and every short sequence against the
//! invariants.
#![forbid(unsafe_code)]

use super::*;

/// A table with jobs, and what clients have heard.
struct Bench {
    table: JobTable,
    keys: Vec<JobKey>,
    heard: Vec<String>,
    /// Steps that are not done.
    steps: Vec<(JobKey, JobStep)>,
    ends: Vec<JobKey>,
    released: Vec<JobKey>,
}

impl Bench {
    /// Jobs `j0`, `j1`, ... of one transaction, which have been started.
    fn start(count: usize, auto_finalize: bool, auto_dismiss: bool) -> Bench {
        let mut bench = Bench {
            table: JobTable::new(),
            keys: Vec::new(),
            heard: Vec::new(),
            steps: Vec::new(),
            ends: Vec::new(),
            released: Vec::new(),
        };
        for number in 0..count {
            let new = NewJob {
                id: format!("j{number}"),
                kind: JobType::Mirror,
                auto_finalize,
                auto_dismiss,
                has_ready: true,
                group: bench.keys.first().copied(),
            };
            let key = bench.table.create(new).unwrap();
            bench.keys.push(key);
            bench.table.start(key);
        }
        bench.hear();
        bench
    }

    /// Takes effects. Steps are left for the test.
    fn hear(&mut self) {
        for effect in self.table.take_effects() {
            let name = match self.keys.iter().position(|key| *key == effect.key()) {
                Some(0) if self.keys.len() == 1 => String::new(),
                Some(index) => format!("{index}:"),
                None => "?".to_owned(),
            };
            match effect {
                Effect::Status(_, status) => self.heard.push(format!("{name}{status}")),
                Effect::Ready(_) => self.heard.push(format!("{name}READY")),
                Effect::Pending(_) => self.heard.push(format!("{name}PENDING")),
                Effect::Completed(key, error) => {
                    self.ends.push(key);
                    let error = error.map_or(String::new(), |error| format!("({error})"));
                    self.heard.push(format!("{name}COMPLETED{error}"));
                }
                Effect::Cancelled(key) => {
                    self.ends.push(key);
                    self.heard.push(format!("{name}CANCELLED"));
                }
                Effect::Step(key, step) => self.steps.push((key, step)),
                Effect::Release(key) => self.released.push(key),
                Effect::Failed(..) | Effect::Run(_) | Effect::Wake(_) | Effect::Gone(_) => {}
            }
        }
    }

    /// Carries out all steps, which succeed.
    fn settle(&mut self) -> &mut Bench {
        self.hear();
        while let Some((key, _)) = self.steps.pop() {
            self.table.step_done(key, Ok(()));
            self.hear();
        }
        self
    }

    /// What clients have heard since the last time.
    fn since(&mut self) -> String {
        std::mem::take(&mut self.heard).join(" ")
    }

    fn key(&self) -> JobKey {
        self.keys[0]
    }
}

#[test]
fn a_job_that_does_its_work_is_heard_of_as_in_qemu() {
    let mut bench = Bench::start(1, false, false);
    bench.table.run_over(bench.key(), Ok(()));
    assert_eq!(
        bench.settle().since(),
        "created running waiting pending PENDING"
    );
    bench.table.finalize(bench.key()).unwrap();
    assert_eq!(bench.settle().since(), "COMPLETED concluded");
    bench.table.dismiss(bench.key()).unwrap();
    assert_eq!(bench.settle().since(), "null");
    assert!(bench.table.list().is_empty());
}

#[test]
fn a_job_without_manual_steps_goes_by_itself() {
    let mut bench = Bench::start(1, true, true);
    bench.table.run_over(bench.key(), Ok(()));
    assert_eq!(
        bench.settle().since(),
        "created running waiting pending COMPLETED concluded null"
    );
}

#[test]
fn a_failed_job_aborts() {
    let mut bench = Bench::start(1, false, false);
    bench.table.run_over(bench.key(), Err("no".to_owned()));
    assert_eq!(
        bench.settle().since(),
        "created running aborting COMPLETED(no) concluded"
    );
    assert_eq!(bench.table.list()[0].error.as_deref(), Some("no"));
}

#[test]
fn a_cancelled_job_leaves_its_pause_first() {
    let mut bench = Bench::start(1, false, true);
    let key = bench.key();
    bench.table.pause(key).unwrap();
    assert!(bench.table.reach_pause(key));
    assert!(bench.table.reach_pause(key), "the work asks again");
    assert_eq!(bench.settle().since(), "created running paused");
    bench.table.cancel(key, true).unwrap();
    assert!(!bench.table.reach_pause(key));
    bench.table.leave_pause(key);
    bench.table.run_over(key, Ok(()));
    assert_eq!(
        bench.settle().since(),
        "running aborting CANCELLED concluded null"
    );
}

#[test]
fn a_pending_job_can_be_cancelled() {
    let mut bench = Bench::start(1, false, false);
    bench.table.run_over(bench.key(), Ok(()));
    bench.settle().since();
    bench.table.cancel(bench.key(), false).unwrap();
    assert_eq!(bench.settle().since(), "aborting CANCELLED concluded");
    assert_eq!(
        bench.table.list()[0].error.as_deref(),
        Some("Operation canceled")
    );
}

#[test]
fn a_ready_job_pauses_as_standby_and_is_completed() {
    let mut bench = Bench::start(1, false, false);
    let key = bench.key();
    bench.table.become_ready(key);
    bench.table.pause(key).unwrap();
    assert!(bench.table.reach_pause(key));
    assert_eq!(
        bench.settle().since(),
        "created running ready READY standby"
    );
    bench.table.complete(key).unwrap();
    assert!(bench.table.wishes(key).is_completing);
    bench.table.resume(key).unwrap();
    assert!(!bench.table.reach_pause(key));
    bench.table.leave_pause(key);
    bench.table.run_over(key, Ok(()));
    assert_eq!(bench.settle().since(), "ready waiting pending PENDING");
}

#[test]
fn a_ready_job_that_is_cancelled_without_force_ends_well() {
    let mut bench = Bench::start(1, true, true);
    let key = bench.key();
    bench.table.become_ready(key);
    bench.table.cancel_block_job(key, false).unwrap();
    assert!(bench.table.wishes(key).is_soft_cancelled);
    let refused = bench.table.complete(key).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "The active block job 'j0' cannot be completed"
    );
    bench.table.run_over(key, Ok(()));
    let expected = "created running ready READY waiting pending COMPLETED concluded null";
    assert_eq!(bench.settle().since(), expected);
}

#[test]
fn a_job_at_work_is_always_cancelled_with_force() {
    let mut bench = Bench::start(1, true, true);
    let key = bench.key();
    bench.table.cancel_block_job(key, false).unwrap();
    assert!(bench.table.wishes(key).is_cancelled);
    bench.table.run_over(key, Err("late".to_owned()));
    let expected = "created running aborting CANCELLED concluded null";
    assert_eq!(bench.settle().since(), expected);
}

#[test]
fn jobs_of_a_transaction_wait_for_each_other() {
    let mut bench = Bench::start(2, true, true);
    bench.since();
    bench.table.run_over(bench.keys[0], Ok(()));
    assert_eq!(bench.settle().since(), "0:waiting");
    bench.table.run_over(bench.keys[1], Ok(()));
    assert_eq!(
        bench.settle().since(),
        "1:waiting 1:pending 0:pending 1:COMPLETED 1:concluded 1:null 0:COMPLETED 0:concluded 0:null"
    );
    assert!(bench.table.groups.is_empty());
}

#[test]
fn one_failure_aborts_all_jobs_of_a_transaction() {
    let mut bench = Bench::start(3, true, true);
    bench.table.run_over(bench.keys[2], Ok(()));
    bench.settle().since();
    bench.table.run_over(bench.keys[0], Err("no".to_owned()));
    assert_eq!(
        bench.settle().since(),
        "0:aborting 2:aborting 2:CANCELLED 2:concluded 2:null"
    );
    // The one at work is told, and the rest goes on when it has ended.
    assert!(bench.table.wishes(bench.keys[1]).is_cancelled);
    bench.table.run_over(bench.keys[1], Ok(()));
    assert_eq!(
        bench.settle().since(),
        "1:aborting 1:CANCELLED 1:concluded 1:null 0:COMPLETED(no) 0:concluded 0:null"
    );
}

#[test]
fn a_job_that_cannot_be_prepared_aborts_those_that_were() {
    let mut bench = Bench::start(2, true, true);
    bench.table.run_over(bench.keys[0], Ok(()));
    bench.table.run_over(bench.keys[1], Ok(()));
    bench.hear();
    bench.since();
    assert_eq!(bench.steps, [(bench.keys[1], JobStep::Prepare)]);
    bench.steps.clear();
    bench.table.step_done(bench.keys[1], Ok(()));
    bench.hear();
    assert_eq!(bench.steps, [(bench.keys[0], JobStep::Prepare)]);
    bench.steps.clear();
    bench.table.step_done(bench.keys[0], Err("full".to_owned()));
    assert_eq!(
        bench.settle().since(),
        "1:aborting 1:CANCELLED 1:concluded 1:null 0:aborting 0:COMPLETED(full) 0:concluded 0:null"
    );
}

#[test]
fn names_are_checked_with_the_texts_of_qemu() {
    let mut bench = Bench::start(1, true, true);
    let new = |id: &str| NewJob {
        id: id.to_owned(),
        kind: JobType::Create,
        auto_finalize: true,
        auto_dismiss: true,
        has_ready: false,
        group: None,
    };
    let mut refusal = |id| bench.table.create(new(id)).unwrap_err().to_string();
    assert_eq!(refusal("1x"), "Invalid job ID '1x'");
    assert_eq!(refusal(""), "Invalid job ID ''");
    assert_eq!(refusal("j0"), "Job ID 'j0' already in use");
    bench.table.create(new("c")).unwrap();
    let unknown = bench.table.find_block_job("c").unwrap_err();
    assert_eq!(unknown.to_string(), "Block job 'c' not found");
    assert_eq!(unknown.kind(), ErrorKind::DeviceNotActive);
    assert_eq!(
        bench.table.find("x").unwrap_err().to_string(),
        "Job not found"
    );
}

#[test]
fn users_who_want_what_is_not_possible_hear_why() {
    let mut bench = Bench::start(1, true, true);
    let key = bench.key();
    let text = |outcome: Result<()>| outcome.unwrap_err().to_string();
    assert_eq!(
        text(bench.table.resume(key)),
        "Can't resume a job that was not paused"
    );
    bench.table.pause(key).unwrap();
    assert_eq!(text(bench.table.pause(key)), "Job is already paused");
    assert_eq!(
        text(bench.table.cancel_block_job(key, false)),
        "The block job for device 'j0' is currently paused"
    );
    assert_eq!(
        text(bench.table.finalize(key)),
        "Job 'j0' in state 'running' cannot accept command verb 'finalize'"
    );
}

#[test]
fn a_failed_request_pauses_until_a_user_resumes() {
    let mut bench = Bench::start(1, true, true);
    let key = bench.key();
    bench
        .table
        .request_failed(key, JobIo::Read, JobErrorAction::Stop);
    assert!(bench.table.reach_pause(key) && bench.table.list()[0].has_io_error);
    bench.table.resume(key).unwrap();
    assert!(!bench.table.reach_pause(key) && !bench.table.list()[0].has_io_error);
}

/// What may happen to a job at any time.
const HAPPENINGS: usize = 13;

/// Lets something happen that is possible now.
fn happen(bench: &mut Bench, what: usize, key: JobKey) {
    let Some(job) = bench.table.job(key) else {
        return;
    };
    let is_going = job.run == RunStage::Going;
    let due = bench.steps.iter().position(|(of, _)| *of == key);
    let table = &mut bench.table;
    match what {
        0 => drop(table.pause(key)),
        1 => drop(table.resume(key)),
        2 => drop(table.cancel(key, true)),
        3 => drop(table.cancel_block_job(key, false)),
        4 => drop(table.complete(key)),
        5 => drop(table.finalize(key)),
        6 => drop(table.dismiss(key)),
        7 if is_going => table.run_over(key, Ok(())),
        8 if is_going => table.run_over(key, Err("no".to_owned())),
        9 if is_going => drop(table.reach_pause(key)),
        10 if is_going && !table.wishes(key).is_pausing => table.leave_pause(key),
        11 if is_going && table.job(key).unwrap().status == JobStatus::Running => {
            table.become_ready(key);
        }
        12 => {
            if let Some(index) = due {
                let (_, step) = bench.steps.remove(index);
                let outcome = match step {
                    JobStep::Prepare if key.is_multiple_of(2) => Err("no".to_owned()),
                    _ => Ok(()),
                };
                table.step_done(key, outcome);
            }
        }
        _ => {}
    }
    bench.hear();
}

/// Brings all jobs to their end, and checks that each has had one, of one kind.
fn check_end(mut bench: Bench) {
    for key in bench.keys.clone() {
        drop(bench.table.cancel(key, true));
        bench.settle();
        if bench
            .table
            .job(key)
            .is_some_and(|job| job.run == RunStage::Going)
        {
            bench.table.run_over(key, Ok(()));
        }
        bench.settle();
    }
    for key in bench.keys.clone() {
        drop(bench.table.dismiss(key));
        for seen in [&bench.ends, &bench.released] {
            assert_eq!(seen.iter().filter(|seen| **seen == key).count(), 1);
        }
    }
    assert!(bench.table.list().is_empty() && bench.table.groups.is_empty());
}

#[test]
fn every_short_sequence_ends_each_job_once() {
    const DEPTH: u32 = 4;
    for flags in 0..4 {
        for number in 0..HAPPENINGS.pow(DEPTH) {
            let mut bench = Bench::start(1, flags & 1 != 0, flags & 2 != 0);
            let key = bench.key();
            for place in 0..DEPTH {
                let what = number / HAPPENINGS.pow(place) % HAPPENINGS;
                happen(&mut bench, what, key);
            }
            check_end(bench);
        }
    }
}

#[test]
fn random_sequences_of_transactions_end_each_job_once() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..20_000 {
        let mut bench = Bench::start(1 + random(3), random(2) == 0, random(2) == 0);
        for _ in 0..random(24) {
            let key = bench.keys[random(bench.keys.len())];
            happen(&mut bench, random(HAPPENINGS), key);
        }
        check_end(bench);
    }
}

#[test]
fn a_cancellation_after_the_point_of_no_return_changes_nothing() {
    for is_late in [true, false] {
        let mut bench = Bench::start(1, true, false);
        let key = bench.key();
        bench.table.run_over(key, Ok(()));
        bench.hear();
        assert_eq!(bench.steps, [(key, JobStep::Prepare)]);
        if !is_late {
            bench.table.cancel(key, true).unwrap();
        }
        assert_eq!(bench.table.begin_final(key), is_late);
        bench.table.cancel(key, true).unwrap();
        bench.settle();
        let heard = bench.since();
        let ends = ["COMPLETED", "CANCELLED"].map(|word| heard.contains(word));
        assert_eq!(ends, [is_late, !is_late], "{heard}");
    }
}
