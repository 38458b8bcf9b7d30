//! The options of `blkdebug`, with QEMU's names, values and texts.
#![forbid(unsafe_code)]

use super::rules::{Event, InjectedError, IoType, Rule, Rules, StateChange, Trigger};
use crate::block::permission::{Access, Permissions};
use crate::object::{Options, Value};
use crate::{Error, ErrorKind, Result};

const EVENTS: [(&str, Event); 8] = [
    ("none", Event::None),
    ("read_aio", Event::ReadAio),
    ("write_aio", Event::WriteAio),
    ("pwritev", Event::Pwritev),
    ("pwritev_zero", Event::PwritevZero),
    ("pwritev_done", Event::PwritevDone),
    ("flush_to_os", Event::FlushToOs),
    ("flush_to_disk", Event::FlushToDisk),
];

const IO_TYPES: [(&str, IoType); 6] = [
    ("read", IoType::Read),
    ("write", IoType::Write),
    ("write-zeroes", IoType::WriteZeroes),
    ("discard", IoType::Discard),
    ("flush", IoType::Flush),
    ("block-status", IoType::BlockStatus),
];

const PERMISSIONS: [(&str, Permissions); 4] = [
    ("consistent-read", Permissions::CONSISTENT_READ),
    ("write", Permissions::WRITE),
    ("write-unchanged", Permissions::WRITE_UNCHANGED),
    ("resize", Permissions::RESIZE),
];

/// The most entries of a list.
const ENTRIES_MAX: usize = 1024;

/// What the options say.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) rules: Rules,
    /// 0 if there is none.
    pub(super) align: u64,
    /// What the node does with its child by itself.
    pub(super) access: Access,
}

/// Takes all options but the child.
pub(super) fn take(keys: &mut Options) -> Result<Taken> {
    let failures = take_list(keys, "inject-error", |entry| {
        let effect = InjectedError {
            errno: take_errno(entry)?,
            is_immediate: entry.take_bool("immediately")?.unwrap_or(false),
        };
        take_rule(entry, effect)
    })?;
    let delays = take_list(keys, "x-inject-delay", |entry| {
        let range = 0..=i64::MAX.cast_unsigned();
        let delay = entry.take_uint("ns", range)?;
        let delay = delay.ok_or_else(|| missing(entry, "ns"))?;
        take_rule(entry, delay.cast_signed())
    })?;
    let transitions = take_list(keys, "set-state", |entry| {
        let trigger = take_trigger(entry)?;
        let new_state = entry.take_int("new_state")?;
        let new_state = new_state.ok_or_else(|| missing(entry, "new_state"))?;
        Ok(StateChange { trigger, new_state })
    })?;
    let shares = Permissions::ALL.without(take_permissions(keys, "unshare-child-perms")?);
    Ok(Taken {
        rules: Rules::new(failures, delays, transitions),
        align: take_align(keys)?,
        access: Access {
            needs: take_permissions(keys, "take-child-perms")?,
            shares,
        },
    })
}

/// Takes the entries `name.0`, `name.1` and so on.
fn take_list<T>(
    keys: &mut Options,
    name: &str,
    take: impl Fn(&mut Options) -> Result<T>,
) -> Result<Vec<T>> {
    let mut list = keys.take_group(name)?;
    let mut taken = Vec::new();
    while taken.len() < ENTRIES_MAX {
        let mut entry = list.take_group(&taken.len().to_string())?;
        if entry.is_empty() {
            break;
        }
        taken.push(take(&mut entry)?);
        entry.finish()?;
    }
    list.finish()?;
    Ok(taken)
}

fn take_rule<T>(entry: &mut Options, effect: T) -> Result<Rule<T>> {
    let sectors = 0..=i64::MAX.cast_unsigned();
    // -1 is QEMU's default, which may be written out.
    let is_default = entry.peek_value("sector") == Some(&Value::Int(-1));
    let sector = match is_default {
        true => entry.take("sector").and(None),
        false => entry.take_uint("sector", sectors)?,
    };
    Ok(Rule {
        trigger: take_trigger(entry)?,
        io_type: take_name(entry, "iotype", &IO_TYPES)?,
        sector,
        once: entry.take_bool("once")?.unwrap_or(false),
        effect,
    })
}

fn take_trigger(entry: &mut Options) -> Result<Trigger> {
    let event = take_name(entry, "event", &EVENTS)?;
    Ok(Trigger {
        event: event.ok_or_else(|| missing(entry, "event"))?,
        state: entry.take_int("state")?.unwrap_or(0),
    })
}

fn take_errno(entry: &mut Options) -> Result<i32> {
    let errno = entry.take_uint("errno", 1..=4095)?;
    let errno = errno.and_then(|errno| i32::try_from(errno).ok());
    Ok(errno.unwrap_or(libc::EIO))
}

fn take_align(keys: &mut Options) -> Result<u64> {
    let align = keys.take_size("align")?.unwrap_or(0);
    if align != 0 && (align > u64::from(i32::MAX.unsigned_abs()) || !align.is_power_of_two()) {
        let message = format!("Cannot meet constraints with align {align}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(align)
}

fn take_permissions(keys: &mut Options, name: &str) -> Result<Permissions> {
    let mut list = keys.take_group(name)?;
    let mut sum = Permissions::NONE;
    for index in 0..PERMISSIONS.len() {
        let one = take_name(&mut list, &index.to_string(), &PERMISSIONS)?;
        sum = sum.and(one.unwrap_or(Permissions::NONE));
    }
    list.finish()?;
    Ok(sum)
}

/// Takes one of the names of `table`.
fn take_name<T: Copy>(entry: &mut Options, key: &str, table: &[(&str, T)]) -> Result<Option<T>> {
    let Some(name) = entry.take_str(key)? else {
        return Ok(None);
    };
    let found = table.iter().find(|(known, _)| *known == name);
    let known = || {
        let names: Vec<_> = table.iter().map(|(known, _)| *known).collect();
        format!("one of {}, not '{name}'", names.join(", "))
    };
    found
        .map(|(_, value)| Some(*value))
        .ok_or_else(|| entry.bad(key, &known()))
}

fn missing(entry: &Options, key: &str) -> Error {
    let message = format!("Parameter '{}' is missing", entry.full(key));
    Error::new(ErrorKind::MissingArgument, message)
}
