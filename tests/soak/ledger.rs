//! The books of a soak: what was begun must end once, on a thread that may end it, and what was asked must be seen.
#![forbid(unsafe_code)]

use crate::watchdog;
use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

/// What a callback belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Handler,
    BottomHalf,
    Timer,
    OneShot,
    Task,
    Job,
    Source,
}

const KINDS: [Kind; 7] = [
    Kind::Handler,
    Kind::BottomHalf,
    Kind::Timer,
    Kind::OneShot,
    Kind::Task,
    Kind::Job,
    Kind::Source,
];

#[derive(Default)]
struct Row {
    begun: AtomicU64,
    calls: AtomicU64,
    ended: AtomicU64,
}

/// The sums.
#[derive(Default)]
pub struct Ledger {
    rows: [Row; KINDS.len()],
    pub moves: AtomicU64,
    /// Handlers that were called and found no signal.
    pub vain: AtomicU64,
    homes: OnceLock<Vec<u64>>,
}

/// A number for the calling thread, never 0.
pub fn me() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local!(static ME: Cell<u64> = const { Cell::new(0) });
    if ME.get() == 0 {
        ME.set(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    ME.get()
}

impl Ledger {
    fn row(&self, kind: Kind) -> &Row {
        &self.rows[kind as usize]
    }

    /// Tells which threads run the contexts.
    pub fn set_homes(&self, homes: Vec<u64>) {
        self.homes.set(homes).expect("set once");
    }

    fn is_home(&self, pinned: Option<usize>, thread: u64) -> bool {
        let homes = self.homes.get().expect("set before the actors start");
        pinned.map_or_else(|| homes.contains(&thread), |index| homes[index] == thread)
    }

    /// Everything that was begun has ended.
    pub fn check_closed(&self) {
        for kind in KINDS {
            let row = self.row(kind);
            assert_eq!(
                row.begun.load(Ordering::SeqCst),
                row.ended.load(Ordering::SeqCst),
                "{kind:?}: callbacks made and destroyed"
            );
        }
    }

    /// The sums as a table.
    pub fn table(&self) -> String {
        let mut table = String::from("kind          made      calls     destroyed\n");
        for kind in KINDS {
            let row = self.row(kind);
            let [begun, calls, ended] =
                [&row.begun, &row.calls, &row.ended].map(|sum| sum.load(Ordering::SeqCst));
            let name = format!("{kind:?}");
            writeln!(table, "{name:<10} {begun:>9} {calls:>9} {ended:>9}").expect("a string");
        }
        let (moves, vain) = (&self.moves, &self.vain);
        write!(table, "moves {moves:?}, calls in vain {vain:?}").expect("a string");
        table
    }
}

/// Where callbacks run: on the home of one context, or on whichever home has the AioContext.
pub struct Spot {
    pub ledger: Arc<Ledger>,
    pinned: Option<usize>,
    /// A thread besides the homes that drives it for a while; 0 for none.
    driver: AtomicU64,
    /// The thread that is in a callback; 0 for none.
    inside: AtomicU64,
}

impl Spot {
    pub fn new(ledger: &Arc<Ledger>, pinned: Option<usize>) -> Arc<Spot> {
        Arc::new(Spot {
            ledger: Arc::clone(ledger),
            pinned,
            driver: AtomicU64::new(0),
            inside: AtomicU64::new(0),
        })
    }

    /// The calling thread may drive, too.
    pub fn let_me_drive(&self) {
        self.driver.store(me(), Ordering::SeqCst);
    }

    /// The calling thread may drive while `work` runs.
    pub fn driven_here(&self, work: impl FnOnce()) {
        self.let_me_drive();
        work();
        self.driver.store(0, Ordering::SeqCst);
    }

    /// Runs what belongs here: on a thread that may, and on one at a time.
    fn enter<T>(&self, what: &str, kind: Kind, work: impl FnOnce() -> T) -> T {
        let thread = me();
        let may = self.ledger.is_home(self.pinned, thread)
            || self.driver.load(Ordering::SeqCst) == thread;
        if !may {
            watchdog::fail(&format!(
                "{what} of a {kind:?} on a thread that is not its home"
            ));
        }
        let outer = self.inside.swap(thread, Ordering::SeqCst);
        if outer != 0 && outer != thread {
            watchdog::fail(&format!(
                "{what} of a {kind:?} while another thread is in a callback"
            ));
        }
        let result = work();
        self.inside.store(outer, Ordering::SeqCst);
        result
    }
}

/// What one actor asks of one callback, and what the callback has seen of it.
pub struct Account {
    asked: AtomicU64,
    seen: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    actor: Thread,
}

impl Account {
    /// An account of the calling thread's.
    pub fn open() -> Arc<Account> {
        Arc::new(Account {
            asked: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            actor: std::thread::current(),
        })
    }

    /// Comes before what makes the callback run.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The callback runs: it answers everything asked until now.
    pub fn see(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        self.seen.fetch_max(asked, Ordering::SeqCst);
        self.actor.unpark();
    }

    /// What was asked was taken back.
    pub fn forgive(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        self.seen.fetch_max(asked, Ordering::SeqCst);
    }

    pub fn is_settled(&self) -> bool {
        self.seen.load(Ordering::SeqCst) >= self.asked.load(Ordering::SeqCst)
    }

    /// True when every callback of this account has been destroyed.
    pub fn is_buried(&self) -> bool {
        self.ended.load(Ordering::SeqCst) == self.begun.load(Ordering::SeqCst)
    }
}

/// Lives in a callback. Its drop is the callback's destroy notify.
pub struct Token {
    kind: Kind,
    spot: Arc<Spot>,
    account: Arc<Account>,
}

impl Token {
    pub fn new(kind: Kind, spot: &Arc<Spot>, account: &Arc<Account>) -> Token {
        spot.ledger.row(kind).begun.fetch_add(1, Ordering::SeqCst);
        account.begun.fetch_add(1, Ordering::SeqCst);
        Token {
            kind,
            spot: Arc::clone(spot),
            account: Arc::clone(account),
        }
    }

    /// The body of a callback.
    pub fn call<T>(&self, work: impl FnOnce(&Account) -> T) -> T {
        let row = self.spot.ledger.row(self.kind);
        row.calls.fetch_add(1, Ordering::SeqCst);
        self.spot.enter("call", self.kind, || work(&self.account))
    }

    /// The body of a callback that answers.
    pub fn answer(&self) {
        self.call(Account::see);
    }

    /// The callback was called and there was nothing to do.
    pub fn in_vain(&self) {
        self.spot.ledger.vain.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.spot.enter("destructor", self.kind, || {
            let row = self.spot.ledger.row(self.kind);
            row.ended.fetch_add(1, Ordering::SeqCst);
        });
        self.account.ended.fetch_add(1, Ordering::SeqCst);
        self.account.actor.unpark();
    }
}
