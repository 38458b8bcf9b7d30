//! Lists of numbers in the forms of options.
//!
//! With flags, `cpus=0-2,cpus=5` is the list 0, 1, 2, 5, as QEMU reads lists there. In either text `cpus.0=0,cpus.1=5` is one.
#![forbid(unsafe_code)]

use super::{Form, Options, Value, number};
use crate::object::expected;
use crate::{Error, ErrorKind, Result};
use std::ops::RangeInclusive;

/// The most numbers that a range may stand for. It is QEMU's.
const RANGE_MAX: u64 = 1 << 16;

/// A list that is this long gets no further range.
const NUMBERS_MAX: usize = 1 << 16;

impl Options {
    /// Takes a list of numbers that are not negative.
    ///
    /// # Errors
    /// The value is not such a list.
    pub fn take_numbers(&mut self, name: &str) -> Result<Option<Vec<u64>>> {
        if self.form == Form::Json {
            let items = self.take(name);
            return items
                .map(|items| json_numbers(&self.full(name), &items))
                .transpose();
        }
        let mut texts = self.take_elements(name)?;
        if self.form == Form::Opts {
            texts.extend(self.take_repeated(name));
        } else if self.remaining().any(|key| key == name) {
            return Err(expected(&self.full(name), "array"));
        }
        let mut numbers = Vec::new();
        for text in &texts {
            let range = text.as_str().and_then(range);
            let range = range.filter(|_| numbers.len() < NUMBERS_MAX);
            numbers.extend(range.ok_or_else(|| self.bad(name, "a uint64 value or range"))?);
        }
        Ok((!texts.is_empty()).then_some(numbers))
    }

    /// All values of a name that was repeated.
    fn take_repeated(&mut self, name: &str) -> Vec<Value> {
        let is_earlier = |(key, _): &mut (String, Value)| key == name;
        let earlier = self.repeated.extract_if(.., is_earlier);
        let mut values: Vec<Value> = earlier.map(|(_, value)| value).collect();
        values.extend(self.take(name));
        values
    }

    /// The values of `name.0`, `name.1` and so on.
    fn take_elements(&mut self, name: &str) -> Result<Vec<Value>> {
        let mut group = self.take_group(name)?;
        let numbers = 0..group.entries.len();
        numbers
            .map(|index| group.need(&index.to_string()))
            .collect()
    }
}

/// The numbers of a JSON list.
fn json_numbers(name: &str, items: &Value) -> Result<Vec<u64>> {
    let Value::List(items) = items else {
        return Err(expected(name, "array"));
    };
    let number = |(index, item): (usize, &Value)| {
        let number = match item {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::Uint(number) => Some(*number),
            _ => return Err(expected(&format!("{name}[{index}]"), "integer")),
        };
        number.ok_or_else(|| {
            let message = format!("Parameter '{name}[{index}]' expects uint64");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    };
    items.iter().enumerate().map(number).collect()
}

/// `3` or `0-3`.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number::unsigned(first)?, number::unsigned(last)?);
    let length = last.checked_sub(first)?;
    (length < RANGE_MAX).then_some(first..=last)
}
