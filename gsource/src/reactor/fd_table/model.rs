//! A removal by another thread, which closes the fd and has its number again for another file, against a home that waits and
//! looks up what its events are for. The table, the tokens, the home's memory of them and the epoll set are the real ones;
//! loom chooses who comes next between their steps.
#![allow(unsafe_code)] // dup3(2) gives a number to another file

use super::{Batch, FdTable, KernelSet, WAKE, split};
use crate::eventfd::EventFd;
use crate::poller::epoll::{Epoll, Event};
use crate::reactor::fd_cache::FdCache;
use crate::reactor::fd_handler::FdHandler;
use crate::reactor::fd_record::FdRecord;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Weak};

/// How the home finds whom an event is for.
type Find = fn(&World, &mut FdCache, &Event) -> Vec<Arc<FdRecord>>;

struct World {
    epoll: Arc<Epoll>,
    table: Mutex<FdTable>,
    released: Mutex<Vec<Arc<FdRecord>>>,
    /// Where threads may take turns around what loom does not see.
    step: AtomicUsize,
    /// Lives on after its number has gone to the other file, and is readable all the time.
    old_file: EventFd,
    new_file: EventFd,
    number: OwnedFd,
    old: Arc<FdRecord>,
    new: Arc<FdRecord>,
    _wake: EventFd,
}

fn duplicate(file: &EventFd) -> OwnedFd {
    // SAFETY: F_DUPFD_CLOEXEC takes a number.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: the kernel just gave us this fd.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn record(fd: RawFd) -> Arc<FdRecord> {
    let handler = FdHandler::new().on_read(|| ());
    Arc::new(FdRecord::new(fd, handler, Weak::new()))
}

impl World {
    fn new() -> loom::sync::Arc<World> {
        let [old_file, new_file, wake] = [(); 3].map(|()| EventFd::new().unwrap());
        let number = duplicate(&old_file);
        old_file.write();
        let (old, new) = (record(number.as_raw_fd()), record(number.as_raw_fd()));
        let epoll = Arc::new(Epoll::new().unwrap());
        let mut table = FdTable::default();
        let trouble = table.open(
            KernelSet::Epoll(Arc::clone(&epoll)),
            (wake.as_raw_fd(), WAKE),
        );
        assert!(trouble.unwrap().is_empty());
        table.add(&old).unwrap();
        loom::sync::Arc::new(World {
            epoll,
            table: Mutex::new(table),
            released: Mutex::new(Vec::new()),
            step: AtomicUsize::new(0),
            old_file,
            new_file,
            number,
            old,
            new,
            _wake: wake,
        })
    }

    fn step(&self) {
        self.step.fetch_add(1, Ordering::SeqCst);
    }

    fn remove_old(&self) {
        self.old.mark_removed();
        self.step();
        self.table.lock().unwrap().remove(&self.old);
        self.released.lock().unwrap().push(Arc::clone(&self.old));
    }

    /// Closes the number and opens it again, in one.
    fn reuse(&self) {
        self.step();
        let (from, to) = (self.new_file.as_raw_fd(), self.number.as_raw_fd());
        // SAFETY: both numbers are ours.
        assert_eq!(unsafe { libc::dup3(from, to, libc::O_CLOEXEC) }, to);
        self.step();
    }

    fn add_new(&self) {
        self.table.lock().unwrap().add(&self.new).unwrap();
    }

    /// A turn of the home: whom it has called.
    fn turn(&self, cache: &mut FdCache, find: Find) -> Vec<Arc<FdRecord>> {
        self.step();
        let mut events = [Event { events: 0, u64: 0 }; 4];
        let count = self.epoll.wait(&mut events, 0);
        self.step();
        let mut called = Vec::new();
        for event in &events[..count] {
            called.extend(find(self, cache, event));
        }
        self.step();
        called.retain(|record| !record.is_removed());
        for record in std::mem::take(&mut *self.released.lock().unwrap()) {
            cache.forget(&record);
        }
        called
    }
}

/// As the home does it: by the token, from memory or from the table.
fn by_token(world: &World, cache: &mut FdCache, event: &Event) -> Vec<Arc<FdRecord>> {
    let token = event.u64;
    if let Some(record) = cache.get(token) {
        let called = Arc::clone(&record);
        assert!(cache.put(record).is_none());
        return vec![called];
    }
    let mut table = world.table.lock().unwrap();
    if let Some(record) = table.sole(token) {
        cache.insert(token, Arc::clone(&record));
        return vec![record];
    }
    let mut batch = Batch::new();
    table.collect(event, &mut batch).unwrap();
    batch.into_iter().map(|(record, _)| record).collect()
}

/// As one would without generations.
fn by_number(world: &World, _cache: &mut FdCache, event: &Event) -> Vec<Arc<FdRecord>> {
    let [fd, _] = split(event.u64);
    let table = world.table.lock().unwrap();
    let entry = table.entry(fd.cast_signed());
    entry.map_or(Vec::new(), |entry| entry.records.clone())
}

/// `change` on another thread against two turns, then what must be so for ever.
fn check(change: fn(&World), find: Find) {
    loom::model(move || {
        let world = World::new();
        let other = {
            let world = loom::sync::Arc::clone(&world);
            loom::thread::spawn(move || change(&world))
        };
        let mut cache = FdCache::default();
        for _ in 0..2 {
            let called = world.turn(&mut cache, find);
            let is_new = |record: &Arc<FdRecord>| Arc::ptr_eq(record, &world.new);
            assert!(
                !called.iter().any(is_new),
                "an event of the old file has reached the new one's handler"
            );
        }
        other.join().unwrap();
        // A file that lives on may be seen three times: the home remembers its handler until that is reaped, and one event
        // without a handler may have raced with a removal.
        for _ in 0..3 {
            assert!(world.turn(&mut cache, find).is_empty());
        }
        let mut events = [Event { events: 0, u64: 0 }; 4];
        assert_eq!(world.epoll.wait(&mut events, 0), 0, "the old file spins");
        assert_eq!(
            Arc::strong_count(&world.old),
            1,
            "the home keeps the old one"
        );
        world.new_file.write();
        let called = world.turn(&mut cache, find);
        assert!(matches!(&called[..], [record] if Arc::ptr_eq(record, &world.new)));
        world.old_file.read();
    });
}

#[test]
fn loom_a_number_that_is_closed_and_reused_belongs_to_its_new_handler() {
    check(
        |world| {
            world.remove_old();
            world.reuse();
            world.add_new();
        },
        by_token,
    );
}

/// The fd is closed first, so the kernel does not find what is to be removed.
#[test]
fn loom_a_file_that_outlives_its_number_is_found_out() {
    check(
        |world| {
            world.reuse();
            world.remove_old();
            world.add_new();
        },
        by_token,
    );
}

/// The model sees what generations are for.
#[test]
#[should_panic(expected = "an event of the old file has reached the new one's handler")]
fn loom_without_generations_an_event_reaches_the_wrong_handler() {
    check(
        |world| {
            world.remove_old();
            world.reuse();
            world.add_new();
        },
        by_number,
    );
}
