//! The tokens of the dialect, one byte at a time.
//!
//! The framer feeds it. A byte that cannot continue a token is a stray. The lexer then skips to the next structural or
//! control character, so that the requests after a broken one are still read.
#![forbid(unsafe_code)]

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    LeftCurly,
    RightCurly,
    LeftSquare,
    RightSquare,
    Colon,
    Comma,
    Integer,
    Float,
    Keyword,
    Text,
}

/// The effect of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LexerStep {
    /// The byte is between tokens.
    Skip,
    /// The byte belongs to the current token.
    Part,
    /// The byte ends a token and belongs to it.
    End(TokenKind),
    /// The token ended before this byte; feed the byte again.
    Before(TokenKind),
    /// The byte cannot follow.
    Stray,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LexerState {
    Start,
    Recovery,
    Text(u8),
    Escape(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// Its state between two bytes.
#[derive(Debug)]
pub(super) struct Lexer {
    state: LexerState,
}

impl Lexer {
    pub(super) fn new() -> Self {
        Lexer {
            state: LexerState::Start,
        }
    }

    /// Takes one byte.
    pub(super) fn step(&mut self, byte: u8) -> LexerStep {
        if self.state == LexerState::Recovery {
            if !is_reset(byte) {
                return LexerStep::Skip;
            }
            self.state = LexerState::Start;
        }
        let (state, step) = self.transition(byte);
        self.state = state;
        step
    }

    /// Ends the input, and with it the open token if that can end here.
    pub(super) fn finish(&mut self) -> LexerStep {
        let step = match self.state {
            LexerState::Start | LexerState::Recovery => LexerStep::Skip,
            // A space ends every token that can end.
            _ => match self.transition(b' ').1 {
                before @ LexerStep::Before(_) => before,
                _ => LexerStep::Stray,
            },
        };
        self.state = LexerState::Start;
        step
    }

    /// How many of `bytes` are plain content of the open string: no quote, escape or control character.
    pub(super) fn plain(&self, bytes: &[u8]) -> usize {
        match self.state {
            LexerState::Text(quote) => bytes
                .iter()
                .take_while(|&&byte| byte != quote && byte != b'\\' && is_text(byte))
                .count(),
            _ => 0,
        }
    }

    fn transition(&self, byte: u8) -> (LexerState, LexerStep) {
        match self.state {
            LexerState::Start | LexerState::Recovery => start(byte),
            LexerState::Text(quote) if byte == quote => {
                (LexerState::Start, LexerStep::End(TokenKind::Text))
            }
            LexerState::Text(quote) if byte == b'\\' => {
                (LexerState::Escape(quote), LexerStep::Part)
            }
            LexerState::Text(quote) | LexerState::Escape(quote) if is_text(byte) => {
                (LexerState::Text(quote), LexerStep::Part)
            }
            LexerState::Keyword if byte.is_ascii_lowercase() => {
                (LexerState::Keyword, LexerStep::Part)
            }
            LexerState::Keyword => (LexerState::Start, LexerStep::Before(TokenKind::Keyword)),
            LexerState::Text(_) | LexerState::Escape(_) => STRAY,
            _ => self.number(byte),
        }
    }

    fn number(&self, byte: u8) -> (LexerState, LexerStep) {
        use LexerState::{
            Digits, Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Zero,
        };
        let part = |state| (state, LexerStep::Part);
        match (self.state, byte) {
            (Minus, b'0') => part(Zero),
            (Minus, b'1'..=b'9') | (Digits, b'0'..=b'9') => part(Digits),
            (Zero | Digits, b'.') => part(Point),
            (Point | Fraction, b'0'..=b'9') => part(Fraction),
            (Zero | Digits | Fraction, b'e' | b'E') => part(Exponent),
            (Exponent, b'+' | b'-') => part(ExponentSign),
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => part(ExponentDigits),
            (Zero, b'0'..=b'9') | (Minus | Point | Exponent | ExponentSign, _) => STRAY,
            (Zero | Digits, _) => (LexerState::Start, LexerStep::Before(TokenKind::Integer)),
            _ => (LexerState::Start, LexerStep::Before(TokenKind::Float)),
        }
    }
}

const STRAY: (LexerState, LexerStep) = (LexerState::Recovery, LexerStep::Stray);

fn start(byte: u8) -> (LexerState, LexerStep) {
    let one = |kind| (LexerState::Start, LexerStep::End(kind));
    match byte {
        b' ' | b'\t' | b'\r' | b'\n' => (LexerState::Start, LexerStep::Skip),
        b'{' => one(TokenKind::LeftCurly),
        b'}' => one(TokenKind::RightCurly),
        b'[' => one(TokenKind::LeftSquare),
        b']' => one(TokenKind::RightSquare),
        b':' => one(TokenKind::Colon),
        b',' => one(TokenKind::Comma),
        b'"' | b'\'' => (LexerState::Text(byte), LexerStep::Part),
        b'-' => (LexerState::Minus, LexerStep::Part),
        b'0' => (LexerState::Zero, LexerStep::Part),
        b'1'..=b'9' => (LexerState::Digits, LexerStep::Part),
        b'a'..=b'z' => (LexerState::Keyword, LexerStep::Part),
        _ => STRAY,
    }
}

/// Whether the byte is allowed in a string. The parser checks UTF-8.
fn is_text(byte: u8) -> bool {
    (0x20..=0xfd).contains(&byte)
}

/// Whether reading starts again at this byte after a stray.
fn is_reset(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',') || (byte != b'\t' && !is_text(byte))
}
