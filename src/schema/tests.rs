//! Values against types: QEMU's order, texts and names, in JSON and in option strings; the description of types.
#![forbid(unsafe_code)]

use super::*;
use crate::json;
use crate::object::{Options, options};

static ADDRESS: ObjectType = ObjectType::tagged(
    "Address",
    &[],
    Variants {
        tag: "type",
        tag_type: "AddressKind",
        cases: || {
            let path = [Member::new("path", ValueType::Str)];
            vec![Case::new("unix", &path), Case::new("none", &[])]
        },
    },
);

static REFERENCE: AlternateType = AlternateType {
    name: "Reference",
    branches: &[ValueType::Str, ValueType::Object(&ADDRESS)],
};

static THING: ObjectType = ObjectType::new(
    "Thing",
    &[
        Member::new("name", ValueType::Str),
        Member::optional("flag", ValueType::Bool),
        Member::optional("count", ValueType::Uint(16)),
        Member::optional("number", ValueType::Int),
        Member::optional("size", ValueType::Size),
        Member::optional("addr", ValueType::Object(&ADDRESS)),
        Member::optional("file", ValueType::Alternate(&REFERENCE)),
        Member::optional(
            "list",
            ValueType::Array(&ValueType::Enum(EnumType::new("Letter", &["a", "b"]))),
        ),
    ],
);

fn json_form(text: &str) -> Result<String, String> {
    shown(options::parse(None, text).unwrap())
}

fn keyval(text: &str) -> Result<String, String> {
    shown(options::parse_dotted("name", text).unwrap())
}

fn shown(options: Options) -> Result<String, String> {
    let checked = check(&THING, options).map_err(|error| error.to_string())?;
    Ok(json::to_string(&crate::object::Value::Dict(
        checked.into_entries(),
    )))
}

#[test]
fn json_values_have_the_described_types() {
    let good = r#"{"name": "n", "flag": true, "count": 65535, "number": -1, "size": 512, "addr": {"type": "unix", "path": "p"}, "file": "f", "list": ["a", "b"]}"#;
    assert_eq!(json_form(good).as_deref(), Ok(good));
    let cases = [
        ("{}", "Parameter 'name' is missing"),
        (
            r#"{"name":5}"#,
            "Invalid parameter type for 'name', expected: string",
        ),
        (
            r#"{"name":"n","flag":"on"}"#,
            "Invalid parameter type for 'flag', expected: boolean",
        ),
        (
            r#"{"name":"n","count":65536}"#,
            "Parameter 'count' expects uint16_t",
        ),
        (
            r#"{"name":"n","count":-1}"#,
            "Parameter 'count' expects uint16_t",
        ),
        (
            r#"{"name":"n","number":1.5}"#,
            "Invalid parameter type for 'number', expected: integer",
        ),
        (
            r#"{"name":"n","size":"1k"}"#,
            "Invalid parameter type for 'size', expected: integer",
        ),
        (
            r#"{"name":"n","addr":{}}"#,
            "Parameter 'addr.type' is missing",
        ),
        (
            r#"{"name":"n","addr":5}"#,
            "Invalid parameter type for 'addr', expected: object",
        ),
        (
            r#"{"name":"n","addr":{"type":"inet"}}"#,
            "Parameter 'type' does not accept value 'inet'",
        ),
        (
            r#"{"name":"n","addr":{"type":"unix"}}"#,
            "Parameter 'addr.path' is missing",
        ),
        (
            r#"{"name":"n","addr":{"type":"none","path":"p"}}"#,
            "Parameter 'addr.path' is unexpected",
        ),
        (
            r#"{"name":"n","file":5}"#,
            "Invalid parameter type for 'file', expected: Reference",
        ),
        (
            r#"{"name":"n","list":["a",5]}"#,
            "Invalid parameter type for 'list[1]', expected: string",
        ),
        (
            r#"{"name":"n","list":["c"]}"#,
            "Parameter 'null' does not accept value 'c'",
        ),
        (
            r#"{"name":"n","addr.type":"none"}"#,
            "Parameter 'addr.type' is unexpected",
        ),
        (
            r#"{"bogus":1,"name":5}"#,
            "Invalid parameter type for 'name', expected: string",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(json_form(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn texts_of_option_strings_become_values() {
    let good = "n,flag=on,count=7,number=-1,size=1k,addr.type=unix,addr.path=p,file.type=none,list.1=b,list.0=a";
    let values = r#"{"name": "n", "flag": true, "count": 7, "number": -1, "size": 1024, "addr": {"type": "unix", "path": "p"}, "file": {"type": "none"}, "list": ["a", "b"]}"#;
    assert_eq!(keyval(good).as_deref(), Ok(values));
    let cases = [
        ("n,flag=1", "Parameter 'flag' expects 'on' or 'off'"),
        ("n,count=70000", "Parameter 'count' expects uint16_t"),
        ("n,number=x", "Parameter 'number' expects integer"),
        (
            "n,size=x",
            "Parameter 'size' expects a non-negative number below 2^64",
        ),
        (
            "n,addr=x",
            "Invalid parameter type for 'addr', expected: object",
        ),
        ("n,flag.x=on", "Parameters 'flag.*' are unexpected"),
        ("n,bogus.x=on", "Parameters 'bogus.*' are unexpected"),
        ("n,bogus=on", "Parameter 'bogus' is unexpected"),
        (
            "n,file=x,file.type=none",
            "Parameters 'file.*' used inconsistently",
        ),
        (
            "n,file.type=none,file=x",
            "Parameters 'file.*' used inconsistently",
        ),
        ("n,list.1=a", "Parameter 'list.0' is missing"),
    ];
    for (text, expected) in cases {
        assert_eq!(keyval(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn each_type_is_described_once_and_before_nothing_is_missing() {
    static ASK: CommandType =
        CommandType::returning("ask", &THING, ValueType::Array(&ValueType::Object(&THING)));
    static TOLD: EventType = EventType::new("TOLD", &THING);
    let described = json::to_string(&describe([&ASK].into_iter(), [&TOLD].into_iter()));
    for expected in [
        r#"{"name": "ask", "meta-type": "command", "arg-type": "Thing", "ret-type": "[Thing]"}"#,
        r#"{"name": "TOLD", "meta-type": "event", "arg-type": "Thing"}"#,
        r#"{"name": "[Thing]", "meta-type": "array", "element-type": "Thing"}"#,
        r#"{"name": "AddressKind", "meta-type": "enum", "members": [{"name": "unix"}, {"name": "none"}], "values": ["unix", "none"]}"#,
        r#""tag": "type", "variants": [{"case": "unix", "type": "Address-unix"}, {"case": "none", "type": "q_empty"}]}"#,
        r#"{"name": "flag", "type": "bool", "default": null}"#,
        r#"{"name": "Reference", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "Address"}]}"#,
    ] {
        assert_eq!(
            described.matches(expected).count(),
            1,
            "{expected} in {described}"
        );
    }
}
