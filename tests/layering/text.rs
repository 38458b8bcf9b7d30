//! Rust text without what a compiler skips: comments, the contents of strings, and what is compiled for tests alone.
//!
//! Everything that is left out becomes spaces, so positions and lines stay.
#![forbid(unsafe_code)]

/// What [`blank`] leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strings {
    Keep,
    Blank,
}

/// The text without comments, and without the contents of strings if asked for.
pub(crate) fn blank(text: &str, strings: Strings) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (skipped, shown) = match c {
            '/' if rest.starts_with("//") => (until(rest, 2, "\n"), false),
            '/' if rest.starts_with("/*") => (until(rest, 2, "*/"), false),
            '"' => (string_end(rest), strings == Strings::Keep),
            'r' if is_raw_string(rest, out.chars().last()) => {
                (raw_string_end(rest), strings == Strings::Keep)
            }
            '\'' if char_end(rest).is_some() => (char_end(rest).unwrap(), false),
            _ => (c.len_utf8(), true),
        };
        let (part, after) = rest.split_at(skipped);
        match shown {
            true => out.push_str(part),
            false => out.extend(
                part.bytes()
                    .map(|byte| if byte == b'\n' { '\n' } else { ' ' }),
            ),
        }
        rest = after;
    }
    out
}

/// The position behind the next `end`, looked for from `from` on.
fn until(text: &str, from: usize, end: &str) -> usize {
    let found = text[from..].find(end);
    found.map_or(text.len(), |at| from + at + end.len())
}

fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_raw_string(text: &str, before: Option<char>) -> bool {
    let starts_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    starts_word && text[1..].trim_start_matches('#').starts_with('"')
}

fn raw_string_end(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    until(text, hashes + 2, &format!("\"{}", "#".repeat(hashes)))
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        return Some(until(text, 3, "'"));
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}

/// Where the items are that `#[cfg(test)]` marks, in a text without comments and strings.
pub(crate) fn test_items(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some((start, mark)) = first_mark(&code[from..]) {
        let start = from + start;
        from = start + mark + item_end(&code[start + mark..]);
        items.push(start..from);
    }
    items
}

/// Where the first attribute is that says "for tests", and how long it is.
fn first_mark(code: &str) -> Option<(usize, usize)> {
    let places = ["#[cfg(test)]", "#[cfg(all(test,"].map(|mark| code.find(mark));
    let start = places.into_iter().flatten().min()?;
    let length = code[start..].find(']')? + 1;
    Some((start, length))
}

/// The end of an item: its semicolon, or the brace that closes its body.
fn item_end(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Identifiers, `::`, and every other character that is no space by itself.
pub(crate) fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let word = rest
            .find(|other: char| !other.is_alphanumeric() && other != '_')
            .unwrap_or(rest.len());
        let length = match c {
            _ if word > 0 => word,
            ':' if rest.starts_with("::") => 2,
            _ => c.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

#[test]
fn comments_strings_and_test_items_are_left_out() {
    let text = r##"a("x{//") /* b */ '{' 'a r#"c"d"# // e
#[cfg(test)]
mod tests { fn f() { } }
#[cfg(all(test, not(any(loom, shuttle))))]
mod fake;
last"##;
    let code = blank(text, Strings::Blank);
    assert_eq!(code.len(), text.len());
    let items = test_items(&code);
    assert_eq!(items.len(), 2);
    assert_eq!(tokens(&code[..items[0].start]), ["a", "(", ")", "'", "a"]);
    assert_eq!(tokens(&code[items[1].end..]), ["last"]);
    assert!(blank(text, Strings::Keep).contains("x{//"));
}
