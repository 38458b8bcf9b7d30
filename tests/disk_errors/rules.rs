//! What is done about which error: each value of `werror` and `rerror`, for each kind of request.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use support::directory::TestDir;
use support::front_end::Guest;
use support::qmp::generic;
use support::server::Server;

use super::*;

#[test]
fn without_space_the_device_takes_no_more_requests_until_cont_and_repeats_the_one_that_failed() {
    for setting in SETTINGS {
        let rule = Rule {
            block: Some(3),
            ..Rule::once("write", libc::ENOSPC)
        };
        let mut scene = Scene::new(setting, &[rule], "");
        scene.status_is("ok");
        let (mut guest, last) = (scene.guest(), setting.1 - 1);
        assert_eq!(guest.run(0, &io(true, 1)), 0);
        submit(&mut guest, 0, &io(true, 3));
        scene.failed("write", "stop", Some(true), NO_SPACE);
        scene.status_is("nospace");
        submit(&mut guest, last, &io(true, 5));
        // The device has time to do something wrong.
        for _ in 0..20 {
            assert_eq!(scene.property("writes"), "1", "{setting:?}");
        }
        assert!(is_silent(&mut guest, 0) && is_silent(&mut guest, last));
        assert_eq!([1, 3, 5].map(|block| scene.block(block)), [2, 0, 0]);
        scene.goes_on();
        let mut answers = guest.wait(0);
        while answers.len() < 2 {
            answers.extend(guest.try_wait(last, Duration::from_millis(500)));
        }
        assert!(
            answers.iter().all(|(_, result)| *result == 0),
            "{answers:?}"
        );
        assert_eq!([1, 3, 5].map(|block| scene.block(block)), [2, 4, 6]);
        scene.status_is("ok");
        assert_eq!(scene.property("errors-by-errno"), "{\"ENOSPC\": 1}");
        // Nothing else is said, and it may go on as often as it likes.
        scene.goes_on();
    }
}

/// Starts the request that the rules make fail.
fn start(guest: &mut Guest, kind: &str) {
    match kind {
        "read" => guest.submit(0, 0, &io(false, 3)),
        "write" => guest.submit(0, 0, &io(true, 3)),
        "flush" => guest.submit_flush(0, 0),
        "discard" => guest.submit_discard(0, 0, 3 * BLOCK as u64, BLOCK as u64),
        _ => guest.submit_zeroes(0, 0, 3 * BLOCK as u64, BLOCK as u64),
    }
    guest.kick(0);
}

const KINDS: [&str; 5] = ["read", "write", "flush", "discard", "write-zeroes"];

fn operation(kind: &str) -> &str {
    if kind == "read" { "read" } else { "write" }
}

/// Each kind of request is repeated as a whole, whether it fails at once or later. It may fail again.
#[test]
fn requests_of_every_kind_are_kept_and_repeated() {
    for kind in KINDS {
        for immediately in [false, true] {
            let rules = [(); 2].map(|()| Rule {
                immediately,
                ..Rule::once(kind, libc::EIO)
            });
            let mut scene = Scene::new(SETTINGS[2], &rules, ",rerror=stop,werror=stop");
            let image = File::options()
                .write(true)
                .open(scene.directory.file("disk0.raw"));
            image
                .unwrap()
                .write_all_at(&[9; BLOCK], 3 * BLOCK as u64)
                .unwrap();
            let mut guest = scene.guest();
            start(&mut guest, kind);
            for _ in 0..2 {
                scene.failed(operation(kind), "stop", Some(false), "Input/output error");
                scene.status_is("failed");
                assert!(is_silent(&mut guest, 0), "{kind}");
                scene.goes_on();
            }
            assert_eq!(guest.wait(0), [(0, 0)], "{kind}");
            let expected = match kind {
                "write" => 4,
                "discard" | "write-zeroes" => 0,
                _ => 9,
            };
            assert_eq!(scene.block(3), expected, "{kind}");
            if kind == "read" {
                assert!(
                    guest.memory.bytes()[3 * BLOCK..][..BLOCK]
                        .iter()
                        .all(|byte| *byte == 9)
                );
            }
        }
    }
}

