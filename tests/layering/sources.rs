//! The source of a crate as modules, and which of them import which.
//!
//! Found by reading the text, not by a compiler: `use` declarations and paths, whose first name is `crate`, `self`, `super`, a
//! child module or something that was imported. Names that a module re-exports lead to the module that has them. That a module
//! re-exports what its children have is not an import.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // whatever goes wrong ends the test

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::text::{Strings, blank, test_items, tokens};

/// A module's path below the crate, `kvm/mmio`; empty for the crate itself.
pub(crate) type Module = String;
/// Which modules each module imports.
pub(crate) type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// The modules of a crate with their code; what is there for tests alone is not in it.
#[derive(Clone, Debug)]
pub(crate) struct Sources(BTreeMap<Module, Code>);

#[derive(Clone, Debug, Default)]
struct Code {
    /// Without comments.
    text: String,
    /// Without comments and strings.
    bare: String,
}

/// One imported name: where it comes from, and what it is called here.
#[derive(Debug)]
struct Import {
    path: Vec<String>,
    name: String,
    /// It is visible to others under this module's name.
    is_export: bool,
}

/// All `.rs` files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

impl Sources {
    /// Reads the crate whose root is `lib.rs` in that folder.
    pub(crate) fn read(folder: &Path) -> Sources {
        let mut sources = BTreeMap::new();
        let mut for_tests = Vec::new();
        for file in files(folder) {
            let below = file.strip_prefix(folder).unwrap().with_extension("");
            let module = match below.to_str().unwrap() {
                "lib" => Module::new(),
                other => other.to_owned(),
            };
            let (code, names) = Code::of(&fs::read_to_string(&file).unwrap());
            for_tests.extend(names.iter().map(|name| join(&module, name)));
            sources.insert(module, code);
        }
        sources.retain(|module, _| !for_tests.iter().any(|test| is_within(module, test)));
        Sources(sources)
    }

    /// The same with more code in one module.
    pub(crate) fn with(&self, module: &str, text: &str) -> Sources {
        let mut changed = self.clone();
        let code = changed.0.entry(module.to_owned()).or_default();
        let (more, _) = Code::of(text);
        code.text.push_str(&more.text);
        code.bare.push_str(&more.bare);
        changed
    }

    /// The same without these modules and what is below them.
    pub(crate) fn without(&self, modules: &[&str]) -> Sources {
        let mut changed = self.clone();
        let is_out = |module: &str| modules.iter().any(|out| is_within(module, out));
        changed.0.retain(|module, _| !is_out(module));
        changed
    }

    /// Every module with its code, strings included.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Module, &str)> {
        let all = self.0.iter();
        all.map(|(module, code)| (module, code.text.as_str()))
    }

    /// Every module with its code, without strings.
    pub(crate) fn bare_texts(&self) -> impl Iterator<Item = (&Module, &str)> {
        let all = self.0.iter();
        all.map(|(module, code)| (module, code.bare.as_str()))
    }

    /// Whether the files of two modules share a folder; `foo.rs` belongs to `foo/` as well. What lies in the folder of the crate
    /// itself is apart from each other.
    pub(crate) fn are_neighbours(module: &str, other: &str) -> bool {
        let (folder, other_folder) = (parent(module), parent(other));
        let beside = folder == other_folder && folder != Some("");
        beside || folder == Some(other) || other_folder == Some(module)
    }

    /// Which modules each module imports.
    pub(crate) fn imports(&self) -> Imports {
        let names = self.0.iter();
        let names: BTreeMap<&Module, Vec<Import>> = names
            .map(|(module, code)| (module, self.names(module, &code.bare)))
            .collect();
        let all = names.iter().map(|(module, imports)| {
            let facade =
                |import: &&Import| import.is_export && is_within(&import.path.join("/"), module);
            let real = imports.iter().filter(|import| !facade(import));
            let mut targets: BTreeSet<Module> = real
                .map(|import| self.home(&names, &import.path, 0))
                .collect();
            targets.remove(*module);
            ((*module).clone(), targets)
        });
        all.collect()
    }

    /// What the code of a module names, as paths from the crate's root.
    fn names(&self, module: &str, bare: &str) -> Vec<Import> {
        let tokens = tokens(bare);
        let mut imports = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            if *token == "use" && tokens.get(at + 1) != Some(&"<") {
                let is_export = at > 0 && matches!(tokens[at - 1], "pub" | ")");
                let mut leaves = Vec::new();
                use_tree(&tokens, at + 1, &[], &mut leaves);
                for (path, name) in leaves {
                    if let Some(path) = self.absolute(module, &path, &[]) {
                        imports.push(Import {
                            path,
                            name,
                            is_export,
                        });
                    }
                }
            }
        }
        for path in paths(&tokens) {
            if let Some(path) = self.absolute(module, &path, &imports) {
                let (name, is_export) = (String::new(), false);
                imports.push(Import {
                    path,
                    name,
                    is_export,
                });
            }
        }
        imports
    }

    /// A path of a module's code as a path from the root; `None` if it leads out of the crate.
    fn absolute(&self, module: &str, path: &[&str], imports: &[Import]) -> Option<Vec<String>> {
        let mut base: Vec<String> = segments(module);
        let mut rest = path;
        match path[0] {
            "crate" => base.clear(),
            "self" | "super" => {}
            first => {
                let known = imports.iter().find(|import| import.name == first);
                match known {
                    Some(known) => base.clone_from(&known.path),
                    None if self.0.contains_key(&join(module, first)) => {
                        base.push(first.to_owned());
                    }
                    None => return None,
                }
            }
        }
        rest = &rest[usize::from(!matches!(path[0], "super"))..];
        while let [first, more @ ..] = rest
            && matches!(*first, "super" | "self")
        {
            if *first == "super" {
                base.pop();
            }
            rest = more;
        }
        base.extend(rest.iter().map(|name| (*name).to_owned()));
        Some(base)
    }

    /// The module that has what the path names.
    fn home(
        &self,
        names: &BTreeMap<&Module, Vec<Import>>,
        path: &[String],
        depth: usize,
    ) -> Module {
        let mut module = Module::new();
        let mut rest = path.iter();
        let mut item = None;
        for name in rest.by_ref() {
            let inner = join(&module, name);
            if !self.0.contains_key(&inner) {
                item = Some(name);
                break;
            }
            module = inner;
        }
        let imports = names.get(&module).map_or(&[][..], Vec::as_slice);
        let exported = item.and_then(|item| imports.iter().find(|import| import.name == *item));
        match exported {
            // Re-exports of re-exports end somewhere.
            Some(exported) if depth < 8 => {
                let further: Vec<String> = exported.path.iter().chain(rest).cloned().collect();
                self.home(names, &further, depth + 1)
            }
            _ => module,
        }
    }
}

