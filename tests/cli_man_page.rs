//! The manual page `docs/qctx.1` is what `qctx --help` says, in a fixed frame. `QCTX_UPDATE_MAN=1` writes it.
#![forbid(unsafe_code)]
#![cfg(all(feature = "monitor", feature = "vhost-user"))] // what qctx needs
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::path::Path;
use std::process::Command;

use support::process::qctx;

const BEFORE: &str = r#".\" SPDX-License-Identifier: MIT OR Apache-2.0
.\" Made of qctx --help by tests/cli_man_page.rs: change it there and run the test with QCTX_UPDATE_MAN=1.
.TH QCTX 1 "" "qctx VERSION" "User Commands"
.nh
.ad l
.SH NAME
SUMMARY
.SH SYNOPSIS
.B qctx
.RI [ OPTION ]...
.br
.B qctx
.I SUBCOMMAND
.RI [ ARGUMENT ]...
.SH DESCRIPTION
.B qctx
creates the event loops, disks and devices that its options describe, and serves them until a command or a signal ends it.
Each device is assigned to an event loop by name. Virtual machines connect to a device over vhost-user; their memory must be
shared with the server. With
.B \-machine
the program runs a virtual machine itself, on KVM, and ends when the guest powers off. A running
.B qctx
is managed over QMP, for example by its own subcommands.
"#;

const AFTER: &str = r#".SH ENVIRONMENT
.TP
.B QMP_SOCKET
the QMP socket that subcommands use if no socket is given.
.SH EXIT STATUS
0 after
.BR quit ,
.B SIGTERM
or
.BR SIGINT ,
after the guest of
.B \-machine
powered off, or when a subcommand succeeded; 1 after an error, with a message on standard error.
.SH DIAGNOSTICS
When a request of a guest fails, or a device does not serve its guest or refuses its front end, a line on standard error names device,
queue and reason. Monitors send the event
.B BLOCK_IO_ERROR
or
.BR DEVICE_FAULT ,
and the device has the properties
.IR fault ", " errors " and " errors\-by\-errno .
A front end waits while another one is connected to its device; after a second, this is reported, too.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT ", " SIGHUP ", " SIGXCPU
end the program in order: requests in flight are finished, sockets are removed. A signal that is ignored when the program starts
stays ignored, as under
.BR nohup .
.TP
.BR SIGXFSZ ", " SIGPIPE
do nothing: a write beyond the limit on the size of files (ulimit \-f) fails for the request that made it.
.TP
.BR SIGTSTP ", " SIGCONT
stop and continue the program as a job of a shell. With
.B \-serial stdio
on a terminal, the terminal has its own mode while the program is stopped or in the background, and raw mode in the foreground.
.TP
.B SIGQUIT
ends the program at once; the terminal has its own mode then.
.SH LIMITS
The soft limit on open files is raised to the hard one (ulimit \-Hn). A device needs three files for each queue that a guest uses.
An error that is caused by a limit names it.
.SH SEE ALSO
.BR qemu-system (1),
.BR qemu-storage-daemon (1)
"#;

/// Text that roff prints as it is.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}

/// A paragraph.
fn prose(words: &[&str]) -> String {
    format!("{}\n", plain(&words.join(" ")))
}

/// One thing that is explained: what to type, and the lines about it.
#[derive(Default)]
struct Item<'a> {
    typed: String,
    about: Vec<&'a str>,
}

