//! Rules over a crate's modules. Each one answers with what breaks it, in words.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{Imports, Module, Sources, is_within};
use crate::text::tokens;

/// Which modules, with what is below them, must not name or import what.
pub(crate) type Ban<'a> = (&'a [&'a str], &'a [&'a str]);

/// Imports from a lower layer to a higher one. `layers` has the modules of each, from below.
pub(crate) fn upward(sources: &Sources, layers: &[&[&str]]) -> Vec<String> {
    let layer = |module: &str| {
        let top = module.split('/').next().unwrap_or_default();
        layers.iter().position(|layer| layer.contains(&top))
    };
    let mut wrong = Vec::new();
    for (module, targets) in sources.imports() {
        if layer(&module).is_none() {
            wrong.push(format!("'{module}' has no layer"));
        }
        let up = targets
            .iter()
            .filter(|target| layer(target) > layer(&module));
        wrong.extend(up.map(|target| format!("{module} -> {target}")));
    }
    wrong
}

/// Imports between files of different folders that are part of a circle.
pub(crate) fn circles(sources: &Sources) -> Vec<String> {
    circles_between(sources, |module, target| {
        !Sources::are_neighbours(module, target)
    })
}

/// Imports between any two files that are part of a circle.
pub(crate) fn file_circles(sources: &Sources) -> Vec<String> {
    circles_between(sources, |_, _| true)
}

fn circles_between(sources: &Sources, counts: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let imports = sources.imports();
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|module| (module, reached_from(module, &imports)))
        .collect();
    let mut wrong = Vec::new();
    for (module, targets) in &imports {
        for target in targets {
            let is_circle = reached
                .get(target)
                .is_some_and(|back| back.contains(module));
            if is_circle && counts(module, target) {
                wrong.push(format!("{module} -> {target} -> ... -> {module}"));
            }
        }
    }
    wrong
}

fn reached_from<'a>(start: &'a Module, imports: &'a Imports) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![start];
    while let Some(module) = next.pop() {
        for target in imports.get(module).into_iter().flatten() {
            if reached.insert(target) {
                next.push(target);
            }
        }
    }
    reached
}

/// Imports of modules that must not be known although they lie below.
pub(crate) fn banned_imports(sources: &Sources, bans: &[Ban<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, targets) in sources.imports() {
        let own = bans.iter().filter(|ban| applies(ban, &module));
        let own: Vec<&str> = own.flat_map(|(_, banned)| *banned).copied().collect();
        let known = targets
            .iter()
            .filter(|target| own.iter().any(|banned| is_within(target, banned)));
        wrong.extend(known.map(|target| format!("{module} -> {target}")));
    }
    wrong
}

fn applies((modules, _): &Ban<'_>, module: &str) -> bool {
    modules.iter().any(|banned| is_within(module, banned))
}

/// Words that a module must not name. A word is an identifier, or a part of one: `Blk` and `VIRTIO_BLK` name `blk`.
pub(crate) fn banned_words(sources: &Sources, bans: &[Ban<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, text) in sources.texts() {
        let own = bans
            .iter()
            .filter(|(modules, _)| modules.iter().any(|banned| is_within(module, banned)));
        let own: BTreeSet<&str> = own.flat_map(|(_, words)| *words).copied().collect();
        for identifier in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let parts = parts(identifier);
            let named = own
                .iter()
                .filter(|word| **word == identifier || parts.iter().any(|part| part == *word));
            wrong.extend(named.map(|word| format!("{module} names {word}: {identifier}")));
        }
    }
    wrong
}

/// Types of one name in two places of a crate.
pub(crate) fn types_of_one_name(sources: &Sources) -> Vec<String> {
    let mut found: BTreeMap<&str, Vec<&Module>> = BTreeMap::new();
    for (module, bare) in sources.bare_texts() {
        for name in declared_types(bare) {
            found.entry(name).or_default().push(module);
        }
    }
    let twice = found.iter().filter(|(_, modules)| modules.len() > 1);
    twice
        .map(|(name, modules)| format!("{name}: {modules:?}"))
        .collect()
}

/// The types that a module declares outside of all braces.
fn declared_types(bare: &str) -> Vec<&str> {
    let tokens = tokens(bare);
    let mut depth = 0;
    let mut names = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "struct" | "enum" | "union" | "trait" | "type" if depth == 0 => {
                names.extend(tokens.get(at + 1).copied());
            }
            _ => {}
        }
    }
    names
}

/// The words in an identifier, in small letters: those of `blkQueue_SIZE` are `blk`, `queue` and `size`.
fn parts(identifier: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_small = false;
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && was_small) {
            parts.push(String::new());
        }
        was_small = c.is_lowercase() || c.is_numeric();
        if c != '_'
            && let Some(last) = parts.last_mut()
        {
            last.extend(c.to_lowercase());
        }
    }
    parts
}

#[test]
fn words_of_identifiers_are_told_apart() {
    assert_eq!(parts("VirtioBlk"), ["virtio", "blk"]);
    assert_eq!(parts("VIRTIO_BLK"), ["virtio", "blk"]);
    assert_eq!(parts("is_driven"), ["is", "driven"]);
}
