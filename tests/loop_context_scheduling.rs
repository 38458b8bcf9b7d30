//! How the kernel runs a context's thread: what is set is what the kernel has, and a refusal changes nothing.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a test fails by panicking

use qcontext::object::{Object, Value, options};
use qcontext::{ErrorKind, QContext, SchedPolicy};
use std::fs;
use support::capability::without_sys_nice;
use support::deadline::deadline;
use support::skip::skip;

/// The CPUs of the calling thread, as the kernel lists them.
fn own_cpus() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

/// The CPUs that this process may use.
fn usable() -> Vec<usize> {
    QContext::new("usable", true)
        .unwrap()
        .cpu_affinity()
        .unwrap()
}

const NONE: [usize; 0] = [];

/// A number that no kernel gives to a CPU.
const NOWHERE: usize = 60_000;

fn refused(place: &str) -> String {
    format!(
        "cpu-affinity of context '{place}': not all of the CPUs [{NOWHERE}] are there for this process"
    )
}

#[test]
fn a_context_runs_on_the_cpus_of_its_builder_from_the_start() {
    let _deadline = deadline("a_context_runs_on_the_cpus_of_its_builder_from_the_start");
    for cpu in usable() {
        let builder = QContext::builder("pinned")
            .threaded(true)
            .cpu_affinity([cpu]);
        let context = builder.build().unwrap();
        assert_eq!(context.cpu_affinity().unwrap(), [cpu]);
        assert_eq!(context.invoke_sync(own_cpus).unwrap(), cpu.to_string());
    }
}

#[test]
fn cpus_change_while_the_context_runs_and_a_refusal_changes_nothing() {
    let _deadline = deadline("cpus_change_while_the_context_runs_and_a_refusal_changes_nothing");
    let context = QContext::new("moved", true).unwrap();
    let all = context.cpu_affinity().unwrap();
    let last = *all.last().unwrap();
    context.set_cpu_affinity(&[last, last]).unwrap();
    assert_eq!(context.invoke_sync(own_cpus).unwrap(), last.to_string());
    for wrong in [&[][..], &[NOWHERE], &[last, NOWHERE], &[usize::MAX]] {
        let error = context.set_cpu_affinity(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("cpu-affinity of context 'moved': "),
            "{error}"
        );
        assert_eq!(context.cpu_affinity().unwrap(), [last], "after {wrong:?}");
    }
    assert_eq!(
        context
            .set_cpu_affinity(&[NOWHERE])
            .unwrap_err()
            .to_string(),
        refused("moved")
    );
    context.set_cpu_affinity(&all).unwrap();
    assert_eq!(context.cpu_affinity().unwrap(), all);
}

#[test]
fn a_refused_setting_leaves_neither_name_nor_thread() {
    let _deadline = deadline("a_refused_setting_leaves_neither_name_nor_thread");
    let wrong = || QContext::builder("nowhere").threaded(true).kept(true);
    let error = wrong().cpu_affinity([NOWHERE]).build().unwrap_err();
    assert_eq!(error.to_string(), refused("nowhere"));
    let empty = wrong().cpu_affinity([]).build().unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::InvalidArgument);
    assert!(QContext::find("nowhere").is_err());
    QContext::new("nowhere", true).unwrap();
}

#[test]
fn a_context_without_a_running_thread_of_its_own_has_none_to_set() {
    let needs = |id: &str| {
        format!(
            "cpu-affinity of context '{id}' expects a thread of the context's own (threaded=on)"
        )
    };
    let unmade = QContext::builder("idle")
        .cpu_affinity([0])
        .build()
        .unwrap_err();
    assert_eq!(
        (unmade.kind(), unmade.to_string()),
        (ErrorKind::InvalidArgument, needs("idle"))
    );
    let idle = QContext::new("idle", false).unwrap();
    assert_eq!(idle.cpu_affinity().unwrap(), NONE);
    let main = QContext::main();
    assert!(
        !main.cpu_affinity().unwrap().is_empty(),
        "that of the main thread"
    );
    for context in [idle, main] {
        let error = context.set_cpu_affinity(&[0]).unwrap_err();
        assert_eq!(error.to_string(), needs(context.id()));
    }
    let ended = QContext::new("ended", true).unwrap();
    ended.stop().unwrap();
    assert_eq!(ended.cpu_affinity().unwrap(), NONE);
    assert_eq!(
        ended.set_cpu_affinity(&[0]).unwrap_err().kind(),
        ErrorKind::Closed
    );
}

#[test]
fn workers_run_on_the_cpus_of_the_context_that_starts_them() {
    let _deadline = deadline("workers_run_on_the_cpus_of_the_context_that_starts_them");
    let cpu = *usable().last().unwrap();
    let context = QContext::builder("employer")
        .threaded(true)
        .cpu_affinity([cpu])
        .build()
        .unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let aio = context.aio().unwrap();
    context
        .invoke(move || {
            aio.submit(own_cpus, move |cpus| sender.send(cpus).unwrap());
        })
        .unwrap();
    assert_eq!(receiver.recv().unwrap().unwrap(), cpu.to_string());
}

