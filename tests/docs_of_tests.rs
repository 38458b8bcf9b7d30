//! What the documentation says of tests: `docs/predecessor-hazards.md` names tests that exist, for each hazard that is cited,
//! `docs/system-calls.md` names tests that exist, and `tests/README.md` has a word for the beginning of each file's name. The files and folders that it names exist.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LIST: &str = "docs/predecessor-hazards.md";

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of each hazard, by its number.
fn hazards() -> BTreeMap<u32, String> {
    let text = fs::read_to_string(top().join(LIST)).unwrap();
    let sections = text.split("\n### ").skip(1);
    let numbered = sections.map(|section| {
        let (number, rest) = section.split_once(". ").unwrap();
        (number.parse().unwrap(), rest.to_owned())
    });
    numbered.collect()
}

/// "FILE: TEST" of each line that names a test.
fn tests_of(hazard: &str) -> Vec<(&str, &str)> {
    let lines = hazard.lines().filter_map(|line| line.strip_prefix("- "));
    lines.map(|line| line.split_once(": ").unwrap()).collect()
}

#[test]
fn each_hazard_has_tests_that_exist() {
    let hazards = hazards();
    assert!(hazards.keys().copied().eq(1..=29), "{:?}", hazards.keys());
    for (number, hazard) in &hazards {
        let tests = tests_of(hazard);
        assert_eq!(tests.is_empty(), hazard.contains("No test: "), "{number}");
        for (file, test) in tests {
            let text = fs::read_to_string(top().join(file)).unwrap();
            let found = [format!("fn {test}("), format!("static void {test}(void)")];
            assert!(
                found.iter().any(|form| text.contains(form)),
                "{number}: no test {test} in {file}"
            );
        }
    }
}

/// "FILE: TEST" in backticks in the last column of the tables of `docs/system-calls.md`.
#[test]
fn tests_of_system_calls_exist() {
    let list = fs::read_to_string(top().join("docs/system-calls.md")).unwrap();
    let last = |line: &str| Some(line.strip_suffix(" |")?.rsplit_once("| ")?.1.to_owned());
    let cells = list.lines().filter_map(last);
    let named: Vec<String> = cells.filter(|cell| cell.contains(".rs: ")).collect();
    assert!(named.len() >= 40, "{}", named.len());
    for cell in named {
        let (file, test) = cell.trim_matches('`').split_once(": ").unwrap();
        let text = fs::read_to_string(top().join(file)).unwrap();
        assert!(
            text.contains(&format!("fn {test}(")),
            "no test {test} in {file}"
        );
    }
}

/// The numbers that a comment cites: "hazards 1, 3 and 9 of docs/…" gives 1, 3, 9.
fn cited(line: &str) -> Vec<u32> {
    let Some((before, _)) = line.split_once(" of docs/predecessor-hazards.md") else {
        return Vec::new();
    };
    let words = before.split([' ', ',']).rev();
    let last = words.take_while(|word| !word.to_lowercase().starts_with("hazard"));
    last.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn cited_hazards_are_in_the_list() {
    assert_eq!(
        cited("/// Hazards 1, 3 and 90 of docs/predecessor-hazards.md, on"),
        [90, 3, 1]
    );
    let known = hazards();
    let mut count = 0;
    for folder in ["tests", "gsource/tests"] {
        for file in fs::read_dir(top().join(folder)).unwrap() {
            let file: PathBuf = file.unwrap().path();
            if !file.is_file() || file.ends_with("docs_of_tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for number in text.lines().flat_map(cited) {
                assert!(known.contains_key(&number), "{}: {number}", file.display());
                count += 1;
            }
        }
    }
    assert!(count >= 30, "{count}");
}

/// The beginnings of names in the README: "gsource/tests/loop_*" gives the folder and "loop_".
fn prefixes(readme: &str) -> Vec<(&str, &str)> {
    let words = readme.split('`').filter_map(|word| word.strip_suffix('*'));
    words.filter_map(|word| word.rsplit_once('/')).collect()
}

#[test]
fn names_of_test_files_begin_with_a_word_of_the_readme() {
    let readme = fs::read_to_string(top().join("tests/README.md")).unwrap();
    let prefixes = prefixes(&readme);
    for folder in ["tests", "gsource/tests", "ffi/tests"] {
        for entry in fs::read_dir(top().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = |(place, start): &(&str, &str)| *place == folder && name.starts_with(start);
            assert!(
                !name.ends_with(".rs") || prefixes.iter().any(known) || readme.contains(&name),
                "{folder}/{name}: no such prefix in tests/README.md"
            );
        }
    }
}

/// The files and folders of the repository that a text names in backticks, up to a `*`.
fn named_paths(text: &str) -> Vec<&str> {
    let folders = ["src/", "gsource/", "ffi/", "tests/", "docs/", "examples/"];
    let is_path = |word: &&str| {
        folders.iter().any(|folder| word.starts_with(folder)) && !word.contains([' ', '{', '<'])
    };
    let quoted = text.split('`').skip(1).step_by(2);
    let paths = quoted.filter(is_path);
    paths.filter_map(|path| path.split('*').next()).collect()
}

fn exists(path: &str) -> bool {
    let (folder, start) = path.rsplit_once('/').unwrap();
    let Ok(mut entries) = fs::read_dir(top().join(folder)) else {
        return false;
    };
    let begins = |name: &str| name.starts_with(start);
    entries.any(|entry| begins(&entry.unwrap().file_name().to_string_lossy()))
}

#[test]
fn files_that_the_documentation_names_exist() {
    let mut pages = vec![top().join("README.md"), top().join("CONTRIBUTING.md")];
    pages.push(top().join("tests/README.md"));
    pages.extend(
        fs::read_dir(top().join("docs"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for path in named_paths(&text) {
            assert!(exists(path), "{}: {path}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(!exists("docs/nothing.md") && !exists("nowhere/file"));
}
