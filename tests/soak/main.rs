//! Eight threads add, change and remove handlers, timers, bottom halves, tasks, jobs and GSources on three contexts, and
//! move AioContexts between them, at full speed; every event is accounted for, nothing is left behind, nothing hangs.
//!
//! SOAK_SECONDS says how long (5), SOAK_SEED which choices are made. Alone in its process, because it counts what is left.
#![deny(unsafe_code)] // the counting allocator and the watchdog say why
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(missing_docs, missing_debug_implementations, unreachable_pub)] // a test program

mod actor;
mod dice;
mod ledger;
mod memory;
mod prop;
mod stage;
mod watchdog;

use actor::Actor;
use ledger::Ledger;
use memory::Held;
use stage::Stage;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use watchdog::Watch;

const ACTORS: usize = 8;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Plays for so long; the books and the number of acts.
fn play(time: Duration, seed: u64) -> (Arc<Ledger>, u64) {
    let watch = Watch::begin();
    let stage = Arc::new(Stage::new());
    let actors: Vec<_> = (0..ACTORS)
        .map(|index| {
            let actor = Actor::new(&stage, seed, index);
            let name = format!("actor{index}");
            thread::Builder::new()
                .name(name)
                .spawn(move || actor.play())
                .unwrap()
        })
        .collect();
    thread::sleep(time);
    stage.end();
    let acts = actors.into_iter().map(|actor| actor.join().unwrap()).sum();
    let stage = Arc::into_inner(stage).expect("the actors are gone");
    let ledger = stage.strike();
    drop(watch);
    (ledger, acts)
}

#[test]
fn every_event_is_accounted_for_and_nothing_is_left() {
    let (seconds, seed) = (setting("SOAK_SECONDS", 5), setting("SOAK_SEED", 1));
    // What the process itself takes once stays.
    drop(play(Duration::from_millis(500), seed));
    memory::settle(2);
    let before = Held::now();
    let (ledger, acts) = play(Duration::from_secs(seconds), seed);
    println!("{seconds} s, seed {seed}: {acts} acts\n{}", ledger.table());
    drop(ledger);
    before.check();
}