#[test]
fn options_and_properties_have_the_same_cpus() {
    let _deadline = deadline("options_and_properties_have_the_same_cpus");
    let all = usable();
    let repeated: String = all
        .iter()
        .map(|cpu| format!(",cpu-affinity={cpu}"))
        .collect();
    let text = format!("qcontext,id=listed,threaded=on{repeated}");
    let context = QContext::from_options(options::parse(Some("qom-type"), &text).unwrap()).unwrap();
    let value = |cpus: &[usize]| {
        Value::List(
            cpus.iter()
                .map(|cpu| Value::Int(i64::try_from(*cpu).unwrap()))
                .collect(),
        )
    };
    assert_eq!(context.get("cpu-affinity").unwrap(), value(&all));
    context.set("cpu-affinity", value(&all[..1])).unwrap();
    assert_eq!(context.cpu_affinity().unwrap(), all[..1]);
    for wrong in [
        Value::Int(0),
        "0-1".into(),
        Value::List(vec!["0".into()]),
        Value::List(vec![Value::Int(-1)]),
    ] {
        let error = context.set("cpu-affinity", wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Invalid parameter type for 'cpu-affinity', expected: array of CPU numbers"
        );
    }
    QContext::delete("listed").unwrap();
}

/// What the kernel says of the context's thread: its nice value, real-time priority and policy (proc(5), stat).
fn scheduling(context: &QContext) -> [String; 3] {
    let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", context.thread_id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    [fields[16], fields[37], fields[38]].map(str::to_owned)
}

#[test]
fn a_context_may_be_made_less_important_without_privileges() {
    let _deadline = deadline("a_context_may_be_made_less_important_without_privileges");
    without_sys_nice(|| {
        let builder = QContext::builder("humble").threaded(true).nice(3);
        let context = builder.sched_policy(SchedPolicy::Batch).build().unwrap();
        assert_eq!(scheduling(&context), ["3", "0", "3"]);
        assert_eq!(
            (context.nice().unwrap(), context.sched_policy().unwrap()),
            (3, SchedPolicy::Batch)
        );
        context.set("nice", Value::Int(5)).unwrap();
        context.set("sched-policy", "idle".into()).unwrap();
        assert_eq!(scheduling(&context), ["5", "0", "5"]);
        assert_eq!(context.get("nice").unwrap(), Value::Int(5));
        assert_eq!(context.get("sched-policy").unwrap(), "idle".into());
    });
}

#[test]
fn a_refusal_names_the_privilege_and_changes_nothing() {
    let _deadline = deadline("a_refusal_names_the_privilege_and_changes_nothing");
    without_sys_nice(|| {
        let context = QContext::new("ambitious", true).unwrap();
        let before = scheduling(&context);
        let refused = (
            context.set_nice(-5),
            context.set_sched_policy(SchedPolicy::Fifo(7)),
        );
        let (Err(nice), Err(fifo)) = refused else {
            return skip("the limits of this process allow it");
        };
        for (error, begin) in [
            (
                nice,
                "nice of context 'ambitious': -5 needs the capability CAP_SYS_NICE, or the limit RLIMIT_NICE at 25, which is ",
            ),
            (
                fifo,
                "sched-policy of context 'ambitious': fifo:7 needs the capability CAP_SYS_NICE, or the limit RLIMIT_RTPRIO at 7, which is ",
            ),
        ] {
            assert_eq!(error.kind(), ErrorKind::Os);
            assert!(error.to_string().starts_with(begin), "{error}");
        }
        assert_eq!(scheduling(&context), before);
        let resting = QContext::new("resting", true).unwrap();
        resting.set_sched_policy(SchedPolicy::Idle).unwrap();
        let awake = resting.set_sched_policy(SchedPolicy::Other).unwrap_err();
        let begin = "sched-policy of context 'resting': other needs the capability CAP_SYS_NICE, or the limit RLIMIT_NICE at 20, which is ";
        assert!(awake.to_string().starts_with(begin), "{awake}");
        let unmade = QContext::builder("unmade").threaded(true).nice(-5).build();
        assert!(unmade.is_err() && QContext::find("unmade").is_err());
    });
}

#[test]
fn a_privileged_process_makes_a_context_real_time() {
    let _deadline = deadline("a_privileged_process_makes_a_context_real_time");
    let builder = QContext::builder("urgent").threaded(true).nice(-1);
    let context = match builder.build() {
        Ok(context) => context,
        Err(error) => return skip(error),
    };
    assert_eq!(scheduling(&context), ["-1", "0", "0"]);
    for policy in [SchedPolicy::Fifo(2), SchedPolicy::Rr(1)] {
        if let Err(error) = context.set_sched_policy(policy) {
            return skip(error);
        }
        assert_eq!(context.sched_policy().unwrap(), policy);
    }
    assert_eq!(scheduling(&context), ["-1", "1", "2"]);
    context.set_sched_policy(SchedPolicy::Other).unwrap();
    assert_eq!(scheduling(&context)[1..], ["0", "0"]);
    for wrong in [SchedPolicy::Fifo(0), SchedPolicy::Rr(100)] {
        let error = context.set_sched_policy(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(
        context.set_nice(20).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
}
