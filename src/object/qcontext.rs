//! The context as an object.
#![forbid(unsafe_code)]

use super::{Object, Options, Property, Value, expected, not_found, not_writable};
use crate::{PollParams, QContext, Result};

/// The type's name.
pub(super) const TYPE: &str = "qcontext";

/// The properties that `qom-set` changes, in listing order.
const POLLING: [&str; 3] = ["poll-max-ns", "poll-grow", "poll-shrink"];

/// What `-object qcontext` takes besides `id`.
pub(super) const OPTIONS: [(&str, &str); 4] = [
    ("poll-grow", "int"),
    ("poll-max-ns", "int"),
    ("poll-shrink", "int"),
    ("threaded", "bool"),
];

/// What `qom-list` shows; `thread-id` is answered as well, but not listed.
pub(super) fn properties() -> Vec<Property> {
    let fixed = [
        ("type", "string"),
        ("id", "string"),
        ("threaded", "bool"),
        ("thread_id", "int"),
    ];
    let polling = POLLING.map(|name| (name, "int"));
    let all = fixed.into_iter().chain(polling);
    all.map(|(name, type_name)| Property::new(name, type_name))
        .collect()
}

/// Creates `/objects/<id>` from what is left of `options`; it lasts until it is deleted.
pub(super) fn create(id: &str, mut options: Options) -> Result<()> {
    let threaded = options.take_bool("threaded")?.unwrap_or(false);
    let mut polling = Vec::new();
    for name in POLLING {
        polling.extend(options.take_int(name)?.map(|value| (name, value)));
    }
    options.finish()?;
    let context = QContext::new(id, threaded)?;
    let mut params = context.poll_params();
    for (name, value) in polling {
        *parameter(&mut params, name) = value;
    }
    // A refused value ends the context with its only handle.
    context.set_poll_params(params)?;
    context.keep();
    Ok(())
}

fn parameter<'a>(params: &'a mut PollParams, name: &str) -> &'a mut i64 {
    match name {
        "poll-grow" => &mut params.grow,
        "poll-shrink" => &mut params.shrink,
        _ => &mut params.max_ns,
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
            _ if POLLING.contains(&name) => (*parameter(&mut self.poll_params(), name)).into(),
            _ => return Err(not_found(TYPE, name)),
        })
    }

    fn set(&self, name: &str, value: Value) -> Result<()> {
        if !POLLING.contains(&name) {
            self.get(name)?;
            return Err(not_writable(TYPE, name));
        }
        let Value::Int(number) = value else {
            return Err(expected(name, "integer"));
        };
        let mut params = self.poll_params();
        *parameter(&mut params, name) = number;
        self.set_poll_params(params)
    }
}
