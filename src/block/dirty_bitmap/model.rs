//! A model of threads that use one bitmap: their steps, each an operation on a word, in the orders in which they can follow each other,
//! with three interruptions at most.
//!
//! The code is the real one. Each operation asks here for its turn, and one thread has it at a time. The orders of steps are all there
//! are, because the operations on words synchronise with each other as if they followed one another: each is atomic, and those that
//! change a word acquire and release.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::bits::DirtyBits;

thread_local! {
    static PLAYER: RefCell<Option<Player>> = const { RefCell::new(None) };
}

/// A thread of the model.
struct Player {
    number: usize,
    game: Arc<Game>,
}

/// Whose turn it is.
#[derive(Default)]
struct Game {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Default)]
struct Turns {
    /// The thread that makes its step now.
    turn: Option<usize>,
    /// Threads that wait for their turn.
    waiting: Vec<usize>,
    running: usize,
}

/// The thread is about to make a step; waits for its turn if there is a model.
pub(super) fn step() {
    PLAYER.with_borrow(|player| {
        let Some(Player { number, game }) = player else {
            return;
        };
        let mut turns = game.turns.lock().unwrap();
        turns.waiting.push(*number);
        turns.running -= 1;
        game.changed.notify_all();
        let is_other = |now: &mut Turns| now.turn != Some(*number);
        turns = game.changed.wait_while(turns, is_other).unwrap();
        turns.turn = None;
    });
}

/// What a thread does.
type Act<'a> = &'a (dyn Fn() + Sync);

/// Which thread makes the next step, as a number among those that wait. The thread that made the last step comes first.
#[derive(Debug)]
struct Choice {
    taken: usize,
    choices: usize,
    /// The thread that made the last step could go on.
    may_stay: bool,
}

