//! Texts: JSON through the monitor's framer, and the command line's options.
#![forbid(unsafe_code)]

use crate::mangle::Mangler;
use qcontext::json::{self, Framer, ValueLimits};
use qcontext::object::options;

fn seeds(corpus: &str) -> Vec<Vec<u8>> {
    corpus
        .lines()
        .map(|line| line.as_bytes().to_vec())
        .collect()
}

/// Small limits, so that they are met.
const LIMITS: ValueLimits = ValueLimits {
    bytes: 300,
    depth: 20,
    tokens: 60,
};

/// The stream arrives in pieces; behind it comes a good value, which is found whatever was before.
pub fn json() -> impl FnMut(&mut Mangler) {
    let seeds = seeds(include_str!("corpus/json.txt"));
    move |mangler| {
        let bytes = mangler.mangled(&seeds);
        let mut framer = Framer::new(LIMITS);
        let mut rest = &bytes[..];
        let mut values = 0;
        while !rest.is_empty() {
            let (mut piece, later) = rest.split_at(1 + mangler.below(rest.len()));
            while let Some(_read_or_refused) = framer.feed(&mut piece) {
                values += 1;
            }
            assert!(piece.is_empty(), "what is fed is taken");
            rest = later;
        }
        assert!(values <= bytes.len(), "no more answers than bytes");
        let _ = framer.finish();
        let mut good = &b"{\"good\":1}\n"[..];
        let found = framer.feed(&mut good).expect("a value");
        assert_eq!(json::to_string(&found.unwrap()), "{\"good\": 1}");
    }
}

pub fn round_trip() -> impl FnMut(&mut Mangler) {
    let seeds = seeds(include_str!("corpus/json.txt"));
    move |mangler| {
        let bytes = mangler.mangled(&seeds);
        if let Ok(value) = json::parse(&String::from_utf8_lossy(&bytes)) {
            let text = json::to_string(&value);
            let again = json::parse(&text).unwrap();
            assert_eq!(json::to_string(&again), text);
        }
    }
}

pub fn options() -> impl FnMut(&mut Mangler) {
    let seeds = seeds(include_str!("corpus/options.txt"));
    move |mangler| {
        let bytes = mangler.mangled(&seeds);
        let text = String::from_utf8_lossy(&bytes);
        let implied = (mangler.below(2) == 0).then_some("driver");
        let parsed = [
            options::parse(implied, &text),
            options::parse_dotted("driver", &text),
        ];
        for mut options in parsed.into_iter().flatten() {
            // Whatever is asked of them is answered or refused, and nothing else is left over.
            let _ = (
                options.take_bool("threaded"),
                options.take_int("poll-max-ns"),
            );
            let _ = (options.take_size("size"), options.take_group("cache"));
            let _ = (options.need_id(), options.take_str("file"));
            let names: Vec<String> = options.remaining().map(str::to_owned).collect();
            for name in &names {
                assert!(options.take(name).is_some(), "{name} was listed");
            }
            assert!(options.is_empty());
        }
    }
}
