//! Bytes in, complete top-level values out.
//!
//! One per monitor session. It keeps the tokens of the value that is arriving and parses them once, when the brackets
//! balance. A peer cannot make it hold more than [`Limits`] say.
#![forbid(unsafe_code)]

use super::error::{quote, syntax};
use super::lexer::{Kind, Lexer, Step};
use super::parser::{Parser, Token};
use crate::value::Value;
use crate::{Error, ErrorKind, Result};

/// What one value may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes from a value's first to its last, white space included.
    pub bytes: usize,
    /// Objects and arrays inside each other.
    pub depth: usize,
    /// Tokens: brackets, separators, strings, numbers, keywords.
    pub tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: 4 << 20,
            depth: 1024,
            tokens: 64 << 10,
        }
    }
}

/// An incremental reader of JSON values.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    lexer: Lexer,
    /// The texts of `tokens`, and of the token that is arriving, one after the other.
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// Bytes of the current value so far.
    size: usize,
    curly: isize,
    square: isize,
}

impl Framer {
    /// A reader that refuses values over `limits`.
    pub fn new(limits: Limits) -> Self {
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

    /// Reads on in `bytes` up to the end of a value or to an error, and moves `bytes` behind what was read; `None`
    /// when all of it was read and no value ended.
    ///
    /// After an error reading goes on with the next value. After [`ErrorKind::LimitExceeded`] the caller should hang
    /// up: what follows is the rest of a value that was refused.
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
            if !matches!(step, Step::Before(_)) {
                *bytes = rest;
            }
            if let Some(outcome) = self.apply(step, Some(byte)) {
                return Some(outcome);
            }
        }
        None
    }

    /// Ends the input: the value or error that only waited for its terminator, if one did.
    pub fn finish(&mut self) -> Option<Result<Value>> {
        let step = self.lexer.finish();
        self.apply(step, None).or_else(|| {
            let open = !self.tokens.is_empty();
            open.then(|| self.parse())
        })
    }

    fn apply(&mut self, step: Step, byte: Option<u8>) -> Option<Result<Value>> {
        let byte = byte.filter(|_| !matches!(step, Step::Before(_) | Step::Skip));
        if let Some(byte) = byte {
            self.text.push(byte);
        }
        if matches!(step, Step::Skip) && self.is_idle() {
            return None;
        }
        self.size += usize::from(!matches!(step, Step::Before(_)));
        match step {
            Step::Stray => Some(Err(self.stray())),
            _ if self.size > self.limits.bytes => Some(Err(self.exceeded("token size"))),
            Step::Skip | Step::Part => None,
            Step::End(kind) | Step::Before(kind) => self.token(kind),
        }
    }

    fn token(&mut self, kind: Kind) -> Option<Result<Value>> {
        match kind {
            Kind::LeftCurly => self.curly += 1,
            Kind::RightCurly => self.curly -= 1,
            Kind::LeftSquare => self.square += 1,
            Kind::RightSquare => self.square -= 1,
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

    /// Forgets the current value, and gives its memory back if it was a big one.
    fn reset(&mut self) {
        const KEPT: usize = 16 << 10;
        self.text.clear();
        self.text.shrink_to(KEPT);
        self.tokens.clear();
        self.tokens.shrink_to(KEPT / size_of::<Token>());
        (self.size, self.curly, self.square) = (0, 0, 0);
    }
}
