//! Option strings and typed readers, in QEMU's words.
#![forbid(unsafe_code)]

use super::*;

fn opts(text: &str) -> Options {
    parse(Some("qom-type"), text).unwrap()
}

fn shown(options: &Options) -> String {
    json::to_string(&Value::Dict(options.entries.clone()))
}

fn message<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn option_strings_are_split_at_single_commas() {
    let cases = [
        ("qcontext,id=a", r#"{"qom-type": "qcontext", "id": "a"}"#),
        ("id=a,qom-type=t", r#"{"id": "a", "qom-type": "t"}"#),
        (
            "t,file=a,,b,x=1",
            r#"{"qom-type": "t", "file": "a,b", "x": "1"}"#,
        ),
        ("t,file=a,,,,b", r#"{"qom-type": "t", "file": "a,,b"}"#),
        ("t,file=a=b=c", r#"{"qom-type": "t", "file": "a=b=c"}"#),
        ("t,file=,x=1", r#"{"qom-type": "t", "file": "", "x": "1"}"#),
        ("t,x=1,", r#"{"qom-type": "t", "x": "1"}"#),
        ("t,x=1,x=2", r#"{"qom-type": "t", "x": "2"}"#),
        ("t,id=a,id=b", r#"{"qom-type": "t", "id": "a"}"#),
        (
            "t,threaded,nowait",
            r#"{"qom-type": "t", "threaded": "on", "wait": "off"}"#,
        ),
        ("a,,b,x=1", r#"{"qom-type": "a,b", "x": "1"}"#),
        ("", "{}"),
    ];
    for (text, entries) in cases {
        assert_eq!(shown(&opts(text)), entries, "{text}");
    }
}

#[test]
fn bare_flags_are_warned_about() {
    let options = opts("t,threaded,nowait,x=1");
    assert_eq!(
        options.warnings(),
        [
            "short-form boolean option 'threaded' deprecated\nPlease use threaded=on instead",
            "short-form boolean option 'nowait' deprecated\nPlease use wait=off instead",
        ]
    );
}

#[test]
fn help_is_noticed_wherever_it_stands() {
    assert!(opts("help").wants_help());
    assert!(opts("?").wants_help());
    assert!(opts("t,x=1,help").wants_help());
    assert!(!opts("t,x=help").wants_help());
    assert!(parse_dotted("driver", "file,help").unwrap().wants_help());
}

#[test]
fn booleans_have_four_spellings_each_and_no_more() {
    for text in ["on", "yes", "true", "y"] {
        assert_eq!(
            opts(&format!("t,b={text}")).take_bool("b").unwrap(),
            Some(true)
        );
    }
    for text in ["off", "no", "false", "n"] {
        assert_eq!(
            opts(&format!("t,b={text}")).take_bool("b").unwrap(),
            Some(false)
        );
    }
    for text in ["On", "1", "", "YES"] {
        let outcome = opts(&format!("t,b={text}")).take_bool("b");
        assert_eq!(message(outcome), "Parameter 'b' expects 'on' or 'off'");
    }
    assert_eq!(opts("t").take_bool("b").unwrap(), None);
}

#[test]
fn json_values_are_typed() {
    let mut options = opts(r#"{"b": true, "s": "on", "i": 5, "n": "5", "d": 1.5}"#);
    assert_eq!(options.take_bool("b").unwrap(), Some(true));
    assert_eq!(
        message(options.take_bool("s")),
        "Invalid parameter type for 's', expected: boolean"
    );
    assert_eq!(options.take_int("i").unwrap(), Some(5));
    assert_eq!(
        message(options.take_int("n")),
        "Invalid parameter type for 'n', expected: integer"
    );
    assert_eq!(
        message(options.take_str("d")),
        "Invalid parameter type for 'd', expected: string"
    );
    assert_eq!(message(parse(None, "{")), "JSON parse error, premature EOI");
}

#[test]
fn integers_are_read_as_in_c() {
    let cases = [
        ("0", Some(0)),
        ("-12", Some(-12)),
        ("+12", Some(12)),
        ("0x1F", Some(31)),
        ("010", Some(8)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("", None),
        ("--1", None),
        ("+-1", None),
        ("0x", None),
        ("0x+1", None),
        ("5k", None),
        (" 5", None),
    ];
    for (text, value) in cases {
        assert_eq!(number::integer(text), value, "{text:?}");
    }
    assert_eq!(
        message(opts("t,i=x").take_int("i")),
        "Parameter 'i' expects an int64 value"
    );
    assert_eq!(
        message(parse_dotted("t", "t,i=x").unwrap().take_int("i")),
        "Parameter 'i' expects integer"
    );
}

#[test]
fn sizes_have_suffixes_and_fractions() {
    let cases = [
        ("512", Some(512)),
        ("64k", Some(65536)),
        ("64K", Some(65536)),
        ("1.5G", Some(3 << 29)),
        ("0.5B", None),
        ("1.5", None),
        ("0x200", Some(512)),
        ("15E", Some(15 << 60)),
        ("16E", None),
        ("-1", None),
        ("k", None),
        ("1x", None),
        ("é", None),
        ("", None),
    ];
    for (text, value) in cases {
        assert_eq!(number::size(text), value, "{text:?}");
    }
    assert_eq!(
        message(opts("t,s=x").take_size("s")),
        "Parameter 's' expects a non-negative number below 2^64"
    );
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let mut options = opts("t,num-queues=0,other=4");
    assert_eq!(
        message(options.take_uint("num-queues", 1..=64)),
        "Parameter 'num-queues' expects a number from 1 to 64"
    );
    assert_eq!(options.take_uint("other", 1..=64).unwrap(), Some(4));
}

#[test]
fn leftovers_are_errors_in_the_words_of_their_form() {
    let mut options = opts("t,bogus=1");
    options.take("qom-type");
    assert_eq!(message(options.finish()), "Invalid parameter 'bogus'");
    assert_eq!(
        message(opts(r#"{"bogus": 1}"#).finish()),
        "Parameter 'bogus' is unexpected"
    );
}

#[test]
fn identifiers_start_with_a_letter() {
    for id in ["a", "ctx1", "A-b.c_d", "qcontext-main"] {
        assert!(check_id(id, "id").is_ok(), "{id}");
    }
    for id in ["", "1d", "-a", "a b", "#block1", "é", "a/b"] {
        let error = check_id(id, "id").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidId);
        assert_eq!(error.to_string(), "Parameter 'id' expects an identifier");
    }
    assert_eq!(message(opts("t").need_id()), "Parameter 'id' is missing");
}

#[test]
fn dotted_keys_make_groups() {
    let mut options = parse_dotted(
        "driver",
        "raw,node-name=n,file.driver=file,file.filename=a,,b",
    )
    .unwrap();
    let mut file = options.take_group("file").unwrap();
    assert_eq!(file.take_str("filename").unwrap().as_deref(), Some("a,b"));
    assert_eq!(
        message(file.finish()),
        "Parameter 'file.driver' is unexpected"
    );
    assert_eq!(shown(&options), r#"{"driver": "raw", "node-name": "n"}"#);
}

#[test]
fn nested_json_makes_the_same_groups() {
    let text = r#"{"driver": "raw", "file": {"driver": "file", "cache": {"direct": true}}}"#;
    let mut options = parse_dotted("driver", text).unwrap();
    let mut file = options.take_group("file").unwrap();
    let mut cache = file.take_group("cache").unwrap();
    assert_eq!(cache.take_bool("direct").unwrap(), Some(true));
    assert_eq!(shown(&file), r#"{"driver": "file"}"#);
}

#[test]
fn dotted_form_has_no_flags_and_checks_its_keys() {
    let cases = [
        ("raw,bare", "Expected '=' after parameter 'bare'"),
        ("raw,=x", "Invalid parameter ''"),
        ("raw,a..b=x", "Invalid parameter 'a..b'"),
        ("raw,-a=x", "Invalid parameter '-a'"),
    ];
    for (text, expected) in cases {
        assert_eq!(message(parse_dotted("driver", text)), expected);
    }
    let mut mixed = parse_dotted("driver", "raw,file=x,file.driver=y").unwrap();
    assert_eq!(
        message(mixed.take_group("file")),
        "Parameters 'file.*' used inconsistently"
    );
}

#[test]
fn random_option_strings_never_panic() {
    const BYTES: &[u8] = b"abid=,.?{}\"no-1";
    let mut state = 1u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let index = usize::try_from(state >> 40).unwrap() % BYTES.len();
            text.push(char::from(BYTES[index]));
        }
        let read = parse(Some("driver"), &text).is_ok();
        assert!(read || text.starts_with('{'));
        let _ = parse_dotted("driver", &text);
    }
}

#[test]
fn lists_of_numbers_are_read_in_each_form() {
    let flags = |text: &str| opts(&format!("t,{text}")).take_numbers("n");
    let dotted = |text: &str| {
        parse_dotted("t", &format!("t,{text}"))
            .unwrap()
            .take_numbers("n")
    };
    let typed = |text: &str| opts(text).take_numbers("n");
    for (read, numbers) in [
        (flags("n=3"), vec![3]),
        (flags("n=0-2,x=1,n=0x10,n=5-5"), vec![0, 1, 2, 16, 5]),
        (flags("n.1=7,n.0=9"), vec![9, 7]),
        (dotted("n.0=9,n.1=7-8"), vec![9, 7, 8]),
        (
            typed(r#"{"n":[4,18446744073709551615]}"#),
            vec![4, u64::MAX],
        ),
        (typed(r#"{"n":[]}"#), vec![]),
    ] {
        assert_eq!(read.unwrap(), Some(numbers));
    }
    for absent in [flags("x=1"), dotted("x=1"), typed("{}")] {
        assert_eq!(absent.unwrap(), None);
    }
}

#[test]
fn what_is_no_list_of_numbers_is_refused() {
    let flags = |text: &str| opts(&format!("t,{text}")).take_numbers("n");
    for text in ["", "-1", "1-", "-", "2-1", "1-2-3", "0-65536", "x", "1,,2"] {
        let error = message(flags(&format!("n={text}")));
        assert_eq!(
            error, "Parameter 'n' expects a uint64 value or range",
            "{text}"
        );
    }
    let many = ["n=0-65535"; 3].join(",");
    assert!(flags(&many).is_err(), "a list has an end");
    assert_eq!(message(flags("n.0=1,n.2=2")), "Parameter 'n.1' is missing");
    let plain = parse_dotted("t", "t,n=1").unwrap().take_numbers("n");
    assert_eq!(
        message(plain),
        "Invalid parameter type for 'n', expected: array"
    );
    for (text, error) in [
        (
            r#"{"n":"0-1"}"#,
            "Invalid parameter type for 'n', expected: array",
        ),
        (
            r#"{"n":["0"]}"#,
            "Invalid parameter type for 'n[0]', expected: integer",
        ),
        (r#"{"n":[0,-1]}"#, "Parameter 'n[1]' expects uint64"),
    ] {
        assert_eq!(message(opts(text).take_numbers("n")), error);
    }
}
