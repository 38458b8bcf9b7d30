//! What an actor plays with: a bottom half, a timer, or a notifier with its handler, each with an account.
#![forbid(unsafe_code)]

use crate::dice::Dice;
use crate::ledger::{Account, Kind, Token};
use crate::stage::Place;
use crate::watchdog;
use qcontext::{Bh, Clock, EventNotifier, FdHandler, Timer};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// How a notifier's handler learns of signals.
#[derive(Clone, Copy)]
enum Way {
    /// It takes the signal.
    Level,
    /// It never reads: a kick fd.
    Edge,
    /// A kick fd whose notifications are off while the home polls.
    Polled,
}

enum Toy {
    Bh(Bh),
    Timer(Timer, Clock, Arc<AtomicI64>),
    Notifier(Notifier, Way),
}

struct Notifier {
    /// What is watched. The callbacks have a duplicate, so the file lives on when this is closed.
    event: EventNotifier,
    /// The current handler asks for no notifications.
    silent: Arc<AtomicBool>,
}

pub struct Prop {
    pub place: Arc<Place>,
    account: Arc<Account>,
    toy: Toy,
}

impl Prop {
    pub fn new(place: &Arc<Place>, dice: &mut Dice) -> Prop {
        let account = Account::open();
        let token = |kind| Token::new(kind, &place.spot, &account);
        let toy = match dice.below(6) {
            0 => {
                let token = token(Kind::BottomHalf);
                Toy::Bh(place.aio.bh("soak", move || token.answer()))
            }
            1 | 2 => timer(place, token(Kind::Timer), dice),
            3 => notifier(place, &account, Way::Level),
            4 => notifier(place, &account, Way::Edge),
            _ => notifier(place, &account, Way::Polled),
        };
        Prop {
            place: Arc::clone(place),
            account,
            toy,
        }
    }

    pub fn name(&self) -> String {
        let toy = match &self.toy {
            Toy::Bh(_) => "bottom half",
            Toy::Timer(..) => "timer",
            Toy::Notifier(_, Way::Level) => "notifier",
            Toy::Notifier(_, Way::Edge) => "kick fd",
            Toy::Notifier(_, Way::Polled) => "polled kick fd",
        };
        format!("{toy} of {}", self.place.name)
    }

    /// Makes the callback run at least once more.
    pub fn stir(&self, dice: &mut Dice) {
        match &self.toy {
            Toy::Bh(bh) => {
                self.account.ask();
                if dice.below(4) == 0 {
                    bh.schedule_idle();
                } else {
                    bh.schedule();
                }
            }
            Toy::Timer(timer, clock, earliest) => {
                let deadline = clock.now_ns() + dice.below_i64(300_000);
                // Never raised: a call that an earlier arming has caused may still be on its way.
                earliest.fetch_min(deadline, Ordering::SeqCst);
                self.account.ask();
                timer.arm_at_ns(deadline);
            }
            Toy::Notifier(notifier, _) => {
                self.account.ask();
                notifier.kick();
            }
        }
    }

    /// Takes back what was asked, or lets another handler answer it.
    pub fn change(&mut self) {
        match &mut self.toy {
            Toy::Bh(bh) => {
                bh.cancel();
                self.account.forgive();
            }
            Toy::Timer(timer, ..) => {
                timer.cancel();
                self.account.forgive();
            }
            Toy::Notifier(notifier, way) => notifier.watch(&self.place, &self.account, *way),
        }
    }

    /// True when everything asked was answered.
    pub fn is_settled(&self) -> bool {
        self.account.is_settled()
    }

    /// Deletes it; the account tells when its callbacks are destroyed.
    pub fn remove(self) -> Arc<Account> {
        if let Toy::Notifier(notifier, _) = &self.toy {
            let watched = self.place.aio.remove_fd_handler(notifier.event.as_raw_fd());
            assert!(watched, "the handler was there until now");
        }
        // Here the number of a notifier's fd becomes free, readable as the file may be.
        drop(self.toy);
        self.account
    }
}

fn timer(place: &Place, token: Token, dice: &mut Dice) -> Toy {
    let clocks = [
        Clock::Realtime,
        Clock::Virtual,
        Clock::VirtualRt,
        Clock::Host,
    ];
    let clock = clocks[dice.below(clocks.len())];
    let earliest = Arc::new(AtomicI64::new(i64::MAX));
    let bound = Arc::clone(&earliest);
    let fire = move || {
        token.call(|account| {
            // The wall clock may be set back.
            let early = clock.now_ns() < bound.load(Ordering::SeqCst);
            if early && clock != Clock::Host {
                watchdog::fail(&format!("a timer of {clock:?} has fired before its time"));
            }
            account.see();
        });
    };
    Toy::Timer(place.aio.timer(clock, fire), clock, earliest)
}

fn notifier(place: &Place, account: &Arc<Account>, way: Way) -> Toy {
    let mut notifier = Notifier {
        event: EventNotifier::new().unwrap(),
        silent: Arc::default(),
    };
    notifier.watch(place, account, way);
    Toy::Notifier(notifier, way)
}

impl Notifier {
    /// Signals, unless the handler polls.
    fn kick(&self) {
        if !self.silent.load(Ordering::SeqCst) {
            self.event.signal();
        }
    }

    /// Sets a handler, in place of an earlier one.
    fn watch(&mut self, place: &Place, account: &Arc<Account>, way: Way) {
        let token = Token::new(Kind::Handler, &place.spot, account);
        self.silent = Arc::default();
        let handler = match way {
            Way::Level => self.level(token),
            Way::Edge => FdHandler::new()
                .edge_triggered()
                .on_read(move || token.answer()),
            Way::Polled => self.polled(token, Arc::clone(account)),
        };
        let fd = self.event.as_raw_fd();
        place.aio.set_fd_handler(fd, handler).unwrap();
        if matches!(way, Way::Polled) {
            // Who takes over a queue kicks it once: the last one may have been polling.
            self.event.signal();
        }
    }

    fn level(&self, token: Token) -> FdHandler {
        let event = self.event.as_fd().try_clone_to_owned().unwrap();
        let event = EventNotifier::from_fd(event);
        FdHandler::new().on_read(move || {
            if event.take() {
                token.answer();
            } else {
                token.in_vain();
            }
        })
    }

    fn polled(&self, token: Token, account: Arc<Account>) -> FdHandler {
        let token = Arc::new(token);
        let ready = Arc::clone(&token);
        let silent = Arc::clone(&self.silent);
        FdHandler::new()
            .edge_triggered()
            .on_read(move || token.answer())
            .io_poll(move || !account.is_settled(), move || ready.answer())
            .io_poll_switch(move |polling| silent.store(polling, Ordering::SeqCst))
    }
}
