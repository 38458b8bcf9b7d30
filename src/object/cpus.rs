//! CPUs as the value of a property: a list of numbers.
#![forbid(unsafe_code)]

use super::{Value, expected};
use crate::Result;
pub(crate) use crate::context::AFFINITY;

/// The property's type.
pub(crate) const AFFINITY_TYPE: &str = "int[]";

/// The value that lists these CPUs.
pub(crate) fn cpu_list(cpus: Vec<usize>) -> Value {
    let number = |cpu: usize| Value::from(i64::try_from(cpu).unwrap_or(i64::MAX));
    cpus.into_iter().map(number).collect()
}

/// The CPUs that a value lists.
///
/// # Errors
/// The value is no list of CPU numbers.
pub(crate) fn cpus_of(value: &Value) -> Result<Vec<usize>> {
    let wrong = || expected(AFFINITY, "array of CPU numbers");
    let Value::List(items) = value else {
        return Err(wrong());
    };
    let number = |item: &Value| match item {
        Value::Int(number) => usize::try_from(*number).map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    items.iter().map(number).collect()
}
