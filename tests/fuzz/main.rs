//! Everything that strangers send, mangled: JSON, options, vhost-user messages, rings and requests in a guest's memory, images.
//! Nothing panics, hangs or stays broken. The changes are random but reproducible.
//!
//! FUZZ_ROUNDS says how many inputs each target gets (2000), FUZZ_SECONDS gives each so much time instead, FUZZ_SEED which.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(missing_docs, missing_debug_implementations, unreachable_pub)] // a test program
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod image;
mod mangle;
mod peer;
mod ring;
mod text;

use mangle::Mangler;
use std::time::{Duration, Instant};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Feeds `target` as many mangled inputs as the settings say. If one fails, its number is printed.
fn fuzz(name: &str, mut target: impl FnMut(&mut Mangler)) {
    struct Last<'a>(&'a str, u64, u64);
    impl Drop for Last<'_> {
        fn drop(&mut self) {
            let Last(name, seed, round) = self;
            println!("{name}: {round} inputs, FUZZ_SEED={seed}");
        }
    }
    let seed = setting("FUZZ_SEED").unwrap_or(1);
    let rounds = setting("FUZZ_ROUNDS").unwrap_or(2_000);
    let time = setting("FUZZ_SECONDS").map(Duration::from_secs);
    let (begin, mut mangler) = (Instant::now(), Mangler::new(seed));
    let mut last = Last(name, seed, 0);
    while time.map_or(last.2 < rounds, |time| begin.elapsed() < time) {
        last.2 += 1;
        target(&mut mangler);
    }
}

#[test]
fn json_in_any_pieces_is_read_or_refused() {
    fuzz("json", text::json());
}

#[test]
fn json_that_was_read_is_written_as_what_was_read() {
    fuzz("json round trip", text::round_trip());
}

#[test]
fn options_are_read_or_refused() {
    fuzz("options", text::options());
}

#[test]
fn vhost_user_peer_can_say_what_it_likes() {
    let mut target = peer::Target::new();
    fuzz("vhost-user", |mangler| target.converse(mangler));
    target.check();
}

#[test]
fn guest_can_put_what_it_likes_into_its_ring() {
    let mut target = ring::Target::new();
    fuzz("ring", |mangler| target.offer(mangler));
}

#[test]
fn image_can_have_what_it_likes_in_its_metadata() {
    if let Some(reason) = support::qemu_img::missing() {
        return support::skip::skip(reason);
    }
    let mut target = image::Target::new();
    fuzz("image", |mangler| target.damage(mangler));
    target.check();
}