#[test]
fn the_guest_gets_errors_that_are_reported() {
    for kind in KINDS {
        let rules = [Rule::once(kind, libc::ENOSPC)];
        let mut scene = Scene::new(SETTINGS[0], &rules, ",rerror=report,werror=report");
        let mut guest = scene.guest();
        start(&mut guest, kind);
        assert_ne!(guest.wait(0)[0].1, 0, "{kind}");
        // Nothing stops this disk, so there is no status and no word about space.
        scene.failed(operation(kind), "report", None, NO_SPACE);
        let answer = scene.client.ask(r#"{"execute":"query-block"}"#);
        assert!(!answer.contains("io-status"), "{answer}");
        start(&mut guest, kind);
        assert_eq!(guest.wait(0)[0].1, 0, "{kind}");
    }
}

#[test]
fn errors_that_are_ignored_are_not_the_guests_business() {
    for kind in KINDS {
        let rules = [Rule::once(kind, libc::EIO)];
        let mut scene = Scene::new(SETTINGS[1], &rules, ",rerror=ignore,werror=ignore");
        let mut guest = scene.guest();
        start(&mut guest, kind);
        assert_eq!(guest.wait(0), [(0, 0)], "{kind}");
        scene.failed(operation(kind), "ignore", None, "Input/output error");
        assert_eq!(scene.block(3), 0, "{kind}");
    }
}

#[test]
fn by_default_a_guest_is_stopped_for_space_alone() {
    let rules = || {
        [
            Rule::once("write", libc::EIO),
            Rule::once("read", libc::ENOSPC),
        ]
    };
    let mut scene = Scene::new(SETTINGS[0], &rules(), "");
    let mut guest = scene.guest();
    assert_ne!(guest.run(0, &io(true, 1)), 0);
    scene.failed("write", "report", Some(false), "Input/output error");
    // Held back for a second.
    assert_ne!(guest.run(0, &io(false, 1)), 0);
    scene.failed("read", "report", Some(true), NO_SPACE);
    assert_eq!(
        [scene.property("rerror"), scene.property("werror")],
        ["report", "enospc"]
    );
}

#[test]
fn the_device_overrides_its_drive() {
    let directory = TestDir::new();
    directory.image("disk0.raw", 1);
    let drive = "if=none,id=b0,file=disk0.raw,format=raw,werror=ignore,rerror=stop";
    let scene = Scene::of(
        SETTINGS[0],
        directory,
        &["-drive", drive],
        ",werror=report,rerror=auto",
    );
    assert_eq!(
        [scene.property("rerror"), scene.property("werror")],
        ["stop", "report"]
    );
}

#[test]
fn each_failure_that_stops_the_device_is_told() {
    const COUNT: usize = 30;
    let rules: Vec<Rule> = (0..COUNT)
        .map(|_| Rule::once("write", libc::ENOSPC))
        .collect();
    for setting in SETTINGS {
        let mut scene = Scene::new(setting, &rules, "");
        let mut guest = scene.guest();
        for number in 0..COUNT {
            guest.submit(0, number, &io(true, number));
        }
        guest.kick(0);
        for _ in 0..COUNT {
            scene.failed("write", "stop", Some(true), NO_SPACE);
        }
        scene.goes_on();
        let mut answers = Vec::new();
        while answers.len() < COUNT {
            answers.extend(guest.wait(0));
        }
        assert!(
            answers.iter().all(|(_, result)| *result == 0),
            "{answers:?}"
        );
        for number in 0..COUNT {
            assert_eq!(usize::from(scene.block(number)), number + 1);
        }
    }
}

#[test]
fn wrong_values_are_refused_as_by_qemu() {
    let server = Server::start_alone(&["-blockdev", "null-co,node-name=n0,size=1M"]);
    let mut client = server.client();
    for (option, value) in [("werror", "panic"), ("rerror", "no")] {
        let add = format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"virtio-blk","id":"d","drive":"n0","vhost-user":"d.sock","{option}":"{value}"}}}}"#
        );
        let message = format!("Parameter '{option}' does not accept value '{value}'");
        assert_eq!(client.ask(add), generic(&message));
    }
    let export = r#"{"execute":"block-export-add","arguments":{"type":"vhost-user-blk","id":"e","node-name":"n0","addr":{"type":"unix","path":"e.sock"},"werror":"stop"}}"#;
    assert_eq!(
        client.ask(export),
        generic("Parameter 'werror' is unexpected")
    );
}
