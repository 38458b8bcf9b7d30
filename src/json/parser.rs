//! From the tokens of one value to the value, with an explicit stack instead of recursion.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::error::{quote, syntax};
use super::lexer::Kind;
use super::text;
use crate::Result;
use crate::value::{Dict, Value};

/// One token: its text ends at `end`, and begins where the one before it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    kind: Kind,
    end: u32,
}

impl Token {
    /// A token whose text ends at `end`, which the byte limit keeps far below 4 GiB.
    pub(super) fn new(kind: Kind, end: usize) -> Self {
        Token {
            kind,
            end: u32::try_from(end).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn end(self) -> usize {
        self.end as usize
    }
}

/// An object or array whose end has not come yet.
enum Open {
    List(Vec<Value>),
    Dict(Dict, String),
}

pub(super) struct Parser<'a> {
    text: &'a [u8],
    tokens: std::slice::Iter<'a, Token>,
    at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a [u8], tokens: &'a [Token]) -> Self {
        Parser {
            text,
            tokens: tokens.iter(),
            at: 0,
        }
    }

    /// The value that the tokens make; they end with it, because the framer stopped there.
    pub(super) fn parse(mut self) -> Result<Value> {
        let mut stack = Vec::new();
        loop {
            let (kind, bytes) = self.next()?;
            let value = match kind {
                Kind::LeftCurly if self.skip(Kind::RightCurly) => Value::Dict(Vec::new()),
                Kind::LeftSquare if self.skip(Kind::RightSquare) => Value::List(Vec::new()),
                Kind::LeftCurly => {
                    stack.push(Open::Dict(Vec::new(), self.key()?));
                    continue;
                }
                Kind::LeftSquare => {
                    stack.push(Open::List(Vec::new()));
                    continue;
                }
                _ => scalar(kind, bytes)?,
            };
            if let Some(whole) = self.place(value, &mut stack)? {
                return Ok(whole);
            }
        }
    }

    /// Puts a finished value where it belongs and closes what ends with it; the whole value when nothing is open.
    fn place(&mut self, mut value: Value, stack: &mut Vec<Open>) -> Result<Option<Value>> {
        loop {
            value = match stack.pop() {
                None => return Ok(Some(value)),
                Some(Open::List(mut items)) => {
                    items.push(value);
                    match self.next()?.0 {
                        Kind::RightSquare => Value::List(items),
                        Kind::Comma => {
                            stack.push(Open::List(items));
                            return Ok(None);
                        }
                        _ => return Err(syntax("expected separator in list")),
                    }
                }
                Some(Open::Dict(mut entries, key)) => {
                    entries.push((key, value));
                    match self.next()?.0 {
                        Kind::RightCurly => Value::Dict(distinct(entries)?),
                        Kind::Comma => {
                            stack.push(Open::Dict(entries, self.key()?));
                            return Ok(None);
                        }
                        _ => return Err(syntax("expected separator in dict")),
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Kind, &'a [u8])> {
        let token = self.tokens.next().ok_or_else(|| syntax("premature EOI"))?;
        let bytes = &self.text[self.at..token.end()];
        self.at = token.end();
        Ok((token.kind, bytes))
    }

    fn skip(&mut self, kind: Kind) -> bool {
        let found = self
            .tokens
            .as_slice()
            .first()
            .is_some_and(|token| token.kind == kind);
        found && self.next().is_ok()
    }

    fn key(&mut self) -> Result<String> {
        let (kind, bytes) = self.next()?;
        let key = match kind {
            Kind::Text => text::decode(bytes)?,
            Kind::LeftCurly | Kind::LeftSquare => {
                return Err(syntax("key is not a string in object"));
            }
            _ => {
                scalar(kind, bytes)?;
                return Err(syntax("key is not a string in object"));
            }
        };
        match self.next()?.0 {
            Kind::Colon => Ok(key),
            _ => Err(syntax("missing : in object pair")),
        }
    }
}

fn scalar(kind: Kind, bytes: &[u8]) -> Result<Value> {
    match kind {
        Kind::Text => text::decode(bytes).map(Value::Str),
        Kind::Integer | Kind::Float => number(kind, bytes),
        Kind::Keyword => match bytes {
            b"true" => Ok(Value::Bool(true)),
            b"false" => Ok(Value::Bool(false)),
            b"null" => Ok(Value::Null),
            _ => Err(syntax(format_args!("invalid keyword '{}'", quote(bytes)))),
        },
        _ => Err(syntax("expecting value")),
    }
}

/// Integers that fit stay integers, others become doubles; what no double can hold is refused.
fn number(kind: Kind, bytes: &[u8]) -> Result<Value> {
    let digits = String::from_utf8_lossy(bytes);
    if kind == Kind::Integer {
        if let Ok(value) = digits.parse::<i64>() {
            return Ok(Value::Int(value));
        }
        if let Ok(value) = digits.parse::<u64>() {
            return Ok(Value::Uint(value));
        }
    }
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Value::Double(value)),
        _ => Err(syntax(format_args!(
            "number '{}' is out of range",
            quote(bytes)
        ))),
    }
}

fn distinct(entries: Dict) -> Result<Dict> {
    let mut seen = HashSet::with_capacity(entries.len());
    if entries.iter().all(|(key, _)| seen.insert(key.as_str())) {
        Ok(entries)
    } else {
        Err(syntax("duplicate key"))
    }
}
