//! Front ends that misbehave: whatever they send, withdraw or stop doing, the process lives, the device serves the next one,
//! and another device on the same context does not notice.
#![forbid(unsafe_code)]
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // also in what tests call

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use qcontext::QContext;
use support::deadline::DEADLINE;
use support::directory::unique;
use support::front_end::{Guest, Io};
use support::raw_front_end::{
    self, FrontEnd, RAM, Raw, eventfd, memory, used_index, words, write_requests,
};
use support::served_disk::{Disk, Engine};

const MIB: u64 = 1 << 20;

/// Tests here count fds, so they go one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A context with the victim's disk and a neighbour's, whose guest is at work.
struct Scene {
    neighbour: Guest,
    victim: Disk,
    _neighbours: Disk,
    _context: QContext,
}

impl Scene {
    fn new() -> Scene {
        let context = QContext::new(&unique("ctx"), true).unwrap();
        let victim = Disk::new(Engine::Null, MIB, 2, &context);
        let neighbours = Disk::new(Engine::Null, MIB, 1, &context);
        let neighbour = Guest::connect(&neighbours.socket, 1, 64, true, 4096).unwrap();
        Scene {
            neighbour,
            victim,
            _neighbours: neighbours,
            _context: context,
        }
    }

    fn socket(&self) -> &Path {
        &self.victim.socket
    }

    /// The neighbour is at work for a while.
    fn neighbour_works(&mut self) {
        (0..200).for_each(|_| round_trip(&mut self.neighbour));
    }

    /// The neighbour is served, and so is the next guest of the victim.
    fn still_serves(&mut self) {
        round_trip(&mut self.neighbour);
        let mut next = Guest::connect(self.socket(), 2, 64, true, 4096).unwrap();
        assert_eq!(next.run(0, &read()), 0);
        assert_eq!(next.run(1, &read()), 0);
    }
}

fn read() -> Io {
    Io {
        write: false,
        offset: 0,
        segments: vec![(0, 4096)],
    }
}

/// One request, which fails when it takes too long.
fn round_trip(guest: &mut Guest) {
    assert_eq!(guest.run(0, &read()), 0);
}

fn pipe() -> OwnedFd {
    std::io::pipe().unwrap().0.into()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn kick_fd_that_is_a_pipe_is_refused() {
    let _alone = alone();
    let mut scene = Scene::new();
    for need_reply in [true, false] {
        let front_end = FrontEnd::connect(scene.socket());
        for message in FrontEnd::negotiation(memory()) {
            front_end.send(&message);
        }
        let kick = Raw::new(raw_front_end::SET_VRING_KICK, words(&[0]), Some(pipe()));
        if need_reply {
            assert_eq!(front_end.ask(&kick), Some(1));
            assert!(front_end.is_served());
        } else {
            front_end.send(&kick);
            assert!(!front_end.is_served());
        }
    }
    scene.still_serves();
}

#[test]
fn honest_raw_front_end_is_served() {
    let _alone = alone();
    let scene = Scene::new();
    let (ram, kick) = (memory(), eventfd());
    let file = File::from(ram.try_clone().unwrap());
    let front_end = FrontEnd::running(scene.socket(), ram, kick.try_clone().unwrap(), eventfd());
    write_requests(&file, 5);
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    until("five answers", || used_index(&file) == 5);
    assert!(front_end.is_served());
}

#[test]
fn memory_truncated_under_a_running_queue_stops_only_that_device() {
    let _alone = alone();
    let mut scene = Scene::new();
    for kept in [0, 4096, RAM as u64 / 2] {
        let (ram, kick) = (memory(), eventfd());
        let file = File::from(ram.try_clone().unwrap());
        let front_end =
            FrontEnd::running(scene.socket(), ram, kick.try_clone().unwrap(), eventfd());
        write_requests(&file, 3);
        file.set_len(kept).unwrap();
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        for _ in 0..20 {
            round_trip(&mut scene.neighbour);
        }
        assert!(front_end.is_served());
        drop(front_end);
        scene.still_serves();
    }
}

#[test]
fn call_fd_that_would_block_blocks_nobody() {
    let _alone = alone();
    let mut scene = Scene::new();
    let (ram, kick, call) = (memory(), eventfd(), eventfd());
    let file = File::from(ram.try_clone().unwrap());
    let front_end = FrontEnd::running(
        scene.socket(),
        ram,
        kick.try_clone().unwrap(),
        call.try_clone().unwrap(),
    );
    // Full, and blocking again whatever the device has done to the flags of the file that we share.
    rustix::fs::fcntl_setfl(&call, rustix::fs::OFlags::NONBLOCK).unwrap();
    let _ = rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes());
    rustix::fs::fcntl_setfl(&call, rustix::fs::OFlags::empty()).unwrap();
    write_requests(&file, 4);
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    until("four answers", || used_index(&file) == 4);
    for _ in 0..20 {
        round_trip(&mut scene.neighbour);
    }
    assert!(front_end.is_served());
    drop(front_end);
    scene.still_serves();
}

