//! Makes a value of its tokens, with an explicit stack instead of recursion.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::error::{quote, syntax};
use super::lexer::TokenKind;
use super::text;
use crate::Result;
use crate::value::{Dict, Value};

/// One token. Its text ends at `end` and begins where the previous token ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    kind: TokenKind,
    end: u32,
}

impl Token {
    /// A token whose text ends at `end`. The byte limit keeps that far below 4 GiB.
    pub(super) fn new(kind: TokenKind, end: usize) -> Self {
        Token {
            kind,
            end: u32::try_from(end).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn end(self) -> usize {
        self.end as usize
    }
}

/// An object or array that has not ended yet; an object with the key of its next member.
enum OpenContainer {
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

    /// The value of the tokens. The framer stopped at its end, so no token is left over.
    pub(super) fn parse(mut self) -> Result<Value> {
        let mut stack = Vec::new();
        loop {
            let (kind, bytes) = self.next()?;
            let value = match kind {
                TokenKind::LeftCurly if self.skip(TokenKind::RightCurly) => Value::Dict(Vec::new()),
                TokenKind::LeftSquare if self.skip(TokenKind::RightSquare) => {
                    Value::List(Vec::new())
                }
                TokenKind::LeftCurly => {
                    stack.push(OpenContainer::Dict(Vec::new(), self.key()?));
                    continue;
                }
                TokenKind::LeftSquare => {
                    stack.push(OpenContainer::List(Vec::new()));
                    continue;
                }
                _ => scalar(kind, bytes)?,
            };
            if let Some(whole) = self.place(value, &mut stack)? {
                return Ok(whole);
            }
        }
    }

    /// Adds a finished value to its container, and closes the containers that end with it. Returns the whole value when no
    /// container is open.
    fn place(&mut self, mut value: Value, stack: &mut Vec<OpenContainer>) -> Result<Option<Value>> {
        loop {
            value = match stack.pop() {
                None => return Ok(Some(value)),
                Some(OpenContainer::List(mut items)) => {
                    items.push(value);
                    match self.next()?.0 {
                        TokenKind::RightSquare => Value::List(items),
                        TokenKind::Comma => {
                            stack.push(OpenContainer::List(items));
                            return Ok(None);
                        }
                        _ => return Err(syntax("expected separator in list")),
                    }
                }
                Some(OpenContainer::Dict(mut entries, key)) => {
                    entries.push((key, value));
                    match self.next()?.0 {
                        TokenKind::RightCurly => Value::Dict(distinct(entries)?),
                        TokenKind::Comma => {
                            stack.push(OpenContainer::Dict(entries, self.key()?));
                            return Ok(None);
                        }
                        _ => return Err(syntax("expected separator in dict")),
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Result<(TokenKind, &'a [u8])> {
        let token = self.tokens.next().ok_or_else(|| syntax("premature EOI"))?;
        let bytes = &self.text[self.at..token.end()];
        self.at = token.end();
        Ok((token.kind, bytes))
    }

    fn skip(&mut self, kind: TokenKind) -> bool {
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
            TokenKind::Text => text::decode(bytes)?,
            TokenKind::LeftCurly | TokenKind::LeftSquare => {
                return Err(syntax("key is not a string in object"));
            }
            _ => {
                scalar(kind, bytes)?;
                return Err(syntax("key is not a string in object"));
            }
        };
        match self.next()?.0 {
            TokenKind::Colon => Ok(key),
            _ => Err(syntax("missing : in object pair")),
        }
    }
}

fn scalar(kind: TokenKind, bytes: &[u8]) -> Result<Value> {
    match kind {
        TokenKind::Text => text::decode(bytes).map(Value::Str),
        TokenKind::Integer | TokenKind::Float => number(kind, bytes),
        TokenKind::Keyword => match bytes {
            b"true" => Ok(Value::Bool(true)),
            b"false" => Ok(Value::Bool(false)),
            b"null" => Ok(Value::Null),
            _ => Err(syntax(format_args!("invalid keyword '{}'", quote(bytes)))),
        },
        _ => Err(syntax("expecting value")),
    }
}

/// Integers that fit stay integers, others become doubles. A number beyond the range of a double is an error.
fn number(kind: TokenKind, bytes: &[u8]) -> Result<Value> {
    let digits = String::from_utf8_lossy(bytes);
    if kind == TokenKind::Integer {
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