impl Code {
    /// The code, and the names of the child modules that are there for tests alone.
    fn of(text: &str) -> (Code, Vec<String>) {
        let mut code = Code {
            text: blank(text, Strings::Keep),
            bare: blank(text, Strings::Blank),
        };
        let mut children = Vec::new();
        for item in test_items(&code.bare).into_iter().rev() {
            let tokens = tokens(&code.bare[item.clone()]);
            let name = tokens.iter().position(|token| *token == "mod");
            children.extend(name.map(|at| tokens[at + 1].to_owned()));
            code.text.replace_range(item.clone(), "");
            code.bare.replace_range(item, "");
        }
        (code, children)
    }
}

/// Reads the tree of a `use` declaration from a token on, as paths with the names that they get; returns where it ends.
fn use_tree<'a>(
    tokens: &[&'a str],
    mut at: usize,
    before: &[&'a str],
    leaves: &mut Vec<(Vec<&'a str>, String)>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at).copied() {
            Some("::") => {}
            Some("{") => {
                while !matches!(tokens.get(at), Some(&"}") | None) {
                    at += 1;
                    if !matches!(tokens.get(at), Some(&"}") | None) {
                        at = use_tree(tokens, at, &path, leaves);
                    }
                }
                return at + 1;
            }
            Some("as") => {
                leaves.push((path, tokens[at + 1].to_owned()));
                return at + 2;
            }
            Some(name) if !matches!(name, "," | "}" | ";") => path.push(name),
            _ => break,
        }
        at += 1;
    }
    path.pop_if(|last| matches!(*last, "self" | "*"));
    let name = path.last().map_or("", |last| last).to_owned();
    leaves.push((path, name));
    at
}

/// The paths of two names and more outside of `use` declarations.
fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    let is_name = |token: &str| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at += tokens[at..]
                .iter()
                .position(|token| *token == ";")
                .unwrap_or(1);
        }
        // `pub(in crate::x)` says who may look, and imports nothing.
        let is_visibility = at > 2 && tokens[at - 3..at] == ["pub", "(", "in"];
        let mut path = Vec::new();
        while at < tokens.len() && is_name(tokens[at]) {
            path.push(tokens[at]);
            at += 1;
            match tokens.get(at..at + 2) {
                Some(["::", next]) if is_name(next) => at += 1,
                _ => break,
            }
        }
        if path.is_empty() {
            at += 1;
        } else if path.len() > 1 && !is_visibility {
            paths.push(path);
        }
    }
    paths
}

fn join(module: &str, name: &str) -> Module {
    match module {
        "" => name.to_owned(),
        _ => format!("{module}/{name}"),
    }
}

fn parent(module: &str) -> Option<&str> {
    match module.rsplit_once('/') {
        Some((parent, _)) => Some(parent),
        None => (!module.is_empty()).then_some(""),
    }
}

fn segments(module: &str) -> Vec<String> {
    let names = module.split('/').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Whether a module is another one or below it.
pub(crate) fn is_within(module: &str, other: &str) -> bool {
    other.is_empty()
        || module
            .strip_prefix(other)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