/// Runs the threads in the order that `order` says, which it makes longer as far as needed.
fn play(acts: &[Act<'_>], order: &mut Vec<Choice>) {
    let game: Arc<Game> = Arc::default();
    game.turns.lock().unwrap().running = acts.len();
    thread::scope(|scope| {
        for (number, act) in acts.iter().enumerate() {
            let game = Arc::clone(&game);
            scope.spawn(move || {
                let player = Player {
                    number,
                    game: Arc::clone(&game),
                };
                PLAYER.set(Some(player));
                act();
                PLAYER.set(None);
                game.turns.lock().unwrap().running -= 1;
                game.changed.notify_all();
            });
        }
        direct(&game, order);
    });
}

fn direct(game: &Game, order: &mut Vec<Choice>) {
    let (mut at, mut last) = (0, 0);
    loop {
        let is_running = |turns: &mut Turns| turns.running > 0;
        let turns = game.turns.lock().unwrap();
        let mut turns = game.changed.wait_while(turns, is_running).unwrap();
        if turns.waiting.is_empty() {
            return order.truncate(at);
        }
        turns
            .waiting
            .sort_unstable_by_key(|&number| (number != last, number));
        if at == order.len() {
            order.push(Choice {
                taken: 0,
                choices: turns.waiting.len(),
                may_stay: turns.waiting[0] == last,
            });
        }
        last = turns.waiting.remove(order[at].taken);
        turns.turn = Some(last);
        turns.running += 1;
        at += 1;
        drop(turns);
        game.changed.notify_all();
    }
}

/// The next order of steps with at most `most` interruptions. False after the last one.
fn advance(order: &mut Vec<Choice>, most: usize) -> bool {
    let is_interrupted = |choice: &Choice| choice.may_stay && choice.taken > 0;
    while let Some(mut last) = order.pop() {
        last.taken += 1;
        let before = order.iter().filter(|choice| is_interrupted(choice)).count();
        if last.taken < last.choices && before + usize::from(is_interrupted(&last)) <= most {
            order.push(last);
            return true;
        }
    }
    false
}

/// Calls `run` with every order with at most `most` interruptions. Returns how many there are.
fn explore(most: usize, mut run: impl FnMut(&mut Vec<Choice>)) -> usize {
    let (mut order, mut orders) = (Vec::new(), 0);
    loop {
        run(&mut order);
        orders += 1;
        if !advance(&mut order, most) {
            return orders;
        }
    }
}

/// The data of a disk of few granules, by their numbers: how often each was written.
type Disk = Mutex<[u64; 200]>;

/// A guest's write: the data changes, then the bit is set. `early` sets the bit before instead.
fn write(disk: &Disk, bits: &DirtyBits, granule: usize, early: bool) {
    let at = granule as u64 * 512;
    if early {
        bits.set(at..at + 512);
    }
    step();
    disk.lock().unwrap()[granule] += 1;
    if !early {
        bits.set(at..at + 512);
    }
}

/// A copier takes one run and copies it.
fn copy(disk: &Disk, bits: &DirtyBits, target: &Disk) -> bool {
    let Some(run) = bits.take_run(0, u64::MAX) else {
        return false;
    };
    step();
    let data = disk.lock().unwrap();
    for at in run.step_by(512) {
        let granule = usize::try_from(at / 512).unwrap();
        target.lock().unwrap()[granule] = data[granule];
    }
    true
}

/// Threads write to these granules, one after the other, while another one copies a run. Returns the number of orders, and in how
/// many of them the copy is wrong when a last pass has copied all that is dirty.
fn writers_against_a_copier(writers: &[&[usize]], early: bool) -> (usize, usize) {
    let mut wrong = 0;
    let orders = explore(3, |order| {
        let bits = DirtyBits::new(200 * 512, 512).unwrap();
        bits.set(0..512);
        let (disk, target) = (Disk::new([0; 200]), Disk::new([0; 200]));
        let writing: Vec<_> = writers
            .iter()
            .map(|granules| {
                || {
                    for &granule in *granules {
                        write(&disk, &bits, granule, early);
                    }
                }
            })
            .collect();
        let copying = || {
            copy(&disk, &bits, &target);
        };
        let mut acts: Vec<Act<'_>> = vec![&copying];
        acts.extend(writing.iter().map(|act| act as Act<'_>));
        play(&acts, order);
        while copy(&disk, &bits, &target) {}
        wrong += usize::from(*disk.lock().unwrap() != *target.lock().unwrap());
        assert_eq!(bits.count(), 0, "{order:?}");
    });
    (orders, wrong)
}

#[test]
fn what_is_marked_after_it_was_written_is_copied() {
    // The same granule, the same word, the same word above, one that another writer makes dirty as well.
    for writers in [
        &[&[0_usize][..]][..],
        &[&[1]],
        &[&[100]],
        &[&[0, 100]],
        &[&[0], &[1]],
    ] {
        let (orders, wrong) = writers_against_a_copier(writers, false);
        assert!(
            orders > 20 && wrong == 0,
            "{writers:?}: {wrong} of {orders}"
        );
    }
}

#[test]
fn what_is_marked_before_it_is_written_is_not_always_copied() {
    let (_, wrong) = writers_against_a_copier(&[&[0]], true);
    assert!(wrong > 0);
}

/// As a copier that is idle does.
#[test]
fn whoever_waits_for_the_first_dirty_range_is_woken() {
    use crate::block::test_waker::{WakeCount, is_ready};
    let orders = explore(usize::MAX, |order| {
        let bits = DirtyBits::new(200 * 512, 512).unwrap();
        let wakes: Arc<WakeCount> = Arc::default();
        let was_ready = Mutex::new(false);
        let waiting = || *was_ready.lock().unwrap() = is_ready(&mut bits.dirtied(), &wakes);
        play(&[&waiting, &|| bits.set(0..512)], order);
        assert!(*was_ready.lock().unwrap() || wakes.get() > 0, "{order:?}");
        assert!(is_ready(&mut bits.dirtied(), &wakes));
    });
    assert!(orders > 5);
}
