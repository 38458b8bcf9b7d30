//! One of the threads that add, change and remove things at full speed.
#![forbid(unsafe_code)]

use crate::dice::Dice;
use crate::ledger::{Account, Kind, Spot, Token};
use crate::prop::Prop;
use crate::stage::{CONTEXTS, Place, Stage};
use crate::watchdog::Log;
use qcontext::{AioContext, Clock, Wait, start_virtual_clock, stop_virtual_clock};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// So many props at most.
const PROPS: usize = 24;
/// So many accounts of removed things at most, before their end is waited for.
const GRAVES: usize = 64;

pub struct Actor {
    stage: Arc<Stage>,
    log: Arc<Log>,
    dice: Dice,
    /// The one who may stop the virtual clock.
    is_first: bool,
    props: Vec<Prop>,
    /// Accounts of what was removed, or runs once.
    leaving: Vec<(String, Arc<Account>)>,
}

impl Actor {
    pub fn new(stage: &Arc<Stage>, seed: u64, index: usize) -> Actor {
        Actor {
            stage: Arc::clone(stage),
            log: Log::new(),
            dice: Dice::new(seed + index as u64),
            is_first: index == 0,
            props: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Plays until the stage is over, then sees everything to its end. The number of acts.
    pub fn play(mut self) -> u64 {
        let mut acts = 0;
        while !self.stage.is_over() {
            self.act();
            acts += 1;
        }
        for prop in std::mem::take(&mut self.props) {
            self.await_settled(&prop);
            self.leave(prop.name(), prop.remove());
        }
        self.bury();
        acts
    }

    fn act(&mut self) {
        match self.dice.below(100) {
            0..10 => self.add(),
            10..50 => self.stir(),
            50..60 => self.change(),
            60..68 => self.remove(),
            68..76 => self.settle_one(),
            76..84 => self.once(),
            84..87 => self.task(),
            87..89 => self.job(),
            89..91 => self.foreign_source(),
            91..93 => self.invoke(),
            93..95 => self.come_and_go(),
            95..99 => self.move_one(),
            _ => self.stop_clock(),
        }
        if self.leaving.len() > GRAVES {
            self.bury();
        }
    }

    fn step(&self, what: &'static str, place: &Place) {
        self.log.step(what, || place.name.clone());
    }

    fn place(&mut self) -> Arc<Place> {
        let index = self.dice.below(self.stage.places.len());
        Arc::clone(&self.stage.places[index])
    }

    fn any_prop(&mut self) -> Option<usize> {
        (!self.props.is_empty()).then(|| self.dice.below(self.props.len()))
    }

    fn add(&mut self) {
        if self.props.len() < PROPS {
            let place = self.place();
            self.step("adds to", &place);
            self.props.push(Prop::new(&place, &mut self.dice));
        }
    }

    fn stir(&mut self) {
        if let Some(index) = self.any_prop() {
            self.log.step("stirs", || self.props[index].name());
            self.props[index].stir(&mut self.dice);
        }
    }

    fn change(&mut self) {
        if let Some(index) = self.any_prop() {
            self.log.step("changes", || self.props[index].name());
            self.props[index].change();
        }
    }

    /// As it is, or after it has come to rest.
    fn remove(&mut self) {
        if let Some(index) = self.any_prop() {
            let prop = self.props.swap_remove(index);
            if self.dice.below(2) == 0 {
                self.await_settled(&prop);
            }
            self.log.step("removes", || prop.name());
            self.leave(prop.name(), prop.remove());
        }
    }

    fn settle_one(&mut self) {
        if let Some(index) = self.any_prop() {
            self.await_settled(&self.props[index]);
        }
    }

    fn await_settled(&self, prop: &Prop) {
        self.log.step("waits for the", || prop.name());
        self.park_until(|| prop.is_settled());
    }

    /// Every callback calls `unpark`, so this is no polling.
    fn park_until(&self, done: impl Fn() -> bool) {
        while !done() {
            std::thread::park();
        }
    }

    /// Waits until what was removed is destroyed, and what runs once has.
    fn bury(&mut self) {
        for (name, account) in std::mem::take(&mut self.leaving) {
            self.log.step("waits for the destructor of", || name);
            self.park_until(|| account.is_buried());
        }
    }

    fn once(&mut self) {
        let place = self.place();
        self.step("schedules a one-shot on", &place);
        let (token, account) = self.token(Kind::OneShot, &place.spot);
        account.ask();
        place.aio.schedule_oneshot("soak", move || token.answer());
        self.leave(format!("one-shot of {}", place.name), account);
    }

    /// A token with an account of its own.
    fn token(&self, kind: Kind, spot: &Arc<Spot>) -> (Token, Arc<Account>) {
        let account = Account::open();
        (Token::new(kind, spot, &account), account)
    }

    fn leave(&mut self, name: String, account: Arc<Account>) {
        self.leaving.push((name, account));
    }

    /// Tasks bind an AioContext to its thread, so only where nothing moves.
    fn task(&mut self) {
        let place = self.place();
        if place.is_mobile() {
            return;
        }
        self.step("spawns on", &place);
        let (token, account) = self.token(Kind::Task, &place.spot);
        let (sleeper, delay) = (place.aio.clone(), self.dice.below_i64(100_000));
        let task = place.aio.spawn(move || async move {
            sleeper.sleep_ns(Clock::Realtime, delay).await;
            token.answer();
        });
        task.detach();
        self.leave(format!("task of {}", place.name), account);
    }

    fn job(&mut self) {
        let place = self.place();
        self.step("submits a job to", &place);
        let (token, account) = self.token(Kind::Job, &place.spot);
        let _ = place.aio.submit(
            || (),
            move |result| {
                result.expect("the job runs");
                token.answer();
            },
        );
        self.leave(format!("job of {}", place.name), account);
    }

    fn foreign_source(&mut self) {
        let index = self.dice.below(CONTEXTS);
        let context = &self.stage.contexts[index];
        self.log
            .step("attaches a GSource to", || context.id().to_owned());
        let (token, account) = self.token(Kind::Source, &self.stage.places[2 * index].spot);
        let source = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
            token.answer();
            glib::ControlFlow::Break
        });
        context.attach_source(&source, None).unwrap();
        self.leave(format!("GSource {index}"), account);
    }