impl<'a> Item<'a> {
    fn new(line: &'a str) -> Item<'a> {
        let (typed, about) = line.split_once("  ").unwrap_or((line, ""));
        let about = [about.trim()].into_iter().filter(|text| !text.is_empty());
        Item {
            typed: typed.to_owned(),
            about: about.collect(),
        }
    }

    fn add(&mut self, line: &'a str) {
        if self.about.is_empty() && line.starts_with('[') {
            // A long line of options was broken.
            self.typed += line;
        } else {
            self.about.push(line);
        }
    }

    /// What is not explained shares the explanation of the next one.
    fn page(&self, shares: bool) -> String {
        let heading = if shares { ".TQ" } else { ".TP" };
        // Where a line of options may be broken: before an option that may be left out.
        let typed = plain(&self.typed)
            .replace(',', "\\:,")
            .replace("[\\:,", "\\:[,")
            .replace(' ', "\\ ");
        let about = match self.about.is_empty() {
            true => String::new(),
            false => prose(&self.about),
        };
        format!("{heading}\n.B {typed}\n{about}")
    }
}

fn pages(items: &[Item<'_>]) -> String {
    let shares = |at: usize| at > 0 && items[at - 1].about.is_empty();
    let pages = items.iter().enumerate();
    pages.map(|(at, item)| item.page(shares(at))).collect()
}

fn is_typed(line: &str) -> bool {
    line.starts_with('-') || line.starts_with("qctx ")
}

/// A section whose lines explain what to type, and may say something about all of it.
fn explained(lines: &[&str]) -> String {
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut general: Vec<&str> = Vec::new();
    for line in lines {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        match items.last_mut() {
            _ if indent == 2 && is_typed(text) => items.push(Item::new(text)),
            Some(item) if indent > 2 => item.add(text),
            _ => general.push(text),
        }
    }
    general.retain(|text| !text.is_empty());
    let general = match general.is_empty() {
        true => String::new(),
        false => format!(".PP\n{}", prose(&general)),
    };
    format!("{}{general}", pages(&items))
}

fn example(lines: &[&str]) -> String {
    let typed: String = lines
        .iter()
        .map(|line| format!("{}\n", plain(line.strip_prefix("  ").unwrap_or(line))))
        .collect();
    format!(".PP\n.nf\n{typed}.fi\n")
}

/// One section of the help: its title without the colon, and its lines.
fn section(title: &str, lines: &[&str]) -> String {
    let (title, about) = title.split_once(" (").unwrap_or((title, ""));
    let about = match about.trim_end_matches(')') {
        "" => String::new(),
        about => prose(&[&format!("{}{}.", about[..1].to_uppercase(), &about[1..])]),
    };
    let content = match title {
        "Example" => example(lines),
        _ => explained(lines),
    };
    format!(".SH {}\n{about}{content}", title.to_uppercase())
}

/// The page that a help text makes.
fn page(help: &str, version: &str) -> String {
    let mut lines = help.lines();
    let (name, summary) = lines.next().unwrap().split_once(": ").unwrap();
    let lines: Vec<&str> = lines.collect();
    let is_title = |line: &&str| !line.starts_with(' ') && line.ends_with(':');
    let starts: Vec<usize> = (0..lines.len())
        .filter(|&at| is_title(&lines[at]))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    let sections: String = starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| section(lines[start].trim_end_matches(':'), &lines[start + 1..end]))
        .collect();
    let before = BEFORE
        .replace("VERSION", version)
        .replace("SUMMARY", &format!("{name} \\- {summary}"));
    format!("{before}{sections}{AFTER}")
}

fn said(argument: &str) -> String {
    let output = Command::new(qctx()).arg(argument).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn manual_page_is_what_the_help_says() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/qctx.1");
    let wanted = page(
        &said("--help"),
        said("--version").trim().trim_start_matches("qctx "),
    );
    if std::env::var_os("QCTX_UPDATE_MAN").is_some() {
        std::fs::write(&place, &wanted).unwrap();
    }
    let committed = std::fs::read_to_string(&place).unwrap();
    assert!(
        committed == wanted,
        "{} is not current: run this test with QCTX_UPDATE_MAN=1",
        place.display()
    );
}

/// The page as a reader sees it: no macros, no escapes.
fn text(page: &str) -> String {
    let without_macro = |line: &str| match line.strip_prefix('.') {
        Some(line) => line.split_once(' ').map_or("", |(_, text)| text).to_owned(),
        None => line.to_owned(),
    };
    let lines: Vec<String> = page.lines().map(without_macro).collect();
    let text = lines.join(" ").replace("\\:", "").replace("\\ ", " ");
    text.replace("\\-", "-")
        .replace("\\&", "")
        .replace("\\e", "\\")
}

#[test]
fn every_word_of_the_help_is_in_the_page_in_order() {
    let help = said("--help");
    let page = text(&page(&help, "1.2.3"));
    let squeezed: String = page.split_whitespace().collect();
    let mut rest = squeezed.as_str();
    let words = help.lines().skip(1).filter(|line| line.starts_with(' '));
    for word in words.flat_map(str::split_whitespace) {
        let found = rest.split_once(word);
        assert!(found.is_some(), "'{word}' is not in its place");
        rest = found.unwrap().1;
    }
}

#[test]
fn page_of_another_help_is_another_page() {
    let help = "qctx: summary\n\nOptions:\n  -one A[,b=N]\n       [,c=N]\n       about one\n  -two\n  -three   about both\n";
    let other = page(help, "1.2.3");
    let options = ".SH OPTIONS\n.TP\n.B \\-one\\ A\\:[,b=N]\\:[,c=N]\nabout one\n\
                   .TP\n.B \\-two\n.TQ\n.B \\-three\nabout both\n";
    assert!(other.contains(options), "{other}");
    assert!(other.contains("qctx 1.2.3") && other.contains("qctx \\- summary\n"));
}
