//! The incremental reader: bytes in, complete top-level values out.
//!
//! Each monitor session has one. It keeps the tokens of the value that is arriving, and parses them once, when the brackets
//! balance. [`ValueLimits`] bound its memory.
#![forbid(unsafe_code)]

use super::error::{quote, syntax};
use super::lexer::{Lexer, LexerStep, TokenKind};
use super::parser::{Parser, Token};
use crate::value::Value;
use crate::{Error, ErrorKind, Result};

/// The bounds of one value.
#[derive(Clone, Copy, Debug)]
pub struct ValueLimits {
    /// Bytes of the value, white space included.
    pub bytes: usize,
    /// Nesting of objects and arrays.
    pub depth: usize,
    /// Tokens: brackets, separators, strings, numbers and keywords.
    pub tokens: usize,
}

impl Default for ValueLimits {
    fn default() -> Self {
        ValueLimits {
            bytes: 4 << 20,
            depth: 1024,
            tokens: 64 << 10,
        }
    }
}

/// An incremental reader of JSON values.
#[derive(Debug)]
pub struct Framer {
    limits: ValueLimits,
    lexer: Lexer,
    /// The texts of `tokens` and of the token that is arriving, without gaps.
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// Bytes of the current value up to now.
    size: usize,
    curly: isize,
    square: isize,
}

impl Framer {
    /// A reader that refuses values over `limits`.
    pub fn new(limits: ValueLimits) -> Self {
        Framer {
            limits,
            lexer: Lexer::new(),
            text: Vec::new(),
            tokens: Vec::new(),
            size: 0,
            curly: 0,
            square: 0,
        }
    }

    /// Reads `bytes` up to the end of a value or to an error, and moves `bytes` past what it has read. Returns `None` when
    /// it has read all bytes and no value has ended.
    ///
    /// After an error the reader continues with the next value. After [`ErrorKind::LimitExceeded`] the caller should close
    /// the connection, because the bytes that follow belong to the refused value.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Option<Result<Value>> {
        while let Some((&byte, rest)) = bytes.split_first() {
            let plain = self.lexer.plain(bytes);
            if plain > 0 {
                let (run, after) = bytes.split_at(plain);
                *bytes = after;
                self.text.extend_from_slice(run);
                self.size += plain;
                if self.size > self.limits.bytes {
                    return Some(Err(self.exceeded("token size")));
                }
                continue;
            }
            let step = self.lexer.step(byte);
            if !matches!(step, LexerStep::Before(_)) {
                *bytes = rest;
            }
            if let Some(outcome) = self.apply(step, Some(byte)) {
                return Some(outcome);
            }
        }
        None
    }

    /// Ends the input. Returns the last value or error if only its terminator was missing.
    pub fn finish(&mut self) -> Option<Result<Value>> {
        let step = self.lexer.finish();
        self.apply(step, None).or_else(|| {
            let open = !self.tokens.is_empty();
            open.then(|| self.parse())
        })
    }

    fn apply(&mut self, step: LexerStep, byte: Option<u8>) -> Option<Result<Value>> {
        let byte = byte.filter(|_| !matches!(step, LexerStep::Before(_) | LexerStep::Skip));
        if let Some(byte) = byte {
            self.text.push(byte);
        }
        if matches!(step, LexerStep::Skip) && self.is_idle() {
            return None;
        }
        self.size += usize::from(!matches!(step, LexerStep::Before(_)));
        match step {
            LexerStep::Stray => Some(Err(self.stray())),
            _ if self.size > self.limits.bytes => Some(Err(self.exceeded("token size"))),
            LexerStep::Skip | LexerStep::Part => None,
            LexerStep::End(kind) | LexerStep::Before(kind) => self.token(kind),
        }
    }

    fn token(&mut self, kind: TokenKind) -> Option<Result<Value>> {
        match kind {
            TokenKind::LeftCurly => self.curly += 1,
            TokenKind::RightCurly => self.curly -= 1,
            TokenKind::LeftSquare => self.square += 1,
            TokenKind::RightSquare => self.square -= 1,
            _ => {}
        }
        if self.tokens.len() == self.limits.tokens {
            return Some(Err(self.exceeded("token count")));
        }
        if usize::try_from(self.curly + self.square).is_ok_and(|depth| depth > self.limits.depth) {
            return Some(Err(self.exceeded("nesting depth")));
        }
        self.tokens.push(Token::new(kind, self.text.len()));
        let open = (self.curly > 0 || self.square > 0) && self.curly >= 0 && self.square >= 0;
        (!open).then(|| self.parse())
    }

    fn parse(&mut self) -> Result<Value> {
        let value = Parser::new(&self.text, &self.tokens).parse();
        self.reset();
        value
    }

    fn stray(&mut self) -> Error {
        let start = self.tokens.last().map_or(0, |token| token.end());
        let error = syntax(format_args!("stray '{}'", quote(&self.text[start..])));
        self.reset();
        error
    }

    fn exceeded(&mut self, what: &str) -> Error {
        self.reset();
        self.lexer = Lexer::new();
        Error::new(
            ErrorKind::LimitExceeded,
            format!("JSON {what} limit exceeded"),
        )
    }

    fn is_idle(&self) -> bool {
        self.text.is_empty()
    }

    /// Drops the current value. Frees its memory if it was large.
    fn reset(&mut self) {
        const KEPT: usize = 16 << 10;
        self.text.clear();
        self.text.shrink_to(KEPT);
        self.tokens.clear();
        self.tokens.shrink_to(KEPT / size_of::<Token>());
        (self.size, self.curly, self.square) = (0, 0, 0);
    }
}