    fn invoke(&mut self) {
        let index = self.dice.below(CONTEXTS);
        let context = &self.stage.contexts[index];
        self.log
            .step("waits for invoke_sync on", || context.id().to_owned());
        assert_eq!(context.invoke_sync(move || index).unwrap(), index);
    }

    /// An AioContext for a moment, which goes with things undone.
    fn come_and_go(&mut self) {
        let index = self.dice.below(CONTEXTS);
        let context = &self.stage.contexts[index];
        self.log
            .step("comes and goes on", || context.id().to_owned());
        let aio = AioContext::new().unwrap();
        context.attach(&aio, None).unwrap();
        // Detached, it ends with its last handle, which may be ours or the home's.
        let spot = Spot::new(&self.stage.ledger, Some(index));
        spot.let_me_drive();
        let (once, once_account) = self.token(Kind::OneShot, &spot);
        let (bottom_half, bh_account) = self.token(Kind::BottomHalf, &spot);
        let (alarm, timer_account) = self.token(Kind::Timer, &spot);
        aio.schedule_oneshot("soak", move || once.answer());
        let bh = aio.bh("soak", move || bottom_half.answer());
        bh.schedule();
        let timer = aio.timer(Clock::Realtime, move || alarm.answer());
        timer.arm_in_ns(self.dice.below_i64(50_000));
        context.detach(&aio);
        if self.dice.below(2) == 0 {
            context.detach_sync(&aio).unwrap();
        }
        if self.dice.below(2) == 0 {
            drop((bh, timer, aio));
        } else {
            drop((aio, timer, bh));
        }
        self.leave("one-shot of a guest".into(), once_account);
        self.leave("bottom half of a guest".into(), bh_account);
        self.leave("timer of a guest".into(), timer_account);
    }

    /// Another context takes a mobile AioContext over, while everybody uses it.
    fn move_one(&mut self) {
        let place = self.place();
        let Some(mut at) = place.take() else { return };
        let from = &self.stage.contexts[*at];
        *at = self.dice.below(CONTEXTS);
        let to = &self.stage.contexts[*at];
        match self.dice.below(3) {
            0 => {
                self.step("detaches and waits for", &place);
                from.detach_sync(&place.aio).unwrap();
            }
            1 => {
                self.step("detaches", &place);
                from.detach(&place.aio);
                from.invoke_sync(|| ()).unwrap();
            }
            _ => {
                self.step("detaches and drives", &place);
                from.detach_sync(&place.aio).unwrap();
                place.spot.driven_here(|| {
                    place.aio.poll(Wait::NoBlock).unwrap();
                    place.aio.poll(Wait::NoBlock).unwrap();
                });
            }
        }
        self.step("attaches", &place);
        to.attach(&place.aio, None).unwrap();
        drop(at);
        self.stage.ledger.moves.fetch_add(1, Ordering::SeqCst);
    }

    fn stop_clock(&mut self) {
        if self.is_first {
            self.log.step("stops the virtual clock", String::new);
            stop_virtual_clock();
            std::thread::yield_now();
            start_virtual_clock();
        }
    }
}
