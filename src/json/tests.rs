//! JSON as QEMU reads and writes it, and requests framed by their structure.
#![forbid(unsafe_code)]

use super::*;

fn error_of(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// Everything a framer says about these pieces, one after the other.
fn frames(pieces: &[&[u8]]) -> Vec<String> {
    let mut framer = Framer::new(ValueLimits::default());
    let mut said = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(frame) = framer.feed(&mut rest) {
            said.push(frame.map_or_else(|error| error.to_string(), |value| to_string(&value)));
        }
    }
    said
}

#[test]
fn values_come_back_as_they_went_in() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "9223372036854775807",
        "18446744073709551615",
        "1.5",
        "1e100",
        "1.2345678901234568e22",
        "\"\"",
        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u007F\\u00E9\\uD83D\\uDE00\"",
        "[]",
        "{}",
        "[1, [2, {}], \"x\"]",
        "{\"b\": 1, \"a\": {\"c\": [null]}}",
    ] {
        assert_eq!(to_string(&parse(text).unwrap()), text);
    }
}

#[test]
fn dialect_is_read_in_its_other_spellings() {
    let cases = [
        ("'it\"s'", "\"it\\\"s\""),
        ("\"\\'\"", "\"'\""),
        ("-0", "0"),
        ("12345678901234567890123", "1.2345678901234568e22"),
        (
            "\"\\ud83d\\ude00é😀\"",
            "\"\\uD83D\\uDE00\\u00E9\\uD83D\\uDE00\"",
        ),
        (" \r\n\t[ 1 , 2 ] ", "[1, 2]"),
        ("\"\\u00e9\"", "\"\\u00E9\""),
    ];
    for (text, written) in cases {
        assert_eq!(to_string(&parse(text).unwrap()), written, "{text}");
    }
}

#[test]
fn syntax_errors_have_the_known_texts() {
    let cases = [
        ("nul", "invalid keyword 'nul'"),
        ("{\"a\" 1}", "missing : in object pair"),
        ("{\"a\"}", "missing : in object pair"),
        ("{\"a\":1,}", "expecting value"),
        ("{\"a\":}", "expecting value"),
        ("[1,]", "expecting value"),
        ("}", "expecting value"),
        ("{]", "expecting value"),
        ("[}", "expecting value"),
        (",", "expecting value"),
        ("{1:2}", "key is not a string in object"),
        ("{{}:2}", "key is not a string in object"),
        ("{\"a\":1 \"b\":2}", "expected separator in dict"),
        ("[1 2]", "expected separator in list"),
        ("{\"a\":1,\"a\":2}", "duplicate key"),
        ("#", "stray '#'"),
        ("TRUE", "stray 'T'"),
        ("01", "stray '01'"),
        ("1. ", "stray '1. '"),
        ("- 1", "stray '- '"),
        ("-", "stray '-'"),
        ("\"abc\u{1}", "stray '\"abc\u{1}'"),
        ("\"abc", "stray '\"abc'"),
        ("[1", "premature EOI"),
        ("", "premature EOI"),
        ("\"\\q\"", "invalid escape sequence in string"),
        ("\"\\u12g4\"", "\\u12g4 is not a valid Unicode character"),
        ("\"\\ud800\"", "\\ud800 is not a valid Unicode character"),
        (
            "\"\\ud800\\u0041\"",
            "\\ud800 is not a valid Unicode character",
        ),
        ("1e400", "number '1e400' is out of range"),
    ];
    for (text, message) in cases {
        assert_eq!(
            error_of(text),
            format!("JSON parse error, {message}"),
            "{text}"
        );
    }
    assert_eq!(error_of("{} x"), "Expecting at most one JSON value");
}

#[test]
fn invalid_utf8_in_a_string_is_an_error_and_reading_goes_on() {
    let said = frames(&[b"[\"\xc3(\"] [\"\xed\xa0\x80\"] \xff [1]"]);
    assert_eq!(
        said,
        [
            "JSON parse error, invalid UTF-8 sequence in string",
            "JSON parse error, invalid UTF-8 sequence in string",
            "JSON parse error, stray '\u{fffd}'",
            "[1]"
        ]
    );
}

#[test]
fn numbers_that_are_not_finite_are_written_as_null() {
    assert_eq!(to_string(&Value::Double(f64::INFINITY)), "null");
    assert_eq!(to_string(&Value::Double(f64::NAN)), "null");
}