#[test]
fn kick_fd_that_is_full_and_blocking_blocks_nobody_and_does_not_spin() {
    let _alone = alone();
    let mut scene = Scene::new();
    let (ram, kick) = (memory(), eventfd());
    let front_end = FrontEnd::running(scene.socket(), ram, kick.try_clone().unwrap(), eventfd());
    rustix::fs::fcntl_setfl(&kick, rustix::fs::OFlags::NONBLOCK).unwrap();
    rustix::io::write(&kick, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    rustix::fs::fcntl_setfl(&kick, rustix::fs::OFlags::empty()).unwrap();
    round_trip(&mut scene.neighbour);
    let before = scene.victim.stats().kicks;
    scene.neighbour_works();
    assert!(scene.victim.stats().kicks <= before + 1);
    drop(front_end);
    scene.still_serves();
}

#[test]
fn silence_after_half_a_message_holds_up_no_neighbour() {
    let _alone = alone();
    let mut scene = Scene::new();
    let front_end = FrontEnd::connect(scene.socket());
    let message = Raw::new(raw_front_end::SET_FEATURES, words(&[1 << 32]), None);
    front_end.send_part(&message, false, 0, 7);
    scene.neighbour_works();
    front_end.send_part(&message, false, 7, 20);
    assert!(front_end.is_served());
}

#[test]
fn flood_of_messages_holds_up_no_neighbour() {
    const ROUNDS: usize = 50;
    let _alone = alone();
    let mut scene = Scene::new();
    let socket = scene.socket().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let rounds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rounds);
    let flood = std::thread::spawn(move || {
        let front_end = FrontEnd::connect(&socket);
        let message = Raw::new(raw_front_end::SET_OWNER, Vec::new(), None);
        while !stopped.load(Ordering::Relaxed) {
            (0..200).for_each(|_| front_end.send(&message));
            assert!(front_end.is_served());
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Both get on, all the time.
    for _ in 0..10 {
        let before = rounds.load(Ordering::Relaxed);
        until("the flood to go on", || {
            round_trip(&mut scene.neighbour);
            rounds.load(Ordering::Relaxed) >= before + ROUNDS / 10
        });
        scene.neighbour_works();
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn disconnect_in_every_state_frees_the_device_for_the_next() {
    let _alone = alone();
    let mut scene = Scene::new();
    let steps = FrontEnd::negotiation(memory()).len() + FrontEnd::queue(eventfd(), eventfd()).len();
    for complete in 0..=steps {
        for half in [0, 1, 11, 12, 13] {
            let messages = FrontEnd::negotiation(memory()).into_iter();
            let messages: Vec<_> = messages
                .chain(FrontEnd::queue(eventfd(), eventfd()))
                .collect();
            let front_end = FrontEnd::connect(scene.socket());
            messages[..complete]
                .iter()
                .for_each(|message| front_end.send(message));
            if let Some(next) = messages.get(complete) {
                let end = half.min(12 + next.payload.len());
                front_end.send_part(next, false, 0, end);
            }
        }
        scene.still_serves();
    }
}

#[test]
fn disconnect_during_a_queue_stop_frees_the_device_for_the_next() {
    let _alone = alone();
    let mut scene = Scene::new();
    for _ in 0..20 {
        let (ram, kick) = (memory(), eventfd());
        let file = File::from(ram.try_clone().unwrap());
        let front_end =
            FrontEnd::running(scene.socket(), ram, kick.try_clone().unwrap(), eventfd());
        write_requests(&file, 20);
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        front_end.send(&Raw::new(
            raw_front_end::GET_VRING_BASE,
            raw_front_end::pair(0, 0),
            None,
        ));
    }
    scene.still_serves();
}

#[test]
fn a_thousand_connections_leak_no_fd() {
    let _alone = alone();
    let mut scene = Scene::new();
    scene.still_serves();
    let is_free = |at: &Scene| !at.victim.device().is_connected();
    until("the guest to be gone", || is_free(&scene));
    let before = open_fds();
    for round in 0..1000 {
        let front_end = match round % 3 {
            0 => FrontEnd::connect(scene.socket()),
            1 => FrontEnd::running(scene.socket(), memory(), eventfd(), eventfd()),
            _ => {
                let front_end = FrontEnd::connect(scene.socket());
                let kick = Raw::new(raw_front_end::SET_VRING_KICK, words(&[0]), Some(pipe()));
                front_end.send(&kick);
                front_end
            }
        };
        drop(front_end);
    }
    scene.still_serves();
    until("the guest to be gone", || is_free(&scene));
    // Fewer is fine: the context of an earlier test may have been on its way out when we counted.
    until("every fd to be closed", || open_fds() <= before);
}

#[test]
fn random_bytes_and_fds_never_end_the_process() {
    let _alone = alone();
    let mut scene = Scene::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    for _ in 0..300 {
        let front_end = FrontEnd::connect(scene.socket());
        for message in FrontEnd::negotiation(memory()) {
            front_end.send(&message);
        }
        for _ in 0..random(20) {
            let payload = (0..random(6)).map(|_| match random(4) {
                0 => u64::MAX - random(4),
                1 => random(1 << 20),
                _ => random(3),
            });
            let payload = words(&payload.collect::<Vec<_>>());
            let fd = match random(4) {
                0 => Some(pipe()),
                1 => Some(memory()),
                2 => Some(eventfd()),
                _ => None,
            };
            let request = u32::try_from(random(45)).unwrap();
            front_end.send(&Raw::new(request, payload, fd));
        }
    }
    scene.still_serves();
}
