//! The context as an object.
#![forbid(unsafe_code)]

use super::cpus::{AFFINITY, AFFINITY_TYPE, cpu_list, cpus_of};
use super::{Object, Options, Property, Value, expected, not_found, not_writable, options};
use crate::context::{DEFAULT_POLLING, NICE, SCHED_POLICY};
use crate::{
    Error, ErrorKind, PollParams, Poller, PoolLimits, QContext, QContextBuilder, Result,
    SchedPolicy,
};
use std::sync::Arc;

/// The type's name.
pub(super) const TYPE: &str = "qcontext";

/// The type that has a thread always.
pub(super) const IOTHREAD: &str = "iothread";

/// The numbers that `qom-set` changes, in listing order.
const TUNING: [&str; 5] = [
    "poll-max-ns",
    "poll-grow",
    "poll-shrink",
    "thread-pool-min",
    "thread-pool-max",
];

/// The options of `-object qcontext` besides `id`.
pub(super) const OPTIONS: [(&str, &str); 10] = [
    (AFFINITY, AFFINITY_TYPE),
    (NICE, "int"),
    ("poll-grow", "int"),
    ("poll-max-ns", "int"),
    ("poll-shrink", "int"),
    ("poller", "auto|epoll|io_uring|poll"),
    (SCHED_POLICY, "string"),
    ("thread-pool-max", "int"),
    ("thread-pool-min", "int"),
    ("threaded", "bool"),
];

/// The options of `-object iothread` besides `id`: QEMU's, and how the kernel runs the thread.
pub(super) const IOTHREAD_OPTIONS: [(&str, &str); 9] = [
    ("aio-max-batch", "int"),
    (AFFINITY, AFFINITY_TYPE),
    (NICE, "int"),
    ("poll-grow", "int"),
    ("poll-max-ns", "int"),
    ("poll-shrink", "int"),
    (SCHED_POLICY, "string"),
    ("thread-pool-max", "int"),
    ("thread-pool-min", "int"),
];

/// The properties that `qom-list` shows. `thread-id` can be read too, but is not listed.
pub(super) fn properties() -> Vec<Property> {
    let fixed = [
        ("type", "string"),
        ("id", "string"),
        ("threaded", "bool"),
        ("thread_id", "int"),
        ("poller", "string"),
    ];
    let tuning = TUNING.map(|name| (name, "int"));
    let all = fixed.into_iter().chain(tuning);
    let all = all.chain([
        (AFFINITY, AFFINITY_TYPE),
        (NICE, "int"),
        (SCHED_POLICY, "string"),
    ]);
    all.map(|(name, type_name)| Property::new(name, type_name))
        .collect()
}

/// Creates `/objects/<id>` from the remaining options. It lasts until it is deleted.
pub(super) fn create(id: &str, options: Options) -> Result<Arc<dyn Object>> {
    let (threaded, options) = take_threaded(options)?;
    Ok(Arc::new(make(id, threaded, options)?))
}

