//! The queues of a virtio disk: kicks and calls, and how they stop, end and go on.
#![allow(unsafe_code)] // eventfds and cachestat
#![cfg(feature = "vhost-user")]
#![allow(clippy::unwrap_used)] // a test program

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use gsource::{PollParams, Reactor};
use qcontext::virtio::blk::Blk;
use qcontext::virtio::{Signal, VirtioDevice};
use support::deadline::DEADLINE;
use support::driven_disk::{
    self, Disk, IN, Image, Medium, Shape, eventfd, open_node, take, try_open,
};

#[test]
fn a_batch_costs_one_kick_and_one_call() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let before = disk.blk.stats(0);
    for sector in 0..16 {
        disk.put(0, (IN, sector), &[], 512, 1);
    }
    assert!(disk.kick(0));
    disk.iterate(1);
    let after = disk.blk.stats(0);
    assert_eq!(after.reads - before.reads, 16);
    assert_eq!(
        (after.kicks - before.kicks, after.calls - before.calls),
        (1, 1)
    );
    assert_eq!(take(&disk.clients[0].call), 1);
}

/// A call that reads the disk's statistics: a request is counted before the guest is called for it.
#[derive(Debug)]
struct Asks {
    disk: OnceLock<Weak<Blk>>,
    seen: Mutex<Vec<(u64, u64)>>,
}

impl Signal for Asks {
    fn signal(&self) {
        if let Some(disk) = self.disk.get().and_then(Weak::upgrade) {
            let stats = disk.stats(0);
            self.seen.lock().unwrap().push((stats.reads, stats.calls));
        }
    }
}

#[test]
fn what_a_guest_is_called_for_is_counted_before_the_call() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let before = disk.blk.stats(0);
    let asks = Arc::new(Asks {
        disk: OnceLock::new(),
        seen: Mutex::default(),
    });
    disk.blk
        .set_call(0, Some(Arc::<Asks>::clone(&asks)))
        .unwrap();
    asks.disk.set(Arc::downgrade(&disk.blk)).unwrap();
    for round in 1..=3 {
        disk.put(0, (IN, 0), &[], 512, 1);
        disk.kick(0);
        disk.iterate(1);
        let told = (before.reads + round, before.calls + round);
        assert_eq!(asks.seen.lock().unwrap().last(), Some(&told));
    }
}

#[test]
fn stopping_waits_for_requests_in_flight_and_starting_goes_on() {
    let image = Image::new(Medium::Disk, &vec![4; 1 << 20]);
    for options in ["aio=io_uring,cache=none", "aio=threads,cache=none"] {
        let Some(node) = try_open(&image, options) else {
            continue;
        };
        let mut disk = Disk::new(Arc::clone(&node), Shape::default());
        for sector in 0..10 {
            disk.put(0, (IN, sector * 8), &[], 4096, 1);
        }
        disk.kick(0);
        disk.iterate(1);
        assert_eq!(disk.stop(0), 10);
        for _ in 0..10 {
            assert_eq!(disk.take_done(0).unwrap().1.data, [4; 4096]);
        }
        let head = disk.put(0, (IN, 0), &[], 512, 1);
        disk.kick(0);
        disk.iterate(3);
        assert!(disk.take_done(0).is_none(), "a stopped queue takes nothing");
        disk.start(0, 10).unwrap();
        let mut done = None;
        disk.wait(|disk| {
            done = disk.take_done(0);
            done.is_some()
        });
        assert_eq!(done.unwrap().0, head);
        disk.stop(0);
        drop(node);
        disk.close();
    }
}

#[test]
fn a_dropped_disk_finishes_what_is_in_flight_and_frees_its_node() {
    for options in ["aio=io_uring,cache=none", "aio=threads,cache=none"] {
        let image = Image::new(Medium::Disk, &vec![4; 1 << 20]);
        let node = try_open(&image, options);
        let Some(node) = node else {
            continue;
        };
        let mut disk = Disk::new(Arc::clone(&node), Shape::default());
        for sector in 0..10 {
            disk.put(0, (IN, sector * 8), &[], 4096, 1);
        }
        disk.kick(0);
        disk.iterate(1);
        let Disk {
            aio,
            blk,
            mut ram,
            mut clients,
            ..
        } = disk;
        drop(blk);
        let start = std::time::Instant::now();
        while !node.parents().is_empty() {
            assert!(start.elapsed() < DEADLINE);
            aio.poll(gsource::Wait::NoBlock).unwrap();
        }
        for _ in 0..10 {
            clients[0]
                .ring
                .take_used(&ram)
                .expect("finished before it went");
        }
        ram.alloc(1, 1);
    }
}

#[test]
fn kick_and_call_fds_can_be_replaced_while_running() {
    let mut disk = Disk::new(open_node("driver=null-co").unwrap(), Shape::default());
    let (kick, call) = (eventfd(), eventfd());
    disk.blk
        .set_kick(0, Some(driven_disk::kick(&kick)))
        .unwrap();
    disk.blk
        .set_call(0, Some(driven_disk::call(&call)))
        .unwrap();
    assert_eq!(take(&call), 1, "a new call fd is signalled once");
    disk.iterate(2);
    disk.clients[0].kick = kick;
    disk.request((IN, 0), &[], 512);
    assert_eq!(take(&call), 1);
    disk.blk.set_call(0, None).unwrap();
    disk.request((IN, 0), &[], 512);
    assert_eq!(take(&call), 0);
}

#[test]
fn no_kick_and_no_call_is_lost_between_two_sleepers() {
    let cases = [(false, 1, 0), (true, 1, 0), (false, 3, 0), (true, 3, 0)];
    let polled = [(false, 1, 32_768), (true, 3, 32_768)];
    for (event_idx, depth, max_ns) in cases.into_iter().chain(polled) {
        let node = open_node("driver=null-co").unwrap();
        let shape = Shape {
            event_idx,
            ..Shape::default()
        };
        let mut disk = Disk::new(node, shape);
        let home = Reactor::new().unwrap();
        let (grow, shrink) = (0, 0);
        home.set_poll_params(PollParams {
            max_ns,
            grow,
            shrink,
        })
        .unwrap();
        disk.aio.attach_to(&home).unwrap();
        take(&disk.clients[0].call);
        let stop = Arc::new(AtomicBool::new(false));
        let (aio, stopped) = (disk.aio.clone(), Arc::clone(&stop));
        let device = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                aio.poll(gsource::Wait::Block).unwrap();
            }
        });
        let mut in_flight = 0;
        for sector in 0..3000 {
            disk.put(0, (IN, sector), &[], 512, 1);
            disk.kick(0);
            in_flight += 1;
            while in_flight == depth {
                sleep_for_call(&disk);
                while disk.take_done(0).is_some() {
                    in_flight -= 1;
                }
            }
        }
        stop.store(true, Ordering::Release);
        disk.aio.notify();
        device.join().unwrap();
        disk.close();
    }
}

/// Waits as a guest does: sleeps until called, unless something is finished already.
fn sleep_for_call(disk: &Disk) {
    let client = &disk.clients[0];
    let mut poll = libc::pollfd {
        fd: client.call.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    if client.ring.event_idx {
        client.ring.set_used_event(&disk.ram, client.ring.used_seen);
    }
    if client.ring.used_index(&disk.ram) == client.ring.used_seen {
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 20_000) };
        assert_eq!(ready, 1, "a kick or a call was lost");
    }
    take(&client.call);
}
