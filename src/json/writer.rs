//! Writes a value as text: ASCII only, in key order, with QEMU's spacing.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::value::Value;

/// Appends the text of `value` to `out`.
pub(super) fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => display(value, out),
        Value::Int(value) => display(value, out),
        Value::Uint(value) => display(value, out),
        Value::Double(value) if value.is_finite() => display(&format_args!("{value:?}"), out),
        Value::Double(_) => out.push_str("null"),
        Value::Str(value) => text(value, out),
        Value::List(items) => sequence('[', items, ']', out, write),
        Value::Dict(entries) => sequence('{', entries, '}', out, |(key, member), out| {
            text(key, out);
            out.push_str(": ");
            write(member, out);
        }),
    }
}

/// Appends the text of `value` to `out`, one member or element in a line. `depth` is that of the line in which it begins.
pub(super) fn write_pretty(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::List(items) if !items.is_empty() => {
            lines('[', items, ']', depth, out, |item, out| {
                write_pretty(item, depth + 1, out);
            });
        }
        Value::Dict(entries) if !entries.is_empty() => {
            lines('{', entries, '}', depth, out, |(key, member), out| {
                text(key, out);
                out.push_str(": ");
                write_pretty(member, depth + 1, out);
            });
        }
        _ => write(value, out),
    }
}

fn lines<T>(
    open: char,
    items: &[T],
    close: char,
    depth: usize,
    out: &mut String,
    item: impl Fn(&T, &mut String),
) {
    out.push(open);
    for (index, element) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        begin_line(depth + 1, out);
        item(element, out);
    }
    begin_line(depth, out);
    out.push(close);
}

fn begin_line(depth: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n("    ", depth));
}

fn sequence<T>(
    open: char,
    items: &[T],
    close: char,
    out: &mut String,
    item: impl Fn(&T, &mut String),
) {
    out.push(open);
    for (index, element) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        item(element, out);
    }
    out.push(close);
}

fn text(value: &str, out: &mut String) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            _ => escape(character, out),
        }
    }
    out.push('"');
}

fn escape(character: char, out: &mut String) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        display(&format_args!("\\u{unit:04X}"), out);
    }
}

fn display(value: &dyn std::fmt::Display, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}