#[test]
fn depth_1024_is_read_and_1025_is_over_the_limit() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(to_string(&parse(&nested(1024)).unwrap()), nested(1024));
    let error = parse(&nested(1025)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(error.to_string(), "JSON nesting depth limit exceeded");
    let deep = format!("{}1{}", "{\"a\":".repeat(1024), "}".repeat(1024));
    assert!(parse(&deep).is_ok());
}

#[test]
fn token_count_and_size_are_limited() {
    let list = |items: usize| format!("[{}0]", "0,".repeat(items - 1));
    assert!(parse(&list(32 * 1024 - 1)).is_ok());
    assert_eq!(
        error_of(&list(32 * 1024)),
        "JSON token count limit exceeded"
    );
    let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    assert!(parse(&text(4 << 20)).is_ok());
    assert_eq!(
        error_of(&text((4 << 20) + 1)),
        "JSON token size limit exceeded"
    );
    let padded = format!("[{}", " ".repeat(4 << 20));
    assert_eq!(error_of(&padded), "JSON token size limit exceeded");
}

#[test]
fn white_space_between_values_costs_nothing() {
    let blank = vec![b' '; 5 << 20];
    assert_eq!(frames(&[&blank, b"{}", &blank, b"[]"]), ["{}", "[]"]);
}

#[test]
fn values_need_no_separator() {
    let said = frames(&[b"{\"a\": 1}{}[1]\"x\"'y'5 null{}"]);
    assert_eq!(
        said,
        [
            "{\"a\": 1}",
            "{}",
            "[1]",
            "\"x\"",
            "\"y\"",
            "5",
            "null",
            "{}"
        ]
    );
}

#[test]
fn many_keys_are_compared_in_linear_time() {
    let pairs: Vec<String> = (0..16_000).map(|index| format!("\"{index}\": 0")).collect();
    let text = format!("{{{}}}", pairs.join(", "));
    assert_eq!(to_string(&parse(&text).unwrap()), text);
}

/// A small generator of numbers; the tests below are the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::Int(i64::try_from(self.below(1 << 40)).unwrap() - (1 << 39)),
            3 => Value::Double(f64::from(u32::try_from(self.below(1 << 30)).unwrap()) / 7.0),
            4 | 5 => Value::Str(self.text()),
            6 => (0..self.below(5)).map(|_| self.value(depth - 1)).collect(),
            _ => Value::Dict(
                (0..self.below(5))
                    .map(|index| (format!("{index}{}", self.text()), self.value(depth - 1)))
                    .collect(),
            ),
        }
    }

    fn text(&mut self) -> String {
        const ALPHABET: [char; 12] = [
            'a', '"', '\'', '\\', '\n', '\0', '\u{7f}', 'é', '😀', '{', ']', ' ',
        ];
        (0..self.below(8))
            .map(|_| ALPHABET[self.below(ALPHABET.len())])
            .collect()
    }
}

#[test]
fn random_values_survive_writing_splitting_and_reading() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..500 {
        let value = random.value(4);
        let text = to_string(&value) + " ";
        assert!(text.is_ascii());
        let cut = random.below(text.len());
        let (first, second) = text.as_bytes().split_at(cut);
        assert_eq!(frames(&[first, second]), [text.trim_end()]);
        assert_eq!(parse(&text).unwrap(), value);
    }
}

#[test]
fn mutated_text_never_panics_and_split_changes_nothing() {
    const BYTES: &[u8] = b"{}[]:,\"'\\u0e-.1tn \x00\xff\xc3#";
    let mut random = Random(42);
    for _ in 0..3000 {
        let mut text = to_string(&random.value(3)).into_bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            text[at] = BYTES[random.below(BYTES.len())];
        }
        text.extend_from_slice(b"\n");
        let bytewise: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(frames(&[&text]), frames(&bytewise));
    }
}

#[test]
fn after_any_mutation_a_control_character_and_brackets_resynchronise() {
    let mut random = Random(7);
    for _ in 0..1000 {
        let mut text = to_string(&random.value(3)).into_bytes();
        let cut = random.below(text.len());
        text.truncate(cut);
        // 0xff ends the open value with an error.
        text.extend_from_slice(b"\xff{\"alive\": 1}");
        assert_eq!(frames(&[&text]).last().unwrap(), "{\"alive\": 1}");
    }
}