/// Creates a context with a thread.
pub(super) fn create_iothread(id: &str, mut options: Options) -> Result<Arc<dyn Object>> {
    if options.take_int("aio-max-batch")?.unwrap_or(0) != 0 {
        let message = format!(
            "object '{id}': aio-max-batch is not supported: the batch is what an iteration submits"
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(Arc::new(make(id, true, options)?))
}

impl QContext {
    /// Creates the context that `-object` would create from these options. It lasts until [`QContext::delete`], also without a
    /// handle.
    ///
    /// # Errors
    /// Another `qom-type` than `qcontext`, an unknown option, a bad or taken id, or as for [`QContext::new`].
    ///
    /// ```
    /// use qcontext::{QContext, object::options};
    /// let options = options::parse(Some("qom-type"), "qcontext,id=ctx1,threaded=on,poll-max-ns=0")?;
    /// let ctx = QContext::from_options(options)?;
    /// assert_eq!((ctx.id(), ctx.is_threaded()), ("ctx1", true));
    /// QContext::delete("ctx1")?;
    /// # Ok::<(), qcontext::Error>(())
    /// ```
    pub fn from_options(mut options: Options) -> Result<QContext> {
        let name = options.need_str("qom-type")?;
        if name != TYPE {
            return Err(options::unknown_type(&name));
        }
        let id = options.need_id()?;
        let (threaded, options) = take_threaded(options)?;
        make(&id, threaded, options)
    }
}

fn take_threaded(mut options: Options) -> Result<(bool, Options)> {
    let threaded = options.take_bool("threaded")?.unwrap_or(false);
    Ok((threaded, options))
}

fn make(id: &str, threaded: bool, mut options: Options) -> Result<QContext> {
    let poller = take_poller(id, &mut options)?;
    let mut tuning = Tuning {
        polling: DEFAULT_POLLING,
        pool: PoolLimits::default(),
    };
    for name in TUNING {
        if let Some(value) = options.take_int(name)? {
            *tuning.parameter(name) = value;
        }
    }
    let builder = take_thread(id, &mut options)?;
    options.finish()?;
    builder
        .threaded(threaded)
        .poller(poller)
        .poll_params(tuning.polling)
        .pool_limits(tuning.pool)
        .kept(true)
        .build()
}

/// Settings of a context with what the options say of its thread.
fn take_thread(id: &str, options: &mut Options) -> Result<QContextBuilder> {
    let mut builder = QContext::builder(id);
    if let Some(cpus) = options.take_numbers(AFFINITY)? {
        let cpu = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        builder = builder.cpu_affinity(cpus.into_iter().map(cpu));
    }
    if let Some(nice) = options.take_int(NICE)? {
        builder = builder.nice(nice);
    }
    match options.take_str(SCHED_POLICY)? {
        Some(text) => Ok(builder.sched_policy(policy(id, &text)?)),
        None => Ok(builder),
    }
}

/// The scheduling policy of that name.
fn policy(id: &str, text: &str) -> Result<SchedPolicy> {
    text.parse().map_err(|error: Error| {
        let message = format!("{SCHED_POLICY} of context '{id}': {error}");
        Error::new(error.kind(), message)
    })
}

/// The poller that the options name. `auto` is the default one.
fn take_poller(id: &str, options: &mut Options) -> Result<Poller> {
    let Some(name) = options.take_str("poller")? else {
        return Ok(Poller::default());
    };
    if name == "auto" {
        return Ok(Poller::default());
    }
    name.parse().map_err(|_| {
        let expects = "'auto', 'epoll', 'io_uring' or 'poll'";
        let message =
            format!("Parameter 'poller' of object '{id}' expects {expects}, not '{name}'");
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

/// A context's numbers, by the names of their properties.
struct Tuning {
    polling: PollParams,
    pool: PoolLimits,
}

impl Tuning {
    fn of(context: &QContext) -> Tuning {
        Tuning {
            polling: context.poll_params(),
            pool: context.pool_limits(),
        }
    }

    fn parameter(&mut self, name: &str) -> &mut i64 {
        match name {
            "poll-grow" => &mut self.polling.grow,
            "poll-shrink" => &mut self.polling.shrink,
            "thread-pool-min" => &mut self.pool.min,
            "thread-pool-max" => &mut self.pool.max,
            _ => &mut self.polling.max_ns,
        }
    }
}

impl Object for QContext {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn properties(&self) -> Vec<Property> {
        properties()
    }

    fn get(&self, name: &str) -> Result<Value> {
        Ok(match name {
            "type" => TYPE.into(),
            "id" => self.id().into(),
            "threaded" => self.is_threaded().into(),
            "thread_id" | "thread-id" => self.thread_id().into(),
            "poller" => self.poller().name().into(),
            AFFINITY => cpu_list(self.cpu_affinity()?),
            NICE => self.nice()?.into(),
            SCHED_POLICY => self.sched_policy()?.to_string().into(),
            _ if TUNING.contains(&name) => (*Tuning::of(self).parameter(name)).into(),
            _ => return Err(not_found(TYPE, name)),
        })
    }

    fn set(&self, name: &str, value: Value) -> Result<()> {
        match (name, &value) {
            (AFFINITY, _) => return self.set_cpu_affinity(&cpus_of(&value)?),
            (NICE, Value::Int(nice)) => return self.set_nice(*nice),
            (NICE, _) => return Err(expected(name, "integer")),
            (SCHED_POLICY, Value::Str(text)) => {
                return self.set_sched_policy(policy(self.id(), text)?);
            }
            (SCHED_POLICY, _) => return Err(expected(name, "string")),
            _ => {}
        }
        if !TUNING.contains(&name) {
            self.get(name)?;
            return Err(not_writable(TYPE, name));
        }
        let Value::Int(number) = value else {
            return Err(expected(name, "integer"));
        };
        let mut tuning = Tuning::of(self);
        *tuning.parameter(name) = number;
        if name.starts_with("poll-") {
            self.set_poll_params(tuning.polling)
        } else {
            self.set_pool_limits(tuning.pool)
        }
    }
}
