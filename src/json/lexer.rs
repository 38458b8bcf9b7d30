//! The tokens of the dialect, one byte at a time.
//!
//! The framer feeds it. A byte that cannot continue a token is a stray; the lexer then skips to the next structural
//! or control character, so that one broken request does not take the following ones with it.
#![forbid(unsafe_code)]

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The byte lies between tokens.
    Skip,
    /// The byte belongs to the current token.
    Part,
    /// The byte ends a token and belongs to it.
    End(Kind),
    /// The token ended before this byte; feed the byte again.
    Before(Kind),
    /// The token and the byte make no sense.
    Stray,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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

/// The lexer's place between two bytes.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
}

impl Lexer {
    pub(super) fn new() -> Self {
        Lexer {
            state: State::Start,
        }
    }

    /// Takes one byte.
    pub(super) fn step(&mut self, byte: u8) -> Step {
        if self.state == State::Recovery {
            if !is_reset(byte) {
                return Step::Skip;
            }
            self.state = State::Start;
        }
        let (state, step) = self.transition(byte);
        self.state = state;
        step
    }

    /// Ends the input: the token that was open, if it can end here.
    pub(super) fn finish(&mut self) -> Step {
        let step = match self.state {
            State::Start | State::Recovery => Step::Skip,
            // A space ends whatever can end.
            _ => match self.transition(b' ').1 {
                before @ Step::Before(_) => before,
                _ => Step::Stray,
            },
        };
        self.state = State::Start;
        step
    }

    /// How many of `bytes` are plain content of the string that is open.
    pub(super) fn plain(&self, bytes: &[u8]) -> usize {
        match self.state {
            State::Text(quote) => bytes
                .iter()
                .take_while(|&&byte| byte != quote && byte != b'\\' && is_text(byte))
                .count(),
            _ => 0,
        }
    }

    fn transition(&self, byte: u8) -> (State, Step) {
        match self.state {
            State::Start | State::Recovery => start(byte),
            State::Text(quote) if byte == quote => (State::Start, Step::End(Kind::Text)),
            State::Text(quote) if byte == b'\\' => (State::Escape(quote), Step::Part),
            State::Text(quote) | State::Escape(quote) if is_text(byte) => {
                (State::Text(quote), Step::Part)
            }
            State::Keyword if byte.is_ascii_lowercase() => (State::Keyword, Step::Part),
            State::Keyword => (State::Start, Step::Before(Kind::Keyword)),
            State::Text(_) | State::Escape(_) => STRAY,
            _ => self.number(byte),
        }
    }

    fn number(&self, byte: u8) -> (State, Step) {
        use State::{Digits, Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Zero};
        let part = |state| (state, Step::Part);
        match (self.state, byte) {
            (Minus, b'0') => part(Zero),
            (Minus, b'1'..=b'9') | (Digits, b'0'..=b'9') => part(Digits),
            (Zero | Digits, b'.') => part(Point),
            (Point | Fraction, b'0'..=b'9') => part(Fraction),
            (Zero | Digits | Fraction, b'e' | b'E') => part(Exponent),
            (Exponent, b'+' | b'-') => part(ExponentSign),
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => part(ExponentDigits),
            (Zero, b'0'..=b'9') | (Minus | Point | Exponent | ExponentSign, _) => STRAY,
            (Zero | Digits, _) => (State::Start, Step::Before(Kind::Integer)),
            _ => (State::Start, Step::Before(Kind::Float)),
        }
    }
}

const STRAY: (State, Step) = (State::Recovery, Step::Stray);

fn start(byte: u8) -> (State, Step) {
    let one = |kind| (State::Start, Step::End(kind));
    match byte {
        b' ' | b'\t' | b'\r' | b'\n' => (State::Start, Step::Skip),
        b'{' => one(Kind::LeftCurly),
        b'}' => one(Kind::RightCurly),
        b'[' => one(Kind::LeftSquare),
        b']' => one(Kind::RightSquare),
        b':' => one(Kind::Colon),
        b',' => one(Kind::Comma),
        b'"' | b'\'' => (State::Text(byte), Step::Part),
        b'-' => (State::Minus, Step::Part),
        b'0' => (State::Zero, Step::Part),
        b'1'..=b'9' => (State::Digits, Step::Part),
        b'a'..=b'z' => (State::Keyword, Step::Part),
        _ => STRAY,
    }
}

/// May stand in a string; UTF-8 is checked by the parser.
fn is_text(byte: u8) -> bool {
    (0x20..=0xfd).contains(&byte)
}

/// Where reading starts again after a stray.
fn is_reset(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',') || (byte != b'\t' && !is_text(byte))
}
